"""Fit the PCA of a vector set on a random sample of it, or reuse an earlier one, and reduce the set in shards."""

from __future__ import annotations

import logging
from functools import partial

from retrieval_core.artifacts.fingerprints import reduced_family, reducer_fingerprint, reducer_question
from retrieval_core.artifacts.fitted import FitQuestion, fit_or_reuse
from retrieval_core.artifacts.growing_sets import sample_vectors
from retrieval_core.artifacts.manifests import Fitted, Reducer, Ref, VectorSet
from retrieval_core.artifacts.parts import put_part_files
from retrieval_core.artifacts.shards import DerivationPlan, DerivedSet, PartShard, derive_shard, plan_derivation
from retrieval_core.artifacts.variants import Reduced
from retrieval_core.config.stages import ReduceConfig
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, fit_pca, fit_truncation, load_pca, save_pca
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)


def fit_reducer(store: Store, catalog: Ref, vectors: VectorSet, config: ReduceConfig) -> Fitted:
    """Return the reducer for these vectors. Raises `BadConfig` when there is no vector to fit it on."""
    question = FitQuestion(
        fingerprint=reducer_fingerprint(config, catalog.name, vectors.family),
        config=reducer_question(config),
        parents={"catalog": catalog.name, "vectors": vectors.family},
        refit_after_change=config.refit_after_change,
    )
    return fit_or_reuse(store, Reducer, question, lambda: _fit(store, question, vectors, config))


def plan_reducing(store: Store, vectors: VectorSet, reducer: Reducer) -> DerivationPlan:
    """Plan the shards that reduce a set to each of the reducer's dimensions, where it was not reduced before."""
    reduced = [
        DerivedSet(family=reduced_family(reducer.fingerprint, vectors.family, dim), variant=Reduced(dim), dim=dim)
        for dim in reducer.dims
    ]
    return plan_derivation(store, vectors, reduced)


def reduce_shard(store: Store, shard: PartShard, reducer: Reducer, config: ReduceConfig) -> None:
    """Reduce the parts of one shard of a plan to vectors of unit length."""
    part = reducer.part(PCA_FILE)
    pca = load_pca(store.local_path(part.key, part.sha256))
    derive_shard(store, shard, lambda reduced: partial(apply_pca, pca, dim=reduced.dim, whiten=config.whiten))


def _fit(store: Store, question: FitQuestion, vectors: VectorSet, config: ReduceConfig) -> Reducer:
    # More dimensions than the vectors have would be noise: narrow vectors get fewer.
    dims = tuple(dim for dim in config.dims if dim <= vectors.dim) or (vectors.dim,)
    if dims != config.dims:
        log.warning("vectors have %d dimensions: reducing to %s instead of %s", vectors.dim, dims, config.dims)
    fit = fit_pca if config.method == "pca" else fit_truncation
    pca = fit(sample_vectors(store, vectors, config.sample_rows, config.seed), max(dims))
    return Reducer(
        fingerprint=question.fingerprint,
        config=question.config,
        parents=question.parents,
        parts=put_part_files(
            store, f"{Reducer.folder}/{question.fingerprint}", lambda folder: save_pca(pca, folder / PCA_FILE)
        ),
        input_dim=vectors.dim,
        dims=dims,
        explained_variance={
            str(dim): float(pca.variances[:dim].sum() / max(pca.total_variance, 1e-12)) for dim in dims
        },
    )
