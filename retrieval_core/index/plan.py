"""Which rows go to which shard, and the name of each shard: a hash of all that goes into it."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import IndexSet, fingerprint
from retrieval_core.index.recipes import shard_of

TEMPLATES = f"{IndexSet.folder}/templates/"


def template_key(template: str) -> str:
    """Return the store key of a trained empty index, which every shard of a version starts from."""
    return f"{TEMPLATES}{template}.faiss"


def split_rows(rows: pl.DataFrame, n_shards: int) -> list[pl.DataFrame]:
    """`rows` (row_id, content_id) of each of `n_shards` shards, ordered by row id; a shard may be empty."""
    shard = pl.Series(shard_of(rows["row_id"].to_numpy(), n_shards), dtype=pl.Int64)
    ordered = rows.with_columns(shard=shard).sort("row_id")
    return [ordered.filter(pl.col("shard") == number).drop("shard") for number in range(n_shards)]


def name_shard(rows: pl.DataFrame, made_by: list[str]) -> str:
    """The fingerprint of a shard of these rows; `made_by` names the template and the families of its vectors.

    A shard whose rows and pictures did not change has the name it had, and exists already.
    """
    digest = hashlib.sha256(rows["row_id"].to_numpy().astype("<i8").tobytes())
    digest.update(rows["content_id"].str.join("\n").item().encode())
    return fingerprint("shard", STAGE_VERSIONS["index"], digest.hexdigest(), made_by)


def rows_to_change(before: pl.DataFrame, now: pl.DataFrame) -> tuple[Int64, pl.DataFrame]:
    """What makes the rows `now` (row_id, content_id) of the rows `before`: ids to take out, and rows to put in.

    A row that shows another picture is in both. Both are ordered by row id.
    """
    key = ["row_id", "content_id"]
    removed = before.join(now, on=key, how="anti")["row_id"].sort().to_numpy()
    return removed.astype(np.int64), now.join(before, on=key, how="anti").sort("row_id")
