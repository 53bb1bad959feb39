"""From the pictures of a source to vectors: read, mask and embed the pictures; boost and reduce their vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.shards.engines import each_shard, in_shards
from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Release, Value
from retrieval_core.config.stages import IngestConfig, NightlyConfig, ReduceConfig, View
from retrieval_core.embed.shards import PictureWork
from retrieval_core.ingest.catalog import IngestOutcome, IngestPlan
from retrieval_core.ingest.change import Change
from retrieval_core.settings import Settings
from tasks.head import boost_shard, plan_boosting, seal_boosted
from tasks.ingest import collect_truth_masks, plan_change, plan_source, read_shard, seal_catalog
from tasks.mask import fit_segmenter
from tasks.pictures import mask_and_embed_shard, plan_pictures, seal_mask_set, seal_vector_set
from tasks.reduce import plan_reducing, reduce_shard, seal_reduced

RunShards = Callable[..., list[Any]]  # `each_shard`, or a function with the same parameters


class Masking(Value):
    """What masks the pictures: a segmenter, a detector, or neither when they are embedded as they are."""

    segmenter: Fitted | None = None
    detector: Ref | None = None

    @property
    def model(self) -> Ref | None:
        """The segmenter or the detector."""
        return self.detector or (self.segmenter.ref if self.segmenter else None)


class ViewSets(Value):
    """The masks and the vectors by view of a catalogue, how many this run made, and the pictures that were refused."""

    masks: Ref | None
    n_masked: int
    vectors: dict[View, Ref]
    n_embedded: dict[View, int]
    rejects: tuple[Reject, ...]


def snapshot_catalog(settings: Settings, source: str, config: IngestConfig) -> IngestOutcome:
    """Read what changed in the source and seal its catalogue."""
    return _read_planned(settings, plan_source(settings, source, config), config)


def update_catalog(
    settings: Settings, source: str, base: Release, change: Change, config: IngestConfig
) -> IngestOutcome:
    """Read the items that a change names and seal the catalogue `base` with them."""
    return _read_planned(settings, plan_change(settings, source, base, change, config), config)


def _read_planned(settings: Settings, plan: IngestPlan, config: IngestConfig) -> IngestOutcome:
    fetched = sum(in_shards(read_shard, settings, plan.split(), config), plan.fetched)
    return seal_catalog(settings, plan, config, fetched)


def choose_masking(
    settings: Settings, source: str, catalog: Ref, detector: Ref | None, config: NightlyConfig
) -> Masking:
    """Return the detector if there is one, else a segmenter fitted on `catalog` if the config and the store allow."""
    if detector:
        return Masking(detector=detector)
    if not config.mask.enabled or config.embed.background == "raw":
        return Masking()
    truth = collect_truth_masks(settings, source, catalog)
    return Masking(segmenter=fit_segmenter(settings, catalog, truth, config.mask, config.ingest))


def mask_and_embed(
    settings: Settings,
    catalog: Ref,
    masking: Masking,
    backbone: Ref | None,
    config: NightlyConfig,
    run_shards: RunShards = each_shard,
) -> ViewSets:
    """Mask the pictures and embed each view of the config, the raw one only where nothing masks them.

    Each picture is read once for everything that it lacks. Without a backbone the pictures are only masked.
    """
    work = PictureWork(
        masker=masking.model,
        backbone=backbone,
        mask=config.mask,
        crop=config.crop,
        embed=config.embed,
        ingest=config.ingest,
    )
    outcomes = run_shards(mask_and_embed_shard, settings, plan_pictures(settings, catalog, work), work)
    return ViewSets(
        masks=seal_mask_set(settings, catalog, work.masks.family) if work.masks else None,
        n_masked=sum(outcome.n_masked for outcome in outcomes),
        vectors={
            view: seal_vector_set(settings, catalog, backbone, view, target.family)
            for view, target in work.vectors.items()
            if backbone
        },
        n_embedded={view: sum(outcome.n_embedded[view] for outcome in outcomes) for view in work.vectors},
        rejects=tuple(reject for outcome in outcomes for reject in outcome.rejects),
    )


def boost(settings: Settings, vectors: Ref, head: Ref) -> Ref:
    """Boost a set of vectors with a head."""
    plan = plan_boosting(settings, vectors, head)
    in_shards(boost_shard, settings, plan.shards, head)
    return seal_boosted(settings, plan)


def reduce(settings: Settings, vectors: Ref, reducer: Ref, config: ReduceConfig) -> list[Ref]:
    """Reduce a set of vectors to each of the reducer's dimensions."""
    plan = plan_reducing(settings, vectors, reducer)
    in_shards(reduce_shard, settings, plan.shards, reducer, config)
    return seal_reduced(settings, plan)
