"""Checks of a run before it reads anything: one task for each kind of run, so that transient failures are retried."""

from __future__ import annotations

from retrieval_core.config.stages import NightlyConfig, Precision
from retrieval_core.embed.auto import decide_backbone
from retrieval_core.embed.engine import check_precision
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.measure.golden_queries import check_golden
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.preflight import check_run
from retrieval_core.settings import Settings
from retrieval_core.store.base import check_conditions
from retrieval_core.train.captions import check_reads_text
from retrieval_core.train.config import AnyTraining, CaptionsTraining
from retrieval_core.train.inputs import start_config
from tasks.stage import stage


@stage("check before run")
def check_before_run(settings: Settings, source: str, config: NightlyConfig, is_evaluated: bool = True) -> None:
    """Check the source, store, weights and machine and, if the run is evaluated, the file of golden queries."""
    store = settings.open_store()
    check_run(source, store, config.model_copy(update={"embed": decide_backbone(store, config.embed)}))
    _check_machine(settings, config.embed.precision)
    if is_evaluated:
        check_golden(config.evaluate.golden)


@stage("check before training")
def check_before_training(settings: Settings, source: str, config: AnyTraining, stages: NightlyConfig) -> None:
    """Check the source, the store, the weights that the training starts from, and the detector that `stages` uses."""
    store = settings.open_store()
    check_run(source, store, stages.model_copy(update={"embed": start_config(config)}))
    if isinstance(config, CaptionsTraining):
        check_reads_text(store, config)


@stage("check before comparison")
def check_before_comparison(settings: Settings, source: str, config: ComparisonConfig) -> None:
    """Check the source, the store, and the weights of every variant and training."""
    from retrieval_core.evaluate.compare.check import check_comparison  # imports torch

    open_source(source)
    store = settings.open_store()
    check_conditions(store)
    check_comparison(store, config)
    for precision in {variant.precision for variant in config.variants}:
        _check_machine(settings, precision)


def _check_machine(settings: Settings, precision: Precision) -> None:
    """Check that this machine computes in a precision; the workers of a Dask cluster check it for themselves."""
    if settings.runner == "local":
        check_precision(settings.torch_device, precision)
