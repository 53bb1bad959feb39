"""A source to a sealed catalogue, and the source's own masks."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Catalog, Ref
from retrieval_core.config import IngestConfig
from retrieval_core.ingest import catalog as catalogs
from retrieval_core.ingest import truth_masks
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.ingest.change import Change
from retrieval_core.ingest.selection import ItemSelection
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("ingest")
def snapshot_catalog(settings: Settings, source: str, config: IngestConfig) -> IngestOutcome:
    """Read what changed in the source and seal its catalogue."""
    return catalogs.ingest_source(settings.open_store(), source, config)


@stage("ingest the change")
def update_catalog(settings: Settings, source: str, base: Ref, change: Change, config: IngestConfig) -> IngestOutcome:
    """Read the items that a change names and seal the catalogue `base` with them."""
    store = settings.open_store()
    return catalogs.ingest_change(store, source, Catalog.open(store, base), change, config)


@stage("choose items")
def choose_items(settings: Settings, catalog: Ref, selection: ItemSelection) -> Ref:
    """Seal the selected items of a catalogue as one; return the catalogue itself when these are all."""
    store = settings.open_store()
    return catalogs.seal_selection(store, Catalog.open(store, catalog), selection).ref


@stage("truth masks")
def collect_truth_masks(settings: Settings, source: str, catalog: Ref) -> Ref | None:
    """Store the source's own masks; return None when it has none."""
    masks = truth_masks.collect_truth_masks(settings.open_store(), source, catalog)
    return masks.ref if masks else None
