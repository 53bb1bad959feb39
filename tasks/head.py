"""The multi-task head: fit it on labelled rows, plan what it has not boosted, boost that, seal the set."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Head, Ref, VectorSet
from retrieval_core.artifacts.shards import DerivationPlan, PartShard, seal_derived
from retrieval_core.config.stages import HeadConfig
from retrieval_core.head import fit
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("train head")
def fit_head(settings: Settings, catalog: Ref, vectors: Ref, config: HeadConfig) -> Fitted | None:
    """Return the head for these vectors; None when the catalogue has nothing to learn from."""
    store = settings.open_store()
    return fit.fit_head(store, catalog, VectorSet.open(store, vectors), config)


@stage("plan boosting")
def plan_boosting(settings: Settings, vectors: Ref, head: Ref) -> DerivationPlan:
    """Plan the shards of vectors that this head has not boosted yet."""
    store = settings.open_store()
    return fit.plan_boosting(store, VectorSet.open(store, vectors), Head.open(store, head))


@stage("boost shard")
def boost_shard(settings: Settings, shard: PartShard, head: Ref) -> None:
    """Boost one shard of a plan."""
    store = settings.open_store()
    fit.boost_shard(store, shard, Head.open(store, head))


@stage("seal boosted")
def seal_boosted(settings: Settings, plan: DerivationPlan) -> Ref:
    """Seal the boosted vectors of a plan."""
    (boosted,) = seal_derived(settings.open_store(), plan)
    return boosted.ref
