"""The multi-task head: fit it on labelled rows, boost every vector with it."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Head, Ref, VectorSet
from retrieval_core.config.stages import HeadConfig
from retrieval_core.head import fit
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("train head")
def fit_head(settings: Settings, catalog: Ref, vectors: Ref, config: HeadConfig) -> Fitted | None:
    """Return the head for these vectors; None when the catalogue has nothing to learn from."""
    store = settings.open_store()
    return fit.fit_head(store, catalog, VectorSet.open(store, vectors), config)


@stage("apply head")
def apply_head(settings: Settings, vectors: Ref, head: Ref) -> Ref:
    """Return the boosted vectors of a set; parts that were boosted before are kept."""
    store = settings.open_store()
    return fit.boost_vectors(store, VectorSet.open(store, vectors), Head.open(store, head)).ref
