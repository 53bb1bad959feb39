"""Prove that production is intact, from its manifests to the recall of its index: `vitrine verify`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Artifact, Catalog, IndexSet, Part, Release, Value, VectorSet
from retrieval_core.artifacts.parts import describe_part, load_vectors
from retrieval_core.errors import ShardCorrupt, VitrineError
from retrieval_core.index.lookup import ShardedIndex, open_index, shard_folders
from retrieval_core.index.recipes import shard_of
from retrieval_core.index.shard_files import indexed_row_ids, shard_row_ids
from retrieval_core.maintenance.inventory import bundle_refs, open_artifact
from retrieval_core.metrics.ranking import ann_recall
from retrieval_core.search.release import open_release
from retrieval_core.store.base import Store

N_VECTORS = 1_000  # compared between the index and the vector set
VECTOR_TOLERANCE = 1e-5
N_QUERIES = 300
K = 10
RECALL_TOLERANCE = 0.005  # below the recall that the index promises, beside three standard errors


class Check(Value):
    """One proof; `detail` says what was proved or what is wrong."""

    name: str
    ok: bool
    detail: str


class Verification(Value):
    """All proofs; `ok` if every one succeeded."""

    ok: bool
    checks: list[Check]


class _Production:
    """The contents of production, opened by the first proof that needs them, so that a failure to open is its own."""

    def __init__(self, store: Store, release: Release) -> None:
        self.store, self.release = store, release

    @cached_property
    def artifacts(self) -> list[Artifact]:
        return [open_artifact(self.store, ref.key, ref.sha256) for ref in bundle_refs(self.release)]

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
    """Prove production intact, from manifests to recall. Raises `NotFound` if nothing is published."""
    production = _Production(store, releases.find_release(store, releases.PRODUCTION))
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
    indexed, expected = production.index.row_ids(), production.items["row_id"].to_numpy()
    n_twice = len(indexed) - len(np.unique(indexed))
    n_lost, n_stray = len(np.setdiff1d(expected, indexed)), len(np.setdiff1d(indexed, expected))
    if n_twice or n_lost or n_stray:
        raise ShardCorrupt(f"{n_twice} rows are in two shards, {n_lost} in none, {n_stray} in no catalogue")
    n_rows = Catalog.open(production.store, production.release.catalog).counts["rows"]
    return f"each of {len(expected)} rows is in one shard; {n_rows - len(expected)} of {n_rows} in quarantine"


def _prove_shards(production: _Production) -> str:
    folders = shard_folders(production.store, production.index_set)
    for number, folder in enumerate(folders):
        row_ids = shard_row_ids(folder)
        n_foreign = int((shard_of(row_ids, len(folders)) != number).sum())
        n_unmatched = len(np.setxor1d(row_ids, indexed_row_ids(folder)))
        if n_foreign or n_unmatched:
            raise ShardCorrupt(
                f"{folder.name} holds {n_foreign} rows of other shards, and {n_unmatched} rows that are not both in "
                "its index and among its vectors; rebuild it"
            )
    return f"{len(folders)} shards hold the rows that hash to them, the same in index and vectors"


def _prove_vectors(production: _Production) -> str:
    sample = production.items.sample(min(len(production.items), N_VECTORS), seed=0)
    vectors = VectorSet.open(production.store, production.release.vectors)
    stored = load_vectors(production.store, vectors, sample["content_id"].to_list())
    difference = float(np.abs(production.index.vectors_of(sample["row_id"].to_numpy()) - stored).max(initial=0.0))
    if difference > VECTOR_TOLERANCE:
        raise ShardCorrupt(f"vectors in the index differ from the set by up to {difference:.2g}")
    return f"{len(sample)} sampled vectors in the index equal those of the set"


def _prove_recall(production: _Production) -> str:
    index, promised = production.index, production.index_set.recall
    sample = production.items.sample(min(len(production.items), N_QUERIES), seed=1)["row_id"].to_numpy()
    queries = index.vectors_of(sample)
    exact, _ = index.exact(queries, K)
    hits, _ = open_release(production.store, production.release.fingerprint).search_vectors(queries, K)
    recall = ann_recall(exact, hits)
    reached, error = float(recall.mean()), float(recall.std() / max(len(recall), 1) ** 0.5)
    if reached < promised - 3 * error - RECALL_TOLERANCE:
        raise ShardCorrupt(f"the index finds {reached:.4f} of the true ten nearest, {promised:.4f} was promised")
    return f"{reached:.4f} of the true ten nearest of {len(sample)} items are found, {promised:.4f} was promised"
