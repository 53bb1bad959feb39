"""What a store holds and whether it is whole: the facts behind `vitrine status` and `vitrine verify`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from retrieval_core import lineage, releases
from retrieval_core.artifacts import (
    Artifact,
    Backbone,
    Catalog,
    Classifier,
    ClassSet,
    Detector,
    Head,
    IndexSet,
    Part,
    Reducer,
    Ref,
    Release,
    Report,
    Segmenter,
    Value,
    VectorSet,
)
from retrieval_core.errors import NotFound, ShardCorrupt, VitrineError
from retrieval_core.search import open_index
from retrieval_core.sets import indexable_items
from retrieval_core.shards import describe_part, load_vectors
from retrieval_core.store import Store

RUNS = "runs"
N_SAMPLED = 1_000
TOLERANCE = 1e-5

_KINDS: tuple[type[Artifact], ...] = (
    Catalog,
    Backbone,
    Segmenter,
    Detector,
    Classifier,
    ClassSet,
    Head,
    Reducer,
    VectorSet,
    IndexSet,
    Report,
)


class ReleaseRow(Value):
    release: str
    created: str
    gate: str
    reason: str
    rows: int
    variant: str


class Status(Value):
    """Production, every release (oldest first) and the document of the last run."""

    production: str | None
    releases: list[ReleaseRow]
    last_run: dict[str, Any] | None


def status(store: Store) -> Status:
    """Read it off the store."""
    production = releases.read_alias(store, releases.PRODUCTION)
    rows = [
        ReleaseRow(
            release=release.fingerprint,
            created=release.created,
            gate=release.gate,
            reason=release.gate_reason,
            rows=release.counts["rows"],
            variant=release.variant,
        )
        for release in releases.list_releases(store)
    ]
    return Status(production=production.release if production else None, releases=rows, last_run=last_run(store))


def last_run(store: Store) -> dict[str, Any] | None:
    """The document of the last run that ended, None before the first."""
    keys = [key for key in store.list(f"{RUNS}/") if key.endswith(".json")]
    return json.loads(store.get(keys[-1])) if keys else None


class Check(Value):
    name: str
    ok: bool
    detail: str


class Verification(Value):
    ok: bool
    checks: list[Check]


def verify(store: Store) -> Verification:
    """Prove production whole: manifests, checksums, rows, vectors. Raises `NotFound` where nothing is published."""
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None:
        raise NotFound(f"nothing is published in {store.url}; `vitrine run` makes the first release")
    proofs: dict[str, Callable[[Store, Release], str]] = {
        "manifests": _prove_manifests,
        "checksums": _prove_checksums,
        "rows": _prove_rows,
        "vectors": _prove_vectors,
    }
    checks = []
    for name, proof in proofs.items():
        try:
            checks.append(Check(name=name, ok=True, detail=proof(store, release)))
        except VitrineError as error:
            checks.append(Check(name=name, ok=False, detail=f"{type(error).__name__}: {error}"))
    return Verification(ok=all(check.ok for check in checks), checks=checks)


def _prove_manifests(store: Store, release: Release) -> str:
    names = [artifact.kind for artifact in _artifacts(store, release)]
    return f"{len(names)} artifacts can be read: {', '.join(names)}"


def _prove_checksums(store: Store, release: Release) -> str:
    parts: dict[str, Part] = {part.key: part for artifact in _artifacts(store, release) for part in artifact.parts}
    damaged = [key for key, part in parts.items() if describe_part(store, key, part.n_rows) != part]
    if damaged:
        raise ShardCorrupt(f"{len(damaged)} of {len(parts)} files differ from what was sealed, e.g. {damaged[0]}")
    return f"{len(parts)} files hold what was sealed, {sum(part.n_bytes for part in parts.values()):,} bytes"


def _prove_rows(store: Store, release: Release) -> str:
    items = _indexed_items(store, release)
    indexed = open_index(store, IndexSet.open(store, release.index)).row_ids()
    twice = len(indexed) - len(np.unique(indexed))
    wanted = items["row_id"].to_numpy()
    lost, stray = np.setdiff1d(wanted, indexed), np.setdiff1d(indexed, wanted)
    if twice or len(lost) or len(stray):
        raise ShardCorrupt(f"{twice} rows are in two shards, {len(lost)} in none, {len(stray)} in no catalogue")
    counts = Catalog.open(store, release.catalog).counts
    return (
        f"each of {len(wanted)} rows is in one shard; {counts['rows'] - len(wanted)} of {counts['rows']} in quarantine"
    )


def _prove_vectors(store: Store, release: Release) -> str:
    items = _indexed_items(store, release)
    sample = items.sample(min(len(items), N_SAMPLED), seed=0)
    index = open_index(store, IndexSet.open(store, release.index))
    stored = load_vectors(store, VectorSet.open(store, release.vectors), sample["content_id"].to_list())
    worst = float(np.abs(index.vectors_of(sample["row_id"].to_numpy()) - stored).max(initial=0.0))
    if worst > TOLERANCE:
        raise ShardCorrupt(f"vectors in the index differ from the set by up to {worst:.2g}")
    return f"{len(sample)} sampled vectors in the index equal those of the set"


def _indexed_items(store: Store, release: Release) -> pl.DataFrame:
    items = lineage.load_items(store, release.catalog.name)
    return indexable_items(store, items, VectorSet.open(store, release.vectors))


def _artifacts(store: Store, release: Release) -> Iterator[Artifact]:
    kinds = {kind.__name__: kind for kind in _KINDS}
    refs: list[Ref | None] = [
        release.catalog,
        release.backbone,
        release.segmenter,
        release.detector,
        release.classifier,
        release.classes,
        release.head,
        release.reducer,
        release.vectors,
        release.index,
        release.report,
    ]
    for ref in refs:
        if ref is not None:
            yield kinds[ref.kind].open(store, ref)
