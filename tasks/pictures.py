"""Pictures to masks and vectors: export the backbone once, make what is missing in one pass, seal the sets."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import MaskSet, Ref, Reject
from retrieval_core.artifacts.shards import WorkPlan, WorkShard, seal_pictures
from retrieval_core.config.stages import EmbedConfig, IngestConfig, View
from retrieval_core.embed import export, shards
from retrieval_core.mask.masker import open_masker
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("prepare backbone")
def prepare_backbone(settings: Settings, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> Ref:
    """Return the frozen backbone as an artifact, exported once."""
    return export.export_backbone(settings.open_store(), catalog, config, ingest).ref


@stage("plan pictures")
def plan_pictures(settings: Settings, catalog: Ref, work: shards.PictureWork) -> WorkPlan:
    """Plan the shards of pictures that lack a mask or a vector."""
    return shards.plan_work_on_pictures(settings.open_store(), catalog, work)


@stage("pictures shard")
def mask_and_embed_shard(settings: Settings, shard: WorkShard, work: shards.PictureWork) -> shards.ShardOutcome:
    """Read the pictures of one shard once, and store the masks and vectors that they lack."""
    return shards.mask_and_embed_shard(settings, shard, work, open_masker)


@stage("seal masks")
def seal_mask_set(settings: Settings, catalog: Ref, family: str) -> Ref:
    """Seal the masks of this catalogue, or the boxes found in it, as one set."""
    return seal_pictures(settings.open_store(), MaskSet, family, catalog).ref


@stage("seal vectors")
def seal_vector_set(settings: Settings, catalog: Ref, backbone: Ref, view: View, family: str) -> Ref:
    """Seal the vectors of one view of this catalogue's pictures as one set."""
    return shards.seal_view_vectors(settings.open_store(), catalog, backbone, view, family).ref


@stage("late rejects")
def rejected_items(settings: Settings, catalog: Ref, rejects: list[Reject]) -> tuple[Reject, ...]:
    """Return a reject for every item whose picture could not be read."""
    return shards.rejected_items(settings.open_store(), catalog, rejects)
