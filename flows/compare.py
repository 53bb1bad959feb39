"""Compare variants: make what they need once, put the same queries to all of them, report the results side by side."""

from __future__ import annotations

import json

from prefect import flow
from prefect.logging import get_run_logger

from flows.pictures import Masking, choose_masking, snapshot_catalog
from flows.preflight import preflight
from flows.run import RUNNER, Clock, holds_lease
from flows.workbench import Workbench, stages_of
from retrieval_core.artifacts.manifests import Comparison, Ref, Value, VectorSet
from retrieval_core.artifacts.parts import read_table
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, VariantConfig
from retrieval_core.evaluate.compare.markdown import as_markdown
from retrieval_core.evaluate.compare.measure import BuiltVariant, ComparisonInputs, Searched
from retrieval_core.evaluate.compare.seal import comparison_fingerprint
from retrieval_core.evaluate.compare.tables import Table
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.compare import find_unlearnable, seal_comparison, split_catalog
from tasks.preflight import check_before_comparison

NUMBER_BYTES = 4  # of a component of a vector, and of the class of an item
NO_MASKS = "the source has no masks and the store no segmenter"


class ComparisonSummary(Value):
    """What a comparison did: the document of `vitrine compare --json`.

    `metrics` are by variant, then by name; `tables` are Markdown; `report` and `queries` are files.
    """

    comparison: str
    title: str
    about: str
    trained: list[str]
    models: dict[str, str]
    embedded: int
    seconds: dict[str, float]
    metrics: dict[str, dict[str, float]]
    tables: list[str]
    report: str
    queries: str


@flow(name="compare", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def compare(source: str, settings: Settings, config: ComparisonConfig) -> ComparisonSummary:
    """Train and embed what the variants need and the store lacks, and compare them on the same held-out queries.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        config: the variants, the models trained for them, and the tables.
    """
    preflight(check_before_comparison, settings, source, config)
    store, clock = settings.open_store(), Clock()
    with clock.stage("ingest"):
        ingested = snapshot_catalog(settings, source, config.ingest)
        catalog, fields = split_catalog(settings, ingested.catalog, config.protocol), ingested.fields
        config = _without_unlearnable(settings, catalog, fields, config)
    with clock.stage("backbones"):  # before the long work: bad weights fail here
        Workbench(settings, catalog, config, Masking()).prepare_published()
    with clock.stage("mask"):
        masking = _choose_masking(settings, source, catalog, config)
        if masking.segmenter is None:
            config = _without(
                config, config.variants_needing_masks(), NO_MASKS if config.mask.enabled else "masking is off"
            )
        bench = Workbench(settings, catalog, config, masking, fields)
        for view in config.views():
            bench.masks(view)
    replicas = [
        Workbench(settings, catalog, config.with_seed(step), masking, fields)
        for step in range(1, config.protocol.seeds)
    ]
    with clock.stage("train"):
        for replica in replicas:  # first, so that a name means the model of the config's own seed in the end
            for name in config.training_order():
                replica.model(name)
        models = {name: bench.model(name) for name in config.training_order()}
    with clock.stage("embed"):
        for variant in config.variants:
            bench.embedded(variant)
    with clock.stage("boost and reduce"):
        searched = [bench.searched(variant) for variant in config.variants]
        trained = config.trained_variants()
        repeated = {
            variant.name: tuple(replica.searched(variant) for replica in replicas)
            for variant in config.variants
            if variant.name in trained
        }
    with clock.stage("evaluate"):
        name = comparison_fingerprint(config, catalog, searched, repeated, models)
        comparison = Comparison.find(store, name)
        if comparison is None:
            inputs = ComparisonInputs(
                source=source,
                catalog=catalog,
                variants=tuple(
                    _built_variant(bench, variant, repeated.get(variant.name, ())) for variant in config.variants
                ),
                models=models,
                seconds=clock.seconds,
            )
            comparison = Comparison.open(store, seal_comparison(settings, name, inputs, config))
    fitted = models | ({"segmenter": masking.segmenter} if masking.segmenter else {})
    return ComparisonSummary(
        comparison=comparison.fingerprint,
        title=config.title,
        about=config.about,
        trained=[name for name, model in fitted.items() if model.trained],
        models={name: model.ref.name for name, model in models.items()},
        embedded=sum(each.n_embedded for each in (bench, *replicas)),
        seconds=clock.total(),
        metrics={variant.name: {} for variant in config.variants} | _metrics(store, comparison),
        tables=_tables(store, comparison),
        report=str(store.local_path(comparison.part("report.html").key)),
        queries=str(store.local_path(comparison.part("queries.parquet").key)),
    )


def _without_unlearnable(
    settings: Settings, catalog: Ref, fields: Ref | None, config: ComparisonConfig
) -> ComparisonConfig:
    """The comparison without the models that this catalogue cannot teach and the variants that need them."""
    unlearnable = find_unlearnable(settings, catalog, fields, config)
    for reason in dict.fromkeys(unlearnable.models.values()):
        models = {name for name, other in unlearnable.models.items() if other == reason}
        config = _without(config, config.variants_needing(models=models), reason)
    boosted = {variant.name for variant in config.variants if variant.boosted}
    return _without(config, config.variants_needing(variants=boosted), unlearnable.head) if unlearnable.head else config


def _without(config: ComparisonConfig, variants: set[str], reason: str) -> ComparisonConfig:
    if not variants:
        return config
    get_run_logger().warning("left out, because %s: %s", reason, ", ".join(sorted(variants)))
    return config.without(variants, reason)


def _choose_masking(settings: Settings, source: str, catalog: Ref, config: ComparisonConfig) -> Masking:
    """The segmenter, if a variant needs its masks and there can be one."""
    if not config.variants_needing_masks():
        return Masking()
    return choose_masking(settings, source, catalog, None, stages_of(config, EmbedConfig(background="masked")))


def _built_variant(bench: Workbench, variant: VariantConfig, replicas: tuple[Searched, ...]) -> BuiltVariant:
    store, searched = bench.settings.open_store(), bench.searched(variant)
    vector_sets = [vectors for vectors in (searched.vectors, searched.whole) if vectors]
    n_numbers = sum(VectorSet.open(store, vectors).dim for vectors in vector_sets) + bool(variant.classifier)
    return BuiltVariant(
        spec=variant,
        **dict(searched),
        replicas=replicas,
        masks=bench.masks(variant.background) if variant.background == "crop" else None,
        backbone=bench.backbone(variant),
        ms_per_picture=sum(bench.ms_per_picture(network, variant.precision) for network in bench.networks(variant)),
        n_bytes_per_item=n_numbers * NUMBER_BYTES,
    )


def _metrics(store: Store, comparison: Comparison) -> dict[str, dict[str, float]]:
    summary = read_table(store, comparison.part("summary.parquet"), ["variant", "metric", "value"])
    metrics: dict[str, dict[str, float]] = {}
    for variant, metric, value in summary.iter_rows():
        metrics.setdefault(variant, {})[metric] = value
    return metrics


def _tables(store: Store, comparison: Comparison) -> list[str]:
    facts = json.loads(store.get(comparison.part("facts.json").key))
    return [as_markdown(Table.model_validate(table)) for table in facts["tables"]]
