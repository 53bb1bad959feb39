"""A night or a sealed release measured, judged against another, and told in a report."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import IndexSet, Release, Report, VectorSet, fingerprint
from retrieval_core.artifacts.parts import put_part_once, read_table
from retrieval_core.config import EvaluateConfig, GateConfig, NightlyConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.analyse import analyse, tables
from retrieval_core.evaluate.analysis.stage_losses import lost_most
from retrieval_core.evaluate.gate.decide import Figures, Verdict, decide
from retrieval_core.evaluate.gate.shared_gallery import Ground, share_ground
from retrieval_core.evaluate.measure.golden_queries import read_golden
from retrieval_core.evaluate.measure.measure import Measured, measure
from retrieval_core.evaluate.reconstruct import reassemble
from retrieval_core.evaluate.report.build import gather_facts
from retrieval_core.evaluate.report.render import render
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.metrics.registry import UNLABELLED, find_metric, is_measured_by
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

# Too large for metrics.json.
PICTURES: dict[str, Any] = {
    "grids": True,
    "best": True,
    "worst": True,
    "album": True,
    "masks": {"examples": True},
    "duplicates": {"pairs": True},
    "golden": {"missed": True},
    "synthetic": {"missed": True},
}

log = logging.getLogger(__name__)


class Assessed(NamedTuple):
    """The report of a release, and the one of what it was compared with."""

    report: Report
    against: Report | None


def assess_night(settings: Settings, night: RunOutputs, config: NightlyConfig) -> Report:
    """Measure, decide, and write the report. A night measured before against the same production keeps its report."""
    store = settings.open_store()
    production = releases.read_release(store, releases.PRODUCTION)
    against = Report.open(store, production.report) if production else None
    if against and against.config == _question(night, config):
        return against
    return _judge(settings, night, config, against, production.fingerprint if production else None)


def assess_release(
    settings: Settings, sealed: Release, rival: Release | None, evaluate: EvaluateConfig, gate: GateConfig
) -> Assessed:
    """Measure a sealed release as `evaluate` says, and judge it against another that is measured alike.

    The same question keeps its report. Raises `NotFound` where something of a release is gone, `ShardCorrupt`.
    """
    store, how = settings.open_store(), {"evaluate": evaluate, "gate": gate}
    against = None
    if rival:
        against = Report.open(store, rival.report)
        asked = _asked(evaluate)
        if any(against.config.get(name) != value for name, value in asked.items()):
            config = rival.nightly_config().model_copy(update=how)
            against = _judge(settings, reassemble(store, rival), config, None, None)
    config = sealed.nightly_config().model_copy(update=how)
    report = _judge(settings, reassemble(store, sealed), config, against, rival.fingerprint if rival else None)
    return Assessed(report, against)


def _asked(evaluate: EvaluateConfig) -> dict[str, object]:
    """What is measured, and by which golden queries: the bytes of their file, which changes under the same name."""
    return {"evaluate": evaluate.model_dump(), "golden": read_golden(evaluate.golden).digest}


def _question(night: RunOutputs, config: NightlyConfig) -> dict[str, object]:
    """What a report answers."""
    question: dict[str, object] = {
        **_asked(config.evaluate),
        "gate": config.gate.model_dump(),
        "index": night.index.name,
        "variants": [ref.name for ref in night.variants],
    }
    if night.classes:
        question |= {"classes": night.classes.name, "top_classes": config.classify.top_classes}
    return question


def _judge(
    settings: Settings, night: RunOutputs, config: NightlyConfig, against: Report | None, rival: str | None
) -> Report:
    """The report of a night against that of the release `rival`; the one there is, or a new one."""
    store, question = settings.open_store(), _question(night, config)
    name = fingerprint("report", STAGE_VERSIONS["evaluate"], question, [against.fingerprint if against else ""])
    known = Report.find(store, name)
    if known:
        return known
    measured = measure(store, night, config, settings)
    ground = _ground(store, night, measured, rival) if rival else None
    verdict = _verdict(store, night, measured, against, ground, config.gate)
    analysis = analyse(store, night, measured, config, rival)
    facts = gather_facts(store, night, measured, analysis, verdict, config, name)
    if ground:
        facts = facts.model_copy(update={"n_shared_gallery": ground.n_gallery})
    return _seal(store, question, facts, tables(measured, analysis))


def _ground(store: Store, night: RunOutputs, measured: Measured, rival: str) -> Ground | None:
    """What both answer about the items that both have; None where those are all items, or one cannot be asked."""
    release = releases.get_release(store, rival)
    if release.catalog == night.catalog:
        return None
    try:
        return share_ground(store, release, measured.bench)
    except NotFound as error:  # a vacuum took it: what its own night measured is left to compare with
        log.warning("release %s cannot be searched to compare with: %s", rival, error)
        return None


def _verdict(
    store: Store,
    night: RunOutputs,
    measured: Measured,
    against: Report | None,
    ground: Ground | None,
    config: GateConfig,
) -> Verdict:
    catalog, index, latency_ms = night.catalog_facts, IndexSet.open(store, night.index), measured.published.latency_ms
    are_shown_masked = VectorSet.open(store, night.vectors).full_variant().view != "raw"
    labelled = ground.candidate if ground else measured.per_query
    categories = measured.items.select("item_id", "category")
    asked = labelled.join(categories, on="item_id", how="left", maintain_order="left")
    candidate = Figures(
        per_query=pl.concat([asked, measured.unlabelled.per_query], how="diagonal"),
        metrics={name: value for name, value in measured.metrics.items() if _is_compared(name)},
        n_rows=catalog.rows,
        n_indexed=index.counts["rows"],
        n_quarantined=catalog.quarantined,
        reconciled=catalog.reconciled,
        mask_fallback_rate=measured.masks.fallback_rate if are_shown_masked else 0.0,
        index_bytes=index.n_bytes,
        latency_ms=float(np.percentile(latency_ms, 95)) if len(latency_ms) else 0.0,
        n_shared_gallery=ground.n_gallery if ground else 0,
    )
    return decide(candidate, _production(store, against, ground) if against else None, config)


def _is_compared(name: str) -> bool:
    """Whether the gate compares a figure as it is: those of the published search for which higher is better."""
    known = find_metric(name)
    if known is None or known.scope or known.statistic != "value":
        return False
    return known.metric.needs_labels and known.metric.higher_is_better


def _production(store: Store, report: Report, ground: Ground | None) -> Figures:
    """What the gate compares with; without an index where that is gone by now."""
    index = IndexSet.find(store, str(report.config["index"]))
    per_query = read_table(store, report.part("queries.parquet"))
    if ground:
        unlabelled = [name for name in per_query.columns if is_measured_by(name, *UNLABELLED)]
        asked = per_query.select("item_id", *unlabelled).filter(pl.any_horizontal(pl.col(unlabelled).is_not_null()))
        per_query = pl.concat([ground.production, asked], how="diagonal")
    return Figures(
        per_query=per_query,
        metrics=report.metrics,
        n_indexed=index.counts["rows"] if index else 0,
        index_bytes=index.n_bytes if index else 0,
    )


def _seal(store: Store, question: dict[str, object], facts: ReportFacts, tables: dict[str, bytes]) -> Report:
    files = {
        "metrics.json": facts.model_dump_json(indent=1, exclude=PICTURES).encode(),
        **tables,
        "report.html": render(facts).encode(),
    }
    folder = f"{Report.folder}/{facts.report}"
    parts = tuple(put_part_once(store, f"{folder}/{file}", data, 0) for file, data in files.items())
    return Report(
        fingerprint=facts.report,
        config=question,
        parts=parts,
        metrics=facts.metrics,
        gate=facts.gate,
        gate_reason=facts.reason,
        gate_causes=facts.causes,
        lost_most=lost_most(facts.losses),
    ).seal(store)
