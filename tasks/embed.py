"""Pictures to vectors: export the backbone once, embed what is missing, seal the set."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import MaskSet, Ref, Reject
from retrieval_core.artifacts.shards import WorkPlan, WorkShard
from retrieval_core.config import EmbedConfig, IngestConfig, View
from retrieval_core.embed import export, shards
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("prepare backbone")
def prepare_backbone(settings: Settings, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> Ref:
    """Return the frozen backbone as an artifact, exported once."""
    return export.export_backbone(settings.open_store(), catalog, config, ingest).ref


@stage("plan vectors")
def plan_vectors(
    settings: Settings,
    catalog: Ref,
    backbone: Ref,
    masks: Ref | None,
    view: View,
    config: EmbedConfig,
    margin: float = 0.0,
) -> WorkPlan:
    """Plan the shards of pictures that have no vector of this backbone and view yet; `margin` is of view `crop`."""
    mask_set = _open_masks(settings, masks)
    return shards.plan_vectors(settings.open_store(), catalog, backbone, mask_set, view, config, margin)


@stage("embed shard")
def embed_shard(
    settings: Settings,
    shard: WorkShard,
    backbone: Ref,
    masks: Ref | None,
    view: View,
    config: EmbedConfig,
    ingest: IngestConfig,
    margin: float = 0.0,
) -> shards.ShardOutcome:
    """Embed one shard of a plan and store it as one part."""
    mask_set = _open_masks(settings, masks)
    return shards.embed_shard(settings, shard, backbone, mask_set, view, config, ingest, margin)


@stage("seal vectors")
def seal_vector_set(settings: Settings, catalog: Ref, plan: WorkPlan, backbone: Ref, view: View) -> Ref:
    """Seal the vectors of one view of this catalogue's pictures as one set."""
    return shards.seal_view_vectors(settings.open_store(), catalog, plan, backbone, view).ref


@stage("late rejects")
def rejected_items(settings: Settings, catalog: Ref, rejects: list[Reject]) -> tuple[Reject, ...]:
    """Return a reject for every item whose picture was refused at embedding."""
    return shards.rejected_items(settings.open_store(), catalog, rejects)


def _open_masks(settings: Settings, masks: Ref | None) -> MaskSet | None:
    return MaskSet.open(settings.open_store(), masks) if masks else None
