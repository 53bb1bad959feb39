"""Proof that what production is made of is whole: `vitrine verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import (
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
from retrieval_core.artifacts.parts import describe_part, load_vectors
from retrieval_core.errors import NotFound, ShardCorrupt, VitrineError
from retrieval_core.index.build import indexed_row_ids, shard_row_ids
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import shard_of
from retrieval_core.metrics.ranking import ann_recall
from retrieval_core.search.release import open_index, open_release, shard_folders
from retrieval_core.store.base import Store

N_SAMPLED = 1_000
TOLERANCE = 1e-5
N_ASKED = 300
K = 10
RECALL_TOLERANCE = 0.005
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


class Check(Value):
    name: str
    ok: bool
    detail: str


class Verification(Value):
    ok: bool
    checks: list[Check]


class _Production:
    """What production is made of; whatever can fail is opened by the proof that asks for it first."""

    def __init__(self, store: Store, release: Release) -> None:
        self.store, self.release = store, release

    @cached_property
    def artifacts(self) -> list[Artifact]:
        return list(_artifacts(self.store, self.release))

    @cached_property
    def items(self) -> pl.DataFrame:
        items = load_items(self.store, self.release.catalog.name)
        return indexable_items(self.store, items, VectorSet.open(self.store, self.release.vectors))

    @cached_property
    def index_set(self) -> IndexSet:
        return IndexSet.open(self.store, self.release.index)

    @cached_property
    def index(self) -> ShardedIndex:
        return open_index(self.store, self.index_set)


def verify(store: Store) -> Verification:
    """Prove production whole, from manifests to recall. Raises `NotFound` where nothing is published."""
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None:
        raise NotFound(f"nothing is published in {store.url}; `vitrine run` makes the first release")
    production = _Production(store, release)
    proofs: dict[str, Callable[[_Production], str]] = {
        "manifests": _prove_manifests,
        "checksums": _prove_checksums,
        "rows": _prove_rows,
        "shards": _prove_shards,
        "vectors": _prove_vectors,
        "recall": _prove_recall,
    }
    checks = []
    for name, proof in proofs.items():
        try:
            checks.append(Check(name=name, ok=True, detail=proof(production)))
        except VitrineError as error:
            checks.append(Check(name=name, ok=False, detail=f"{type(error).__name__}: {error}"))
    return Verification(ok=all(check.ok for check in checks), checks=checks)


def _prove_manifests(production: _Production) -> str:
    names = [artifact.kind for artifact in production.artifacts]
    return f"{len(names)} artifacts can be read: {', '.join(names)}"


def _prove_checksums(production: _Production) -> str:
    parts: dict[str, Part] = {part.key: part for artifact in production.artifacts for part in artifact.parts}
    damaged = [key for key, part in parts.items() if describe_part(production.store, key, part.n_rows) != part]
    if damaged:
        raise ShardCorrupt(f"{len(damaged)} of {len(parts)} files differ from what was sealed, e.g. {damaged[0]}")
    return f"{len(parts)} files hold what was sealed, {sum(part.n_bytes for part in parts.values()):,} bytes"


def _prove_rows(production: _Production) -> str:
    indexed, wanted = production.index.row_ids(), production.items["row_id"].to_numpy()
    twice = len(indexed) - len(np.unique(indexed))
    lost, stray = np.setdiff1d(wanted, indexed), np.setdiff1d(indexed, wanted)
    if twice or len(lost) or len(stray):
        raise ShardCorrupt(f"{twice} rows are in two shards, {len(lost)} in none, {len(stray)} in no catalogue")
    counts = Catalog.open(production.store, production.release.catalog).counts
    return (
        f"each of {len(wanted)} rows is in one shard; {counts['rows'] - len(wanted)} of {counts['rows']} in quarantine"
    )


def _prove_shards(production: _Production) -> str:
    folders = shard_folders(production.store, production.index_set)
    for number, folder in enumerate(folders):
        listed = shard_row_ids(folder)
        astray = int((shard_of(listed, len(folders)) != number).sum())
        unlike = len(np.setxor1d(listed, indexed_row_ids(folder)))
        if astray or unlike:
            raise ShardCorrupt(
                f"{folder.name} holds {astray} rows of other shards, and {unlike} rows that are not both in its index "
                "and among its vectors; build it again"
            )
    return f"{len(folders)} shards hold the rows their hash names, alike in index and vectors"


def _prove_vectors(production: _Production) -> str:
    sample = production.items.sample(min(len(production.items), N_SAMPLED), seed=0)
    vectors = VectorSet.open(production.store, production.release.vectors)
    stored = load_vectors(production.store, vectors, sample["content_id"].to_list())
    worst = float(np.abs(production.index.vectors_of(sample["row_id"].to_numpy()) - stored).max(initial=0.0))
    if worst > TOLERANCE:
        raise ShardCorrupt(f"vectors in the index differ from the set by up to {worst:.2g}")
    return f"{len(sample)} sampled vectors in the index equal those of the set"


def _prove_recall(production: _Production) -> str:
    index, promised = production.index, production.index_set.recall
    sample = production.items.sample(min(len(production.items), N_ASKED), seed=1)["row_id"].to_numpy()
    queries = index.vectors_of(sample)
    exact, _ = index.exact(queries, K)
    found, _ = open_release(production.store, production.release.fingerprint).search_vectors(queries, K)
    recall = ann_recall(exact, found)
    reached, error = float(recall.mean()), float(recall.std() / max(len(recall), 1) ** 0.5)
    if reached < promised - 3 * error - RECALL_TOLERANCE:
        raise ShardCorrupt(f"the index finds {reached:.4f} of the true ten nearest, {promised:.4f} was promised")
    return f"{reached:.4f} of the true ten nearest of {len(sample)} items are found, {promised:.4f} was promised"


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
