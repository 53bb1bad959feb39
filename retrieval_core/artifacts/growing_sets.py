"""Content-addressed sets that grow from run to run: plan what is missing, and seal the view that covers a catalogue.

The parts of a family are stored in `<folder>/<family>/parts/`, each named after the ids it was planned for. A part
counts as soon as its file exists, even if the run that wrote it was killed before it sealed a view.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.manifests import (
    MANIFEST,
    ClassSet,
    GrowingSet,
    MaskSet,
    Part,
    Ref,
    VectorSet,
    fingerprint,
)
from retrieval_core.artifacts.parts import (
    MissingIds,
    describe_part,
    put_part,
    read_id_column,
    read_ids,
    read_vectors,
    vectors_bytes,
)
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.errors import ShardCorrupt
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

View = TypeVar("View", MaskSet, ClassSet)


def part_key(folder: str, family: str, name: str) -> str:
    """Return the store key of a part of a family."""
    return f"{folder}/{family}/parts/{name}.parquet"


def covered_ids(store: Store, folder: str, family: str) -> dict[str, list[str]]:
    """Return the content ids of every part by its key; an unreadable part counts as absent and is made again."""
    covered = {}
    for key in store.list(f"{folder}/{family}/parts/"):
        try:
            covered[key] = read_ids(store.local_path(key))
        except ShardCorrupt as error:
            log.warning("%s; it is made again", error)
    return covered


def seal_vectors(
    store: Store, family: str, variant: Variant, dim: int, catalog_fingerprint: str, wanted: Iterable[str]
) -> VectorSet:
    """Seal the view of a family that covers as many of the `wanted` content ids as exist."""
    parts, n_rows = _parts_covering(store, VectorSet, family, set(wanted))
    return VectorSet(
        fingerprint=_view_fingerprint(family, catalog_fingerprint, parts),
        family=family,
        variant=variant,
        dim=dim,
        parts=parts,
        parents={"catalog": catalog_fingerprint},
        counts={"rows": n_rows},
    ).seal(store)


def seal_view(store: Store, kind: type[View], family: str, catalog_fingerprint: str, wanted: Iterable[str]) -> View:
    """Seal the view of a family of masks or classes that covers as many of the `wanted` content ids as exist."""
    parts, n_rows = _parts_covering(store, kind, family, set(wanted))
    return kind(
        fingerprint=_view_fingerprint(family, catalog_fingerprint, parts),
        family=family,
        parts=parts,
        parents={"catalog": catalog_fingerprint},
        counts={"rows": n_rows},
    ).seal(store)


def derive_vectors(
    store: Store,
    source: VectorSet,
    family: str,
    variant: Variant | Reduced,
    dim: int,
    transform: Callable[[Float32], Float32],
    made_by: dict[str, str] | None = None,
) -> VectorSet:
    """Apply `transform`, (n, source.dim) to (n, dim), to each part of `source`; parts that exist are kept.

    `made_by` names the fitted model among the parents of the set.
    """
    known = _known_parts(store, VectorSet, family)
    parts = []
    for part in source.parts:
        key = part_key(VectorSet.folder, family, part.key.rsplit("/", 1)[-1].removesuffix(".parquet"))
        if key not in known and not store.exists(key):
            ids, vectors = read_vectors(store.local_path(part.key, part.sha256))
            known[key] = put_part(store, key, vectors_bytes(ids, transform(vectors)), len(ids))
        parts.append(known.get(key) or describe_part(store, key))
    return VectorSet(
        fingerprint=_view_fingerprint(family, source.parents["catalog"], parts),
        family=family,
        variant=variant,
        dim=dim,
        parts=tuple(parts),
        parents={"catalog": source.parents["catalog"], "vectors": source.fingerprint, **(made_by or {})},
        counts=source.counts,
    ).seal(store)


def indexable_items(store: Store, items: pl.DataFrame, vectors: VectorSet) -> pl.DataFrame:
    """Return the rows of a catalogue that are not quarantined and have a vector, ordered by item id."""
    usable = items.filter(pl.col("status") == "ok").sort("item_id")
    missing = MissingIds(usable["content_id"])
    for part in vectors.parts:
        missing.take(read_id_column(store.local_path(part.key, part.sha256)))
    return usable.filter(~pl.Series(missing.is_missing))


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


def _view_fingerprint(family: str, catalog_fingerprint: str, parts: Iterable[Part]) -> str:
    return fingerprint("view", 1, [part.key for part in parts], [family, catalog_fingerprint])


def _parts_covering(
    store: Store, kind: type[GrowingSet], family: str, wanted: set[str]
) -> tuple[tuple[Part, ...], int]:
    known = _known_parts(store, kind, family)
    parts: list[Part] = []
    found: set[str] = set()
    for key, ids in sorted(covered_ids(store, kind.folder, family).items()):
        useful = wanted.intersection(ids) - found
        if useful:
            parts.append(known.get(key) or describe_part(store, key))
            found |= useful
    return tuple(parts), len(found)


def _known_parts(store: Store, kind: type[GrowingSet], family: str) -> dict[str, Part]:
    """Parts by key as sealed before, so that their checksums are not computed again."""
    known = {}
    for key in store.list(f"{kind.folder}/{family}/"):
        if key.endswith(f"/{MANIFEST}"):
            view = kind.open(store, Ref(kind=kind.folder, key=key.removesuffix(f"/{MANIFEST}")))
            known.update({part.key: part for part in view.parts})
    return known
