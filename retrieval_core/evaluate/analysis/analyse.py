"""What a measured night means: each analysis of the report, and the tables that lie beside it."""

from __future__ import annotations

import logging
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.artifacts.parts import table_bytes
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.drift import DriftFacts, find_drift
from retrieval_core.evaluate.analysis.embedding_map import MapFacts, map_catalog
from retrieval_core.evaluate.analysis.hygiene import Hygiene, csv_bytes, find_hygiene
from retrieval_core.evaluate.analysis.near_duplicates import NearDuplicates, find_near_duplicates
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts, find_churn
from retrieval_core.evaluate.analysis.quality import QualityFacts, measure_quality
from retrieval_core.evaluate.analysis.release_diff import Since, find_since
from retrieval_core.evaluate.analysis.run_history import PastNight, past_nights
from retrieval_core.evaluate.analysis.stage_costs import CostFacts, find_costs
from retrieval_core.evaluate.analysis.stage_losses import LossFacts, find_losses
from retrieval_core.evaluate.measure.indexed_rows import Indexed, open_indexed
from retrieval_core.evaluate.measure.measure import Measured
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)


class Analysis(NamedTuple):
    """`against` is the release that the night is compared with; without one, or where its parts are gone by now,
    `since` and `churn` are None.
    """

    against: Release | None
    quality: QualityFacts
    since: Since | None
    losses: LossFacts
    churn: ChurnFacts | None
    duplicates: NearDuplicates
    hygiene: Hygiene
    drift: DriftFacts
    map: MapFacts
    costs: CostFacts
    nights: tuple[PastNight, ...]


def analyse(
    store: Store, night: RunOutputs, measured: Measured, config: NightlyConfig, against: str | None
) -> Analysis:
    """Everything the report tells beyond what was measured; `against` names the release it is compared with."""
    bench, seed = measured.bench, config.evaluate.seed
    release = releases.get_release(store, against) if against else None
    now = Indexed(bench.items, bench.index, IndexSet.open(store, night.index).family)
    then = _open_indexed(store, release) if release else None
    nights = past_nights(store, night.sealed)
    duplicates = find_near_duplicates(bench, config.ingest.max_pixels, seed)
    first = measured.published.positions[:, 0]
    return Analysis(
        against=release,
        quality=measure_quality(measured.per_query, bench.protocol, bench.items, first),
        since=_since(store, release, night, config) if release else None,
        losses=find_losses(bench, measured.links, measured.published.worth.per_query, seed),
        churn=find_churn(then, now, seed),
        duplicates=duplicates,
        hygiene=find_hygiene(bench, duplicates.pairs, seed),
        drift=find_drift(then, now, seed),
        map=map_catalog(now, seed),
        costs=find_costs(store, night, nights),
        nights=nights,
    )


def _open_indexed(store: Store, release: Release) -> Indexed | None:
    try:
        return open_indexed(store, release)
    except NotFound as error:  # a vacuum took it: the night is still worth a report
        log.warning("release %s cannot be opened to compare with: %s", release.fingerprint, error)
        return None


def _since(store: Store, release: Release, night: RunOutputs, config: NightlyConfig) -> Since | None:
    try:
        return find_since(store, release, night, config)
    except NotFound as error:
        log.warning("the catalogue of release %s is gone: %s", release.fingerprint, error)
        return None


def tables(measured: Measured, analysis: Analysis) -> dict[str, bytes]:
    """The files of a report that hold rows, by name: metrics, queries, categories, near-duplicates and fixes."""
    intervals = pl.DataFrame(
        [fact.model_dump() for fact in analysis.quality.metrics],
        schema={"name": pl.String, "value": pl.Float64, "n_queries": pl.Int64, "low": pl.Float64, "high": pl.Float64},
    ).rename({"name": "metric"})
    metrics = pl.DataFrame(
        {"metric": list(measured.metrics), "value": list(measured.metrics.values())},
        schema={"metric": pl.String, "value": pl.Float64},
    ).join(intervals.drop("value"), on="metric", how="left", maintain_order="left")
    categories = [
        {"category": one.category, **fact.model_dump()} for one in analysis.quality.categories for fact in one.metrics
    ]
    by_category = pl.DataFrame(
        categories, schema={"category": pl.String, **intervals.rename({"metric": "name"}).schema}
    ).rename({"name": "metric"})
    return {
        "metrics.parquet": table_bytes(metrics),
        "queries.parquet": table_bytes(pl.concat([measured.per_query, measured.unlabelled.per_query], how="diagonal")),
        "categories.parquet": table_bytes(by_category),
        "near_duplicates.parquet": table_bytes(analysis.duplicates.pairs),
        "fixes.parquet": table_bytes(analysis.hygiene.fixes),
        "fixes.csv": csv_bytes(analysis.hygiene.fixes),
    }
