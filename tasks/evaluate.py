"""Measure the night, compare it with production, write the report."""

from __future__ import annotations

from prefect.logging import get_run_logger

from retrieval_core.artifacts.manifests import Ref, Release, Report, Value
from retrieval_core.config import EvaluateConfig, GateConfig, NightlyConfig
from retrieval_core.evaluate.evaluation import assess_night, assess_release
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.settings import Settings
from tasks.stage import stage


class Judged(Value):
    """The report of a release, and the one of what it was compared with."""

    report: Ref
    against: Ref | None


@stage("evaluate")
def evaluate_night(settings: Settings, night: RunOutputs, config: NightlyConfig) -> Ref:
    """Measure, decide, and write the report. A night measured before against the same production keeps its report."""
    report = assess_night(settings, night, config)
    _log_verdict(report)
    return report.ref


@stage("evaluate again")
def evaluate_release(
    settings: Settings, release: Ref, rival: Ref | None, evaluate: EvaluateConfig, gate: GateConfig
) -> Judged:
    """Measure a sealed release, and judge it against another that is measured alike: see `assess_release`."""
    store = settings.open_store()
    other = Release.open(store, rival) if rival else None
    done = assess_release(settings, Release.open(store, release), other, evaluate, gate)
    _log_verdict(done.report)
    return Judged(report=done.report.ref, against=done.against.ref if done.against else None)


def _log_verdict(report: Report) -> None:
    get_run_logger().info("gate: %s. %s", report.gate, report.gate_reason)
