"""Ingest in this process, by the steps of a run."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.config.stages import IngestConfig
from retrieval_core.ingest.catalog import IngestOutcome, IngestPlan, plan_change, plan_source, seal_ingest
from retrieval_core.ingest.change import Change
from retrieval_core.ingest.shards import read_shard
from retrieval_core.settings import Settings


def ingest_source(settings: Settings, source: str, config: IngestConfig) -> IngestOutcome:
    return read_planned(settings, plan_source(settings.open_store(), source, config), config)


def ingest_change(
    settings: Settings, source: str, base: Catalog, change: Change, config: IngestConfig
) -> IngestOutcome:
    return read_planned(settings, plan_change(settings.open_store(), source, base, change, config), config)


def read_planned(settings: Settings, plan: IngestPlan, config: IngestConfig) -> IngestOutcome:
    fetched = sum((read_shard(settings, shard, config) for shard in plan.split()), plan.fetched)
    return seal_ingest(settings.open_store(), plan, config, fetched)
