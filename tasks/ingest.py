"""A source to a sealed catalogue, and the source's own masks."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Catalog, Ref, Release
from retrieval_core.config.stages import IngestConfig
from retrieval_core.ingest import catalog as catalogs
from retrieval_core.ingest import shards, truth_masks
from retrieval_core.ingest.catalog import IngestOutcome, IngestPlan
from retrieval_core.ingest.change import Change
from retrieval_core.ingest.selection import ItemSelection
from retrieval_core.ingest.shards import ReadingShard
from retrieval_core.settings import Settings
from retrieval_core.store.traffic import Traffic
from tasks.stage import stage


@stage("plan reading")
def plan_source(settings: Settings, source: str, config: IngestConfig) -> IngestPlan:
    """Plan which pictures of the source are to be read."""
    return catalogs.plan_source(settings.open_store(), source, config)


@stage("plan the change")
def plan_change(settings: Settings, source: str, base: Release, change: Change, config: IngestConfig) -> IngestPlan:
    """Plan which pictures are to be read of the items that a change of the catalogue of the release `base` names."""
    store = settings.open_store()
    return catalogs.plan_change(store, source, Catalog.open(store, base.catalog), change, config, base.fields)


@stage("read shard")
def read_shard(settings: Settings, shard: ReadingShard, config: IngestConfig) -> Traffic:
    """Fetch, check and keep the pictures of one shard of a plan; return what it took."""
    return shards.read_shard(settings, shard, config)


@stage("seal catalog")
def seal_catalog(settings: Settings, plan: IngestPlan, config: IngestConfig, fetched: Traffic) -> IngestOutcome:
    """Seal the catalogue of a plan whose shards were read; `fetched` is what planning and reading took."""
    return catalogs.seal_ingest(settings.open_store(), plan, config, fetched)


@stage("choose items")
def choose_items(settings: Settings, catalog: Ref, selection: ItemSelection, fields: Ref | None = None) -> Ref:
    """Seal the selected items of a catalogue as one; return the catalogue itself when these are all."""
    store = settings.open_store()
    return catalogs.seal_selection(store, Catalog.open(store, catalog), selection, fields).ref


@stage("truth masks")
def collect_truth_masks(settings: Settings, source: str, catalog: Ref) -> Ref | None:
    """Store the source's own masks; return None when it has none."""
    masks = truth_masks.collect_truth_masks(settings.open_store(), source, catalog)
    return masks.ref if masks else None
