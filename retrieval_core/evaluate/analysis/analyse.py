"""Run every analysis of the report on what was measured, and write the tables that lie beside it."""

from __future__ import annotations

import logging
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import read_titles
from retrieval_core.artifacts.manifests import IndexSet, Release, Report
from retrieval_core.artifacts.parts import table_bytes
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.drift import DriftFacts, find_drift
from retrieval_core.evaluate.analysis.embedding_map import EarlierMap, MapFacts, map_catalog, read_map
from retrieval_core.evaluate.analysis.hygiene import Hygiene, find_hygiene
from retrieval_core.evaluate.analysis.near_duplicates import (
    COMPARED_FILE,
    NearDuplicates,
    find_near_duplicates,
    read_compared,
)
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts, find_churn
from retrieval_core.evaluate.analysis.quality import QualityFacts, measure_quality
from retrieval_core.evaluate.analysis.release_diff import ReleaseDiff, diff_production
from retrieval_core.evaluate.analysis.run_history import PastRun, past_runs
from retrieval_core.evaluate.analysis.stage_costs import CostFacts, collect_costs
from retrieval_core.evaluate.analysis.stage_losses import LossFacts, find_losses
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems, ReleasePair, open_indexed
from retrieval_core.evaluate.measure.measure import Measured
from retrieval_core.evaluate.measure.picture_search import SYNTHETIC_FILE
from retrieval_core.evaluate.measure.setup import HITS_FILE, find_neighbours
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.store.base import Store

QUERIES_FILE = "queries.parquet"  # the results of each query, with which the next run compares

log = logging.getLogger(__name__)


class Analysis(NamedTuple):
    """Everything the report says beyond the measurements.

    `against` is the release that the run is compared with. `diff` and `churn` are None without one, or if a vacuum
    removed the parts they need.
    """

    against: Release | None
    quality: QualityFacts
    diff: ReleaseDiff | None
    losses: LossFacts
    churn: ChurnFacts | None
    duplicates: NearDuplicates
    hygiene: Hygiene
    drift: DriftFacts
    map: MapFacts
    costs: CostFacts
    past: tuple[PastRun, ...]


def analyse(
    store: Store,
    outputs: RunOutputs,
    measured: Measured,
    config: NightlyConfig,
    against: str | None,
    earlier: Report | None = None,
) -> Analysis:
    """Run every analysis; `against` is the release to compare with, `earlier` a report whose work is not done again."""
    setup, seed = measured.setup, config.evaluate.seed
    release = releases.get_release(store, against) if against else None
    current = IndexedItems(setup.items, setup.index, IndexSet.open(store, outputs.index).family)
    pair = ReleasePair(_open_indexed(store, release) if release else None, current, setup.kept)
    past = past_runs(store, outputs.sealed)
    neighbours = find_neighbours(setup, seed)
    duplicates = find_near_duplicates(setup, neighbours, config.ingest.max_pixels, read_compared(store, earlier))
    earlier_map = read_map(store, earlier)
    first = measured.published.positions[:, 0]
    return Analysis(
        against=release,
        quality=measure_quality(measured.per_query, measured.unlabelled.per_query, setup.protocol, setup.items, first),
        diff=_diff(store, release, outputs, config) if release else None,
        losses=find_losses(setup, measured.links, measured.published.scores.per_query, seed),
        churn=find_churn(pair, seed),
        duplicates=duplicates,
        hygiene=find_hygiene(setup, neighbours, duplicates, read_titles(store, outputs.fields, setup.items), seed),
        drift=find_drift(pair, seed),
        map=map_catalog(current, seed, EarlierMap(earlier_map, pair.unchanged) if earlier_map else None),
        costs=collect_costs(store, outputs, past),
        past=past,
    )


def _open_indexed(store: Store, release: Release) -> IndexedItems | None:
    try:
        return open_indexed(store, release)
    except NotFound as error:  # a vacuum removed it: the report is still worth writing
        log.warning("cannot open release %s to compare with: %s", release.fingerprint, error)
        return None


def _diff(store: Store, release: Release, outputs: RunOutputs, config: NightlyConfig) -> ReleaseDiff | None:
    try:
        return diff_production(store, release, outputs, config)
    except NotFound as error:
        log.warning("the catalogue of release %s was removed: %s", release.fingerprint, error)
        return None


def tables(measured: Measured, analysis: Analysis) -> dict[str, bytes]:
    """Return the tables of a report by file name: metrics, queries, categories, near-duplicates, groups, fixes, and
    what the next run reuses.
    """
    fact_schema = {
        "name": pl.String, "value": pl.Float64, "n_queries": pl.Int64, "low": pl.Float64, "high": pl.Float64,
    }  # fmt: skip
    intervals = pl.DataFrame([fact.model_dump() for fact in analysis.quality.metrics], schema=fact_schema)
    metrics = pl.DataFrame(
        {"metric": list(measured.metrics), "value": list(measured.metrics.values())},
        schema={"metric": pl.String, "value": pl.Float64},
    ).join(intervals.drop("value").rename({"name": "metric"}), on="metric", how="left", maintain_order="left")
    by_category = pl.DataFrame(
        [
            {"category": category.category, **fact.model_dump()}
            for category in analysis.quality.categories
            for fact in category.metrics
        ],
        schema={"category": pl.String, **fact_schema},
    ).rename({"name": "metric"})
    return {
        "metrics.parquet": table_bytes(metrics),
        QUERIES_FILE: table_bytes(pl.concat([measured.per_query, measured.unlabelled.per_query], how="diagonal")),
        "categories.parquet": table_bytes(by_category),
        "near_duplicates.parquet": table_bytes(analysis.duplicates.pairs),
        COMPARED_FILE: table_bytes(analysis.duplicates.compared),
        SYNTHETIC_FILE: table_bytes(measured.unlabelled.vectors),
        HITS_FILE: table_bytes(measured.setup.asked()),
        **measured.setup.kept.tables(),
        "product_groups.parquet": table_bytes(analysis.duplicates.groups),
        "fixes.parquet": table_bytes(analysis.hygiene.fixes),
    }
