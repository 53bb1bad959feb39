"""Content-addressed sets that grow from run to run: plan what is missing, and seal the view that covers a catalogue.

The parts of a family are stored in `<folder>/<family>/parts/`, each named after what it was made of and its own
checksum. A part counts as soon as its file exists, even if the run that wrote it was killed before it sealed a view.
Sealing a view merges small parts into larger ones. The small ones stay until a vacuum, as other runs may read them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.compaction import merge_tables, pieces_of, plan_merges, short_name, transform_by_piece
from retrieval_core.artifacts.manifests import ClassSet, GrowingSet, MaskSet, Part, VectorSet, fingerprint
from retrieval_core.artifacts.mapped_rows import MissingIds, batches_at, mapped, sorted_by
from retrieval_core.artifacts.parts import (
    MaskRow,
    encode_part,
    put_part,
    read_id_column,
    read_masks,
    read_vectors,
    vectors_bytes,
)
from retrieval_core.artifacts.variants import Variant
from retrieval_core.errors import ShardCorrupt
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

View = TypeVar("View", MaskSet, ClassSet)
Transform = Callable[[Float32], Float32]  # (n, dim of the source) to (n, dim)

_PART = re.compile(r".+/parts/(?P<name>[^/-]+)-(?P<sha256>[0-9a-f]{64})\.(?:parquet|tar|jpg)")


class StoredPart(NamedTuple):
    """A part of a family and the content ids of its rows."""

    part: Part
    content_ids: pl.Series


def put_growing_part(store: Store, folder: str, family: str, name: str, data: bytes, n_rows: int) -> Part:
    """Store a part of a family under a name without dashes, which tells what it was made of, and its own checksum."""
    return put_part(
        store, f"{parts_prefix(folder, family)}{name}-{hashlib.sha256(data).hexdigest()}.parquet", data, n_rows
    )


def named_sha256(key: str) -> str | None:
    """Return the sha256 (hex) that the key of a part of a family states, None for any other key."""
    match = _PART.fullmatch(key)
    return match["sha256"] if match else None


def made_of(key: str) -> str:
    """Return what the key of a part of a family says that it was made of."""
    match = _PART.fullmatch(key)
    return match["name"] if match else ""


def stored_parts_of(store: Store, folder: str, family: str) -> list[StoredPart]:
    """Return every intact part of a family, the largest first, except those whose rows a merged part has too.

    A damaged part counts as absent and is made again.
    """
    stored: list[StoredPart] = []
    replaced: set[str] = set()
    # A merged part is larger than what it replaces, which is then not even read.
    for entry in sorted(store.entries(parts_prefix(folder, family)), key=lambda e: (-e.size_bytes, e.key)):
        sha256 = named_sha256(entry.key)
        if sha256 is None or entry.key.endswith(".tar") or short_name(sha256) in replaced:
            continue
        try:
            path = store.local_path(entry.key, sha256)
            ids, pieces = read_id_column(path), pieces_of(path)
        except ShardCorrupt as error:
            log.warning("%s; it is made again", error)
            continue
        if pieces:
            replaced |= pieces.replaced
        part = Part(key=entry.key, sha256=sha256, n_rows=len(ids), n_bytes=entry.size_bytes)
        stored.append(StoredPart(part, ids))
    return [part for part in stored if short_name(part.part.sha256) not in replaced]


def stored_masks(store: Store, family: str, content_ids: Collection[str]) -> dict[str, MaskRow]:
    """Return those masks of these content ids that a family has, sealed or not. Raises `ShardCorrupt`."""
    if not content_ids:
        return {}
    parts, _ = _cover(stored_parts_of(store, MaskSet.folder, family), _column(content_ids))
    return read_masks(store, MaskSet(fingerprint=family, family=family, parts=parts), content_ids)


def seal_vectors(
    store: Store, family: str, variant: Variant, dim: int, catalog_fingerprint: str, wanted: Iterable[str]
) -> VectorSet:
    """Seal the view of a family that covers as many of the `wanted` content ids as exist."""
    parts, n_rows = parts_covering(store, VectorSet, family, _column(wanted))
    return VectorSet(
        fingerprint=view_fingerprint(family, catalog_fingerprint, parts),
        family=family,
        variant=variant,
        dim=dim,
        parts=parts,
        parents={"catalog": catalog_fingerprint},
        counts={"rows": n_rows},
    ).seal(store)


def seal_view(store: Store, kind: type[View], family: str, catalog_fingerprint: str, wanted: Iterable[str]) -> View:
    """Seal the view of a family of masks or classes that covers as many of the `wanted` content ids as exist."""
    parts, n_rows = parts_covering(store, kind, family, _column(wanted))
    return kind(
        fingerprint=view_fingerprint(family, catalog_fingerprint, parts),
        family=family,
        parts=parts,
        parents={"catalog": catalog_fingerprint},
        counts={"rows": n_rows},
    ).seal(store)


def derived_name(source: Part) -> str:
    """Return the name of the part that is derived from another."""
    return short_name(source.sha256)


def derived_bytes(source: Path, transforms: Iterable[Transform]) -> Iterator[bytes]:
    """Yield the part that each of `transforms` makes of a local vector part, which is read once.

    A merged part is transformed piece by piece: the last bits of a matrix product depend on the size of the batch.
    """
    (ids, vectors), pieces = read_vectors(source), pieces_of(source)
    for transform in transforms:
        yield vectors_bytes(ids, transform_by_piece(transform, vectors, pieces), pieces)


def indexable_items(store: Store, items: pl.DataFrame, vectors: VectorSet) -> pl.DataFrame:
    """Return the rows of a catalogue that are not quarantined and have a vector, ordered by item id; mapped."""
    usable = (items["status"] == "ok").arg_true()
    missing = MissingIds(items["content_id"].gather(usable))
    for part in vectors.parts:
        missing.take(read_id_column(store.local_path(part.key, part.sha256)))
    rows = usable.to_numpy()[~missing.is_missing].astype(np.int64)
    return sorted_by(items if len(rows) == len(items) else mapped(batches_at(items, rows)), "item_id")


def sample_vectors(store: Store, vectors: VectorSet, n_rows: int, seed: int) -> Iterator[Float32]:
    """Draw at most `n_rows` rows of a set without repetition; yield them part by part, (n, dim)."""
    total = sum(part.n_rows for part in vectors.parts)
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:n_rows])
    start = 0
    for part in vectors.parts:
        rows = chosen[(chosen >= start) & (chosen < start + part.n_rows)] - start
        start += part.n_rows
        if len(rows):
            yield read_vectors(store.local_path(part.key, part.sha256))[1][rows]


def view_fingerprint(family: str, catalog_fingerprint: str, parts: Iterable[Part]) -> str:
    """Return the fingerprint of the view of a family that these parts make for a catalogue."""
    return fingerprint("view", 1, [part.key for part in parts], [family, catalog_fingerprint])


def parts_covering(
    store: Store, kind: type[GrowingSet], family: str, wanted: pl.Series
) -> tuple[tuple[Part, ...], int]:
    """Return the parts of a family that cover `wanted`, and how many ids they cover; small parts are merged first."""
    parts, n_rows = _cover(stored_parts_of(store, kind.folder, family), wanted)
    merges = plan_merges(parts)
    for group in merges:
        table = merge_tables({part.sha256: store.local_path(part.key, part.sha256) for part in group})
        put_growing_part(store, kind.folder, family, "merged", encode_part(table), len(table))
    return _cover(stored_parts_of(store, kind.folder, family), wanted) if merges else (parts, n_rows)


def _cover(stored: Iterable[StoredPart], wanted: pl.Series) -> tuple[tuple[Part, ...], int]:
    missing = MissingIds(wanted.unique())
    parts = [part for part, content_ids in stored if len(missing.take(content_ids)[0])]
    return tuple(parts), int((~missing.is_missing).sum())


def _column(content_ids: Iterable[str]) -> pl.Series:
    given = content_ids if isinstance(content_ids, pl.Series) else list(content_ids)
    return pl.Series("content_id", given, pl.String)


def parts_prefix(folder: str, family: str) -> str:
    """Return what the keys of all parts of a family start with."""
    return f"{folder}/{family}/parts/"
