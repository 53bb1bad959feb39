"""Evaluate a sealed release again, against another one."""

from __future__ import annotations

from prefect import flow

from flows.run import RUNNER, Clock, holds_lease
from flows.shards.engines import others_for
from flows.summary import as_table, metrics_table
from flows.ui_artifacts import show_report, show_table
from retrieval_core.artifacts.manifests import Report, Value
from retrieval_core.artifacts.releases import PRODUCTION, find_baseline, find_release
from retrieval_core.config.stages import EvaluateConfig, GateConfig
from retrieval_core.evaluate.measure.golden_queries import check_golden
from retrieval_core.settings import Settings
from tasks.evaluate import evaluate_release, search_shard

EVALUATE, GATE = EvaluateConfig(), GateConfig()  # defaults, as in flows.run


class EvaluationSummary(Value):
    """What was measured.

    `verdict` and `reason` are what the gate would decide if `release` were to replace `against`, which is "" without a
    baseline. `report` is the report's fingerprint, `page` its file, `link` its URL if a browser can reach it.
    """

    release: str
    against: str
    report: str
    verdict: str
    reason: str
    metrics: dict[str, float]
    against_metrics: dict[str, float]
    seconds: dict[str, float]
    page: str
    link: str = ""

    def as_markdown(self) -> str:
        """Return tables for Prefect's UI."""
        rows = [
            ("release", self.release),
            ("against", self.against or "nobody"),
            (f"would be {self.verdict}", self.reason),
            ("seconds", f"{self.seconds['total']:.1f}"),
            ("report", self.link or self.page),
        ]
        return f"{as_table(('', ''), rows)}\n\n{metrics_table(self.metrics, self.against_metrics, 'against')}"


@flow(name="evaluate", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def evaluate(
    settings: Settings,
    release: str = PRODUCTION,
    against: str = "",
    config: EvaluateConfig = EVALUATE,
    gate: GateConfig = GATE,
) -> EvaluationSummary:
    """Measure a sealed release, and write a report of it; nothing is published or held.

    Both releases are measured with the same config. No release names the report, so a later vacuum removes it.

    Args:
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        release: the fingerprint of a release or the start of it, production or latest.
        against: the baseline, which the report calls production; none for no baseline; empty takes production, or the
            release before it if production itself is measured.
        config: what to measure with.
        gate: what would count as a loss.
    """
    check_golden(config.golden)
    store, clock = settings.open_store(), Clock()
    evaluated = find_release(store, release)
    baseline = find_baseline(store, evaluated, against)
    with clock.stage("evaluate"):
        compared_with, machines = baseline.ref if baseline else None, others_for(search_shard, settings)
        judged = evaluate_release(settings, evaluated.ref, compared_with, config, gate, machines)
    report = Report.open(store, judged.report)
    summary = EvaluationSummary(
        release=evaluated.fingerprint,
        against=baseline.fingerprint if baseline else "",
        report=report.fingerprint,
        verdict=report.gate,
        reason=report.gate_reason,
        metrics=report.metrics,
        against_metrics=Report.open(store, judged.baseline).metrics if judged.baseline else {},
        seconds=clock.total(),
        page=str(store.local_path(report.part("report.html").key)),
        link=settings.report_link(report.fingerprint),
    )
    show_table("evaluate-summary", summary.as_markdown(), "What the release is worth")
    show_report("evaluate", summary.link)
    return summary
