"""Divide rows among shards, and name each shard by a hash of everything it is built from."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import IndexSet, fingerprint
from retrieval_core.artifacts.mapped_rows import batches_at, mapped
from retrieval_core.artifacts.parts import name_of_content
from retrieval_core.errors import ShardCorrupt
from retrieval_core.index.recipes import shard_of
from retrieval_core.store.base import Store

TEMPLATES = f"{IndexSet.folder}/templates/"
TEMPLATE_FILE = "template.faiss"


def template_key(template: str) -> str:
    """Return the store key of a trained empty index, which every shard of a version starts from."""
    return f"{TEMPLATES}{template}/{TEMPLATE_FILE}"


def read_template(store: Store, template: str) -> bytes:
    """Return a trained empty index. Raises `NotFound`, and `ShardCorrupt` where it is not what it is named after."""
    data = store.get(template_key(template))
    if template_name(template.partition("/")[0], data) != template:
        raise ShardCorrupt(f"{store.url}/{template_key(template)} is not what was written; `vitrine repair`")
    return data


def template_name(question: str, data: bytes) -> str:
    """Return the name of a trained empty index: of what it was trained on, and of its content."""
    return f"{question}/{name_of_content({TEMPLATE_FILE: hashlib.sha256(data).hexdigest()})}"


def split_rows(rows: pl.DataFrame, n_shards: int) -> list[pl.DataFrame]:
    """Return the `rows` (row_id, content_id) of each of `n_shards` shards, mapped, by row id; a shard may be empty."""
    row_ids = rows["row_id"].to_numpy()
    shard = shard_of(row_ids, n_shards)
    ordered = mapped(batches_at(rows, np.lexsort((row_ids, shard))))
    ends = np.cumsum(np.bincount(shard, minlength=n_shards)).tolist()
    return [ordered[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def name_shard(rows: pl.DataFrame, parents: list[str]) -> str:
    """Return the fingerprint of a shard; `parents` are the names of its template and of the families of its vectors.

    A shard whose rows and pictures did not change keeps its name, so it exists already.
    """
    digest = hashlib.sha256(rows["row_id"].to_numpy().astype("<i8").tobytes())
    digest.update(rows["content_id"].str.join("\n").item().encode())
    return fingerprint("shard", STAGE_VERSIONS["index"], digest.hexdigest(), parents)


def rows_to_change(previous: pl.DataFrame, current: pl.DataFrame) -> tuple[Int64, pl.DataFrame]:
    """Return the row ids to remove from the `previous` rows (row_id, content_id) and the rows to add for `current`.

    A row with another picture is in both. Both are sorted by row id.
    """
    key = ["row_id", "content_id"]
    removed = previous.join(current, on=key, how="anti")["row_id"].sort().to_numpy()
    return removed.astype(np.int64), current.join(previous, on=key, how="anti").sort("row_id")
