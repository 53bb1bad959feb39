"""The PCA: fit it on a random sample of the published vectors, reduce all of them with it."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Reducer, Ref, VectorSet
from retrieval_core.config.stages import ReduceConfig
from retrieval_core.reduce import fit
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("fit reducer")
def fit_reducer(settings: Settings, catalog: Ref, vectors: Ref, config: ReduceConfig) -> Fitted:
    """Return the reducer for these vectors."""
    store = settings.open_store()
    return fit.fit_reducer(store, catalog, VectorSet.open(store, vectors), config)


@stage("apply reducer")
def apply_reducer(settings: Settings, vectors: Ref, reducer: Ref, config: ReduceConfig) -> list[Ref]:
    """Return a set reduced to each of the reducer's dimensions; parts that were reduced before are kept."""
    store = settings.open_store()
    reduced = fit.reduce_vectors(store, VectorSet.open(store, vectors), Reducer.open(store, reducer), config)
    return [vectors.ref for vectors in reduced]
