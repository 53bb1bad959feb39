"""The PCA: fit it on a random sample of the published vectors, plan what it has not reduced, reduce that, seal."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Reducer, Ref, VectorSet
from retrieval_core.artifacts.shards import DerivationPlan, PartShard, seal_derived
from retrieval_core.config.stages import ReduceConfig
from retrieval_core.reduce import fit
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("fit reducer")
def fit_reducer(settings: Settings, catalog: Ref, vectors: Ref, config: ReduceConfig) -> Fitted:
    """Return the reducer for these vectors."""
    store = settings.open_store()
    return fit.fit_reducer(store, catalog, VectorSet.open(store, vectors), config)


@stage("plan reducing")
def plan_reducing(settings: Settings, vectors: Ref, reducer: Ref) -> DerivationPlan:
    """Plan the shards of vectors that this reducer has not reduced yet."""
    store = settings.open_store()
    return fit.plan_reducing(store, VectorSet.open(store, vectors), Reducer.open(store, reducer))


@stage("reduce shard")
def reduce_shard(settings: Settings, shard: PartShard, reducer: Ref, config: ReduceConfig) -> None:
    """Reduce one shard of a plan to all of the dimensions that it lacks."""
    store = settings.open_store()
    fit.reduce_shard(store, shard, Reducer.open(store, reducer), config)


@stage("seal reduced")
def seal_reduced(settings: Settings, plan: DerivationPlan) -> list[Ref]:
    """Seal the vectors of a plan as a set for each of the reducer's dimensions."""
    return [reduced.ref for reduced in seal_derived(settings.open_store(), plan)]
