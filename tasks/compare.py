"""Variants side by side: what the catalogue can teach, what a picture costs, and the comparison itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from retrieval_core.artifacts.manifests import Catalog, Ref
from retrieval_core.config.stages import Precision
from retrieval_core.evaluate.compare import cost, seal
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.measure import ComparisonInputs
from retrieval_core.evaluate.compare.protocol import ProtocolConfig, split_items
from retrieval_core.ingest import catalog as catalogs
from retrieval_core.settings import Settings
from tasks.stage import stage

if TYPE_CHECKING:
    from retrieval_core.evaluate.compare.check import Unlearnable


@stage("split catalog")
def split_catalog(settings: Settings, catalog: Ref, config: ProtocolConfig) -> Ref:
    """Seal the items of a drawn split as a catalogue; return the catalogue itself where its own split is kept."""
    if config.split == "source":
        return catalog
    store = settings.open_store()
    return catalogs.seal_split(store, Catalog.open(store, catalog), partial(split_items, config=config)).ref


@stage("check what can be learned")
def find_unlearnable(settings: Settings, catalog: Ref, fields: Ref | None, config: ComparisonConfig) -> Unlearnable:
    """Return what of the comparison cannot be trained on this catalogue."""
    from retrieval_core.evaluate.compare import check  # imports torch

    return check.find_unlearnable(settings.open_store(), catalog, fields, config)


@stage("time network")
def time_network(
    settings: Settings, catalog: Ref, network: Ref, config: ComparisonConfig, precision: Precision
) -> float:
    """Return the milliseconds that a network takes for a picture of the catalogue on this machine."""
    return cost.time_network(settings, catalog, network, config, precision)


@stage("compare")
def seal_comparison(settings: Settings, name: str, inputs: ComparisonInputs, config: ComparisonConfig) -> Ref:
    """Put the same queries to every variant, and seal the report under `name`."""
    return seal.seal_comparison(settings.open_store(), name, inputs, config).ref
