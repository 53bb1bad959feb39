"""Vectors to an index: plan its shards, make the missing ones, seal the version."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Ref, VectorSet
from retrieval_core.config.stages import IndexConfig
from retrieval_core.index import versions
from retrieval_core.index.versions import IndexPlan, IndexShard
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("plan index")
def plan_index(settings: Settings, catalog: Ref, vectors: Ref, reduced: list[Ref], config: IndexConfig) -> IndexPlan:
    """Choose candidates, recipe and shards of the next version, as production has them while these serve."""
    store = settings.open_store()
    reduced_sets = [VectorSet.open(store, ref) for ref in reduced]
    return versions.plan_index(store, catalog, VectorSet.open(store, vectors), reduced_sets, config)


@stage("build index shard")
def build_index_shard(settings: Settings, shard: IndexShard) -> None:
    """Make one shard of a plan: updated from production's if possible, else built."""
    versions.make_shard(settings.open_store(), shard)


@stage("seal index")
def seal_index(settings: Settings, plan: IndexPlan, config: IndexConfig) -> Ref:
    """Tune the search on the finished shards, and seal the version."""
    return versions.seal_index(settings.open_store(), plan, config).ref
