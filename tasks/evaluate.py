"""Choose the variant to publish; measure a run or a sealed release, compare it with another, write the report."""

from __future__ import annotations

from prefect.logging import get_run_logger

from retrieval_core.artifacts.manifests import Backbone, Ref, Release, Report, Value, VectorSet
from retrieval_core.config.stages import EvaluateConfig, GateConfig, NightlyConfig
from retrieval_core.evaluate import evaluation, search_shards, variant_choice
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.search_shards import Machines, SearchShard
from retrieval_core.evaluate.variant_choice import VariantChoice
from retrieval_core.settings import Settings
from tasks.stage import stage


class Judged(Value):
    """The report of a release, and that of its baseline."""

    report: Ref
    baseline: Ref | None


@stage("choose variant")
def choose_variant(
    settings: Settings, catalog: Ref, vectors: list[Ref], backbone: Ref, config: NightlyConfig
) -> VariantChoice:
    """Choose which of these vectors to publish."""
    store = settings.open_store()
    sets = [VectorSet.open(store, ref) for ref in vectors]
    reads_text = Backbone.open(store, backbone).has_text
    choice = variant_choice.choose_variant(store, catalog, sets, config, reads_text)
    get_run_logger().info("variant: %s", choice.why)
    return choice


@stage("evaluate")
def evaluate_run(settings: Settings, outputs: RunOutputs, config: NightlyConfig, machines: Machines | None) -> Ref:
    """Evaluate a run against production."""
    report = evaluation.evaluate_run(settings, outputs, config, machines)
    _log_verdict(report)
    return report.ref


@stage("evaluate again")
def evaluate_release(
    settings: Settings,
    release: Ref,
    baseline: Ref | None,
    evaluate: EvaluateConfig,
    gate: GateConfig,
    machines: Machines | None,
) -> Judged:
    """Evaluate a sealed release against a baseline that is measured in the same way."""
    store = settings.open_store()
    compared_with = Release.open(store, baseline) if baseline else None
    opened = Release.open(store, release)
    done = evaluation.evaluate_release(settings, opened, compared_with, evaluate, gate, machines)
    _log_verdict(done.report)
    return Judged(report=done.report.ref, baseline=done.baseline.ref if done.baseline else None)


@stage("search shard")
def search_shard(settings: Settings, shard: SearchShard) -> None:
    """Make one shard of an exact search."""
    search_shards.search_shard(settings.open_store(), shard)


def _log_verdict(report: Report) -> None:
    get_run_logger().info("gate: %s. %s", report.gate, report.gate_reason)
