"""A sealed release measured again, against another."""

from __future__ import annotations

from prefect import flow

from flows.run import RUNNER, Clock, holds_lease
from flows.summary import as_table, metrics_table
from flows.ui_artifacts import show_report, show_table
from retrieval_core.artifacts.manifests import Report, Value
from retrieval_core.artifacts.releases import PRODUCTION, find_baseline, find_release
from retrieval_core.config import EvaluateConfig, GateConfig
from retrieval_core.evaluate.measure.golden_queries import check_golden
from retrieval_core.settings import Settings
from tasks.evaluate import evaluate_release

EVALUATE, GATE = EvaluateConfig(), GateConfig()  # a parameter that may be None is a form that jumps about


class EvaluationSummary(Value):
    """What was measured: `verdict` and `reason` are those of the gate, were `release` to replace `against`.

    `report` is its fingerprint, `page` a file, `link` where a browser finds that; `against` is empty for nobody.
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
        """Tables for Prefect's UI."""
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
    """Measure a sealed release, and write a report of it; nothing is published, held or made besides.

    Both releases are measured with the same config. A vacuum takes the report in time, since no release names it.

    Args:
        settings: where the store is and how many threads to use.
        release: a release's name, the start of it, production or latest.
        against: another release, which the report calls production; none for nobody; empty takes production, or of
            production the release before it.
        config: what to measure with.
        gate: what would count as a loss.
    """
    check_golden(config.golden)
    store, clock = settings.open_store(), Clock()
    chosen = find_release(store, release)
    baseline = find_baseline(store, chosen, against)
    with clock.stage("evaluate"):
        judged = evaluate_release(settings, chosen.ref, baseline.ref if baseline else None, config, gate)
    report = Report.open(store, judged.report)
    summary = EvaluationSummary(
        release=chosen.fingerprint,
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
