"""Evaluate a run or a sealed release: measure it, judge it against another, and write the report."""

from __future__ import annotations

import logging
import time
from base64 import b64decode
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.anchors import anchor_of, find_report
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import IndexSet, Release, Report, VectorSet, fingerprint
from retrieval_core.artifacts.parts import is_stored, put_parts, read_table
from retrieval_core.config.stages import EvaluateConfig, GateConfig, NightlyConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.analysis.analyse import QUERIES_FILE, Analysis, analyse, tables
from retrieval_core.evaluate.analysis.stage_losses import lost_most
from retrieval_core.evaluate.gate.anchor_comparison import anchor_facts, search_anchor
from retrieval_core.evaluate.gate.catalog_losses import COLUMNS
from retrieval_core.evaluate.gate.decide import ReleaseFigures, decide
from retrieval_core.evaluate.gate.shared_gallery import SharedGallery, search_shared_gallery
from retrieval_core.evaluate.measure.golden_queries import read_golden
from retrieval_core.evaluate.measure.graded_queries import read_feedback, search_graded
from retrieval_core.evaluate.measure.measure import Measured, measure
from retrieval_core.evaluate.reconstruct import reconstruct_outputs
from retrieval_core.evaluate.report.build import gather_facts
from retrieval_core.evaluate.report.fix_list import csv_of, entries
from retrieval_core.evaluate.report.render import render, render_fix_list
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.evaluate.report.sentences import PICTURE_FILES, SUMMARY_FILE, first_screen, pictures_of
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.search_shards import Machines
from retrieval_core.item_ids.normal_form import with_normal_names
from retrieval_core.metrics.registry import GOLDEN_NDCG, UNLABELLED, find_metric, is_measured_by
from retrieval_core.search.confidence import CONFIDENCE_FILE
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

# Fields with thumbnails, which are too large for metrics.json.
PICTURES: dict[str, Any] = {
    "grids": True,
    "best": True,
    "worst": True,
    "album": True,
    "masks": {"examples": True},
    "duplicates": {"pairs": True, "groups": {"__all__": {"pictures": True}}},
    "golden": {"missed": True},
    "synthetic": {"missed": True},
}

# What only the verdict depends on, not what is measured.
JUDGED = {"declared_removals", "anchor"}

log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """The report of a release, and that of its baseline."""

    report: Report
    baseline: Report | None


class _Baseline(NamedTuple):
    """The release that one is compared with, and the report that measured it in the same way, if it is not lost."""

    release: Release
    report: Report | None


def evaluate_run(
    settings: Settings, outputs: RunOutputs, config: NightlyConfig, machines: Machines | None = None
) -> Report:
    """Evaluate a run against production; a run evaluated before against the same production keeps its report.

    Where the report of production was lost, production is searched again for what can be compared. `machines` make
    shards of large exact searches, which this process makes without them.
    """
    store = settings.open_store()
    production = releases.read_release(store, releases.PRODUCTION)
    baseline = _whole_report(store, production) if production else None
    if baseline and _question(store, outputs, config) == {
        key: baseline.config[key] for key in baseline.config.keys() - JUDGED
    }:
        return baseline
    return _report(settings, outputs, config, _Baseline(production, baseline) if production else None, machines)


def _whole_report(store: Store, release: Release) -> Report | None:
    """Return the report of a release, None where its manifest or its queries are lost."""
    report = find_report(store, release)
    if report and is_stored(store, report.part(QUERIES_FILE)):
        return report
    log.warning("the report of production %s is lost; production is searched again", release.fingerprint)
    return None


def evaluate_release(
    settings: Settings,
    sealed: Release,
    baseline: Release | None,
    evaluate: EvaluateConfig,
    gate: GateConfig,
    machines: Machines | None = None,
) -> Evaluated:
    """Evaluate a sealed release against a baseline, both measured as `evaluate` says, as `evaluate_run` does.

    What was evaluated before in the same way keeps its report. Raises `NotFound` where a part of a release was
    removed, `ShardCorrupt` where one is damaged.
    """
    store, stages = settings.open_store(), {"evaluate": evaluate, "gate": gate}
    baseline_report = None
    if baseline:
        baseline_report = Report.open(store, baseline.report)
        if any(baseline_report.config.get(name) != value for name, value in _measuring(store, evaluate).items()):
            config = baseline.nightly_config().model_copy(update=stages)
            baseline_report = _report(settings, reconstruct_outputs(store, baseline), config, None, machines)
    config, outputs = sealed.nightly_config().model_copy(update=stages), reconstruct_outputs(store, sealed)
    compared = _Baseline(baseline, baseline_report) if baseline and baseline_report else None
    report = _report(settings, outputs, config, compared, machines)
    return Evaluated(report, baseline_report)


def _measuring(store: Store, evaluate: EvaluateConfig) -> dict[str, object]:
    """Return what is measured; golden queries enter by the content of their files, which changes under a name."""
    return {
        "version": STAGE_VERSIONS["evaluate"],
        "evaluate": evaluate.model_dump(),
        "golden": read_golden(evaluate.golden).digest,
        "feedback": read_feedback(store, evaluate).digest,
    }


def _question(store: Store, outputs: RunOutputs, config: NightlyConfig) -> dict[str, object]:
    """Return what the fingerprint of a report depends on."""
    question: dict[str, object] = {
        **_measuring(store, config.evaluate),
        "gate": config.gate.model_dump(),
        "index": outputs.index.name,
        "variants": [ref.name for ref in outputs.variants],
    }
    if outputs.classes:
        question |= {"classes": outputs.classes.name, "top_classes": config.classify.top_classes}
    return question


def _report(
    settings: Settings,
    outputs: RunOutputs,
    config: NightlyConfig,
    baseline: _Baseline | None,
    machines: Machines | None,
) -> Report:
    """Return the report of a run against the baseline: the existing one, or a new one."""
    store, started = settings.open_store(), time.perf_counter()
    question = _question(store, outputs, config)
    if outputs.catalog_facts.declared_removals:
        question["declared_removals"] = list(outputs.catalog_facts.declared_removals)
    if baseline:
        question["anchor"] = anchor_of(store, baseline.release)
    name = fingerprint(
        "report", STAGE_VERSIONS["evaluate"], question, [baseline.release.report.name if baseline else ""]
    )
    known = Report.find(store, name)
    if known:
        return known
    earlier = baseline.report if baseline else None
    measured = measure(store, outputs, config, settings, earlier, machines)
    shared = _shared_gallery(store, outputs, measured, baseline, config.evaluate) if baseline else None
    challenger = _challenger(store, outputs, measured, shared)
    production = None
    if baseline:
        items = _found_items(store, baseline.release)
        graded = _search_graded(settings, baseline.release, items, measured, config)
        production = _production(store, baseline, items, shared, graded)
    n_removed = len(outputs.catalog_facts.declared_removals)
    anchor = search_anchor(store, baseline.release, measured.setup, config.evaluate, n_removed) if baseline else None
    verdict = decide(challenger, production, config.gate, anchor)
    against = baseline.release.fingerprint if baseline else None
    analysis = analyse(store, outputs, measured, config, against, earlier)
    facts = gather_facts(store, outputs, measured, analysis, verdict, config, name, settings.app_url)
    if shared:
        facts = facts.model_copy(update={"n_shared_gallery": shared.n_gallery})
    if anchor:
        facts = facts.model_copy(update={"anchor": anchor_facts(store, anchor, verdict.since_anchor)})
    if outputs.seconds:
        seconds = outputs.seconds | {"evaluate": round(time.perf_counter() - started, 3)}
        facts = facts.model_copy(update={"seconds": seconds})
    files = tables(measured, analysis) | _fix_lists(facts, analysis)
    if measured.confidence.model:
        files[CONFIDENCE_FILE] = measured.confidence.model.model_dump_json().encode()
    report = _put_files(store, question, facts, files)
    if anchor and not verdict.is_anchor:
        report = report.model_copy(update={"anchor": anchor.release, "counts": {"most_rows": anchor.most_rows}})
    return report.seal(store)


def _shared_gallery(
    store: Store, outputs: RunOutputs, measured: Measured, baseline: _Baseline, config: EvaluateConfig
) -> SharedGallery | None:
    """Search both releases among shared items; None where its own run measured the same, or it cannot be searched."""
    same_version = baseline.report and baseline.report.config.get("version") == STAGE_VERSIONS["evaluate"]
    if same_version and baseline.release.catalog == outputs.catalog:
        return None
    try:
        return search_shared_gallery(store, baseline.release, measured.setup, config)
    except (NotFound, ShardCorrupt) as error:  # removed by a vacuum or lost: compare with what its own run measured
        log.warning("release %s cannot be searched to compare with: %s", baseline.release.fingerprint, error)
        return None


def _challenger(store: Store, outputs: RunOutputs, measured: Measured, shared: SharedGallery | None) -> ReleaseFigures:
    catalog, index, latency_ms = (
        outputs.catalog_facts,
        IndexSet.open(store, outputs.index),
        measured.published.latency_ms,
    )
    is_masked = VectorSet.open(store, outputs.vectors).full_variant().view != "raw"
    labelled = shared.challenger if shared else measured.per_query
    categories = measured.items.select("item_id", "category")
    queries = labelled.join(categories, on="item_id", how="left", maintain_order="left")
    return ReleaseFigures(
        per_query=pl.concat([queries, measured.unlabelled.per_query], how="diagonal"),
        metrics={name: value for name, value in measured.metrics.items() if _is_compared(name)},
        items=measured.items.select(COLUMNS),
        declared_removals=catalog.declared_removals,
        n_rows=catalog.rows,
        n_indexed=index.counts["rows"],
        n_quarantined=catalog.quarantined,
        reconciled=catalog.reconciled,
        mask_fallback_rate=measured.masks.fallback_rate if is_masked else 0.0,
        index_bytes=index.n_bytes,
        latency_ms=float(np.percentile(latency_ms, 95)) if len(latency_ms) else 0.0,
        n_shared_gallery=shared.n_gallery if shared else 0,
        filters=measured.filters,
    )


def _is_compared(name: str) -> bool:
    """Whether the gate compares a figure as it is: those of the published search for which higher is better."""
    known = find_metric(name)
    if known is None or known.scope or known.statistic != "value":
        return False
    return known.metric.needs_labels and known.metric.higher_is_better


def _search_graded(
    settings: Settings, release: Release, items: pl.DataFrame | None, measured: Measured, config: NightlyConfig
) -> pl.DataFrame | None:
    """Search production, which finds `items`, with the challenger's graded queries: its own run may not know these.

    None where there are none, or production cannot be searched.
    """
    if not measured.unlabelled.graded or items is None:
        return None
    try:
        opened = open_release(settings.open_store(), release.fingerprint, settings)
        return search_graded(opened, items, measured.unlabelled.graded, config.ingest.max_pixels)
    except (NotFound, ShardCorrupt) as error:
        log.warning("release %s cannot be asked what shoppers chose: %s", release.fingerprint, error)
        return None


def _production(
    store: Store,
    baseline: _Baseline,
    items: pl.DataFrame | None,
    shared: SharedGallery | None,
    graded: pl.DataFrame | None,
) -> ReleaseFigures:
    """Return the figures of production, which finds `items`, without those of its index where that was removed.

    `graded` takes the place of what its own run measured with graded queries.
    """
    release, report = baseline
    index = IndexSet.find(store, release.index.name)
    per_query = pl.DataFrame({"item_id": []})
    if report:
        per_query = with_normal_names(read_table(store, report.part(QUERIES_FILE)))
    n_queries = {name: per_query[name].count() for name in per_query.columns}
    if shared:
        unlabelled = [name for name in per_query.columns if is_measured_by(name, *UNLABELLED)]
        queries = per_query.select("item_id", *unlabelled).filter(pl.any_horizontal(pl.col(unlabelled).is_not_null()))
        per_query = pl.concat([shared.baseline, queries], how="diagonal")
    if graded is not None:
        per_query = pl.concat([per_query.drop(GOLDEN_NDCG.name, strict=False), graded], how="diagonal_relaxed")
    return ReleaseFigures(
        per_query=per_query,
        metrics=report.metrics if report else {},
        n_queries=n_queries,
        items=items,
        n_indexed=index.counts["rows"] if index else 0,
        index_bytes=index.n_bytes if index else 0,
    )


def _found_items(store: Store, release: Release) -> pl.DataFrame | None:
    """Return the items that a release finds, None where a vacuum removed what says so."""
    try:
        items = load_items(store, release.catalog.name, [*COLUMNS, "status"])
        return indexable_items(store, items, VectorSet.open(store, release.vectors)).select(COLUMNS)
    except NotFound as error:
        log.warning("the items of release %s cannot be compared with: %s", release.fingerprint, error)
        return None


def _fix_lists(facts: ReportFacts, analysis: Analysis) -> dict[str, bytes]:
    listed = entries(facts, analysis.hygiene.fixes)
    return {"fixes.csv": csv_of(listed, facts), "fixes.html": render_fix_list(facts, listed).encode()}


def _put_files(store: Store, question: dict[str, object], facts: ReportFacts, more: dict[str, bytes]) -> Report:
    files = {
        "metrics.json": facts.model_dump_json(indent=1, exclude=PICTURES).encode(),
        **more,
        **{name: b64decode(shown.jpeg) for name, shown in zip(PICTURE_FILES, pictures_of(facts), strict=False)},
        SUMMARY_FILE: first_screen(facts).model_dump_json(indent=1).encode(),
        "report.html": render(facts).encode(),
    }
    return Report(
        fingerprint=facts.report,
        config=question,
        parts=put_parts(store, f"{Report.folder}/{facts.report}", files),
        metrics=facts.metrics,
        gate=facts.gate,
        gate_reason=facts.reason,
        gate_causes=facts.causes,
        lost_most=lost_most(facts.losses),
    )
