"""From a sealed catalogue to a release: mask, embed, classify, boost, reduce, index, evaluate, publish."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from prefect.logging import get_run_logger

from flows.pictures import Embedding, embed_pictures, mask_pictures
from flows.run import Clock
from flows.shards import each_shard, in_shards
from flows.summary import CatalogSummary, RunSummary
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Backbone, Catalog, Fitted, Ref, Release, Report, Value
from retrieval_core.artifacts.releases import RUNS
from retrieval_core.artifacts.variants import Variant, parse_variant
from retrieval_core.config import IndexConfig, NightlyConfig, View
from retrieval_core.errors import AliasConflict, BadConfig
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.index.versions import IndexPlan
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.settings import Settings
from tasks.classify import classify_shard, plan_classes, prepare_classifier, seal_class_set
from tasks.embed import prepare_backbone, rejected_items
from tasks.evaluate import evaluate_run
from tasks.head import apply_head, fit_head
from tasks.index import build_index_shard, plan_index, seal_index
from tasks.mask import prepare_detector
from tasks.publish import publish_release
from tasks.reduce import apply_reducer, fit_reducer

DEFAULTS = NightlyConfig()  # a parameter that may be None is a form that jumps about
MAX_TRIES = 3


class Classification(Value):
    """The classifier of the night and the classes it gave, both None where pictures are not classified."""

    classifier: Ref | None = None
    classes: Ref | None = None
    n_classified: int = 0


class Boosting(NamedTuple):
    """The heads of this run by the view they were trained on, and the boosted vectors."""

    heads: dict[View, Fitted]
    vectors: dict[Variant, Ref]


def publish_catalog(
    source: str, settings: Settings, config: NightlyConfig, ingest: Callable[[Release | None], IngestOutcome]
) -> RunSummary:
    """Seal a catalogue by `ingest`, make it searchable, measure it, and publish unless it got worse.

    `ingest` is given what production is by then. Where somebody else publishes meanwhile, all begins again from what
    they published, so that neither's changes are lost; what was made already is not made again. Raises `AliasConflict`
    after `MAX_TRIES`.
    """
    clock = Clock()
    for _ in range(MAX_TRIES - 1):
        try:
            return _publish_catalog(source, settings, config, ingest, clock)
        except AliasConflict as conflict:
            get_run_logger().warning("%s. Going on from there", conflict)
    return _publish_catalog(source, settings, config, ingest, clock)


def _publish_catalog(
    source: str,
    settings: Settings,
    config: NightlyConfig,
    ingest: Callable[[Release | None], IngestOutcome],
    clock: Clock,
) -> RunSummary:
    store = settings.open_store()
    production = releases.read_release(store, releases.PRODUCTION)
    with clock.stage("ingest"):
        ingested = ingest(production)
        catalog = ingested.catalog
    with clock.stage("backbone"):  # before the long work: bad weights fail here
        backbone = prepare_backbone(settings, catalog, config.embed, config.ingest)
        detector = prepare_detector(settings, config.crop) if config.detects else None
        classifier = prepare_classifier(settings, config.classify) if config.classify.enabled else None
    with clock.stage("mask"):
        masking = mask_pictures(settings, source, catalog, detector, config)
    with clock.stage("embed"):
        embeddings = embed_pictures(settings, catalog, backbone, masking.masks, config)
        rejects = rejected_items(settings, catalog, [reject for made in embeddings.values() for reject in made.rejects])
    classification = Classification()
    if classifier:
        with clock.stage("classify"):
            classification = _classify(settings, catalog, classifier, config)
    with clock.stage("head"):
        boosting = _boost(settings, catalog, embeddings, config)
    everything = {Variant(view): made.vectors for view, made in embeddings.items()} | boosting.vectors
    with clock.stage("reduce"):
        chosen = everything[choose_variant(config.index, list(everything), Backbone.open(store, backbone).has_text)]
        reducer = fit_reducer(settings, catalog, chosen, config.reduce)
        reduced = apply_reducer(settings, chosen, reducer.ref, config.reduce)
    with clock.stage("index"):
        plan = plan_index(settings, catalog, chosen, reduced, config.index)
        index = _index(settings, plan, config.index)
    night = RunOutputs(
        source=source,
        catalog=catalog,
        catalog_facts=_catalog_facts(source, settings, ingested, plan, len(rejects)),
        backbone=backbone,
        segmenter=masking.segmenter,
        detector=masking.detector,
        masks=masking.masks,
        classifier=classification.classifier,
        classes=classification.classes,
        heads=tuple(boosting.heads.values()),
        reducer=reducer,
        variants=(*everything.values(), *reduced),
        vectors=plan.vectors,
        candidates=plan.candidates,
        index=index,
        n_shards_built=len(plan.missing),
        rejects=rejects,
        seconds=clock.seconds,
        n_pictures={
            "ingest": ingested.n_read,
            "mask": masking.n_masked,
            "embed": max(made.n_embedded for made in embeddings.values()),
            "classify": classification.n_classified,
        },
    )
    with clock.stage("evaluate"):
        report = evaluate_run(settings, night, config)
    with clock.stage("publish"):
        published = publish_release(settings, night, report, production.fingerprint if production else None, config)
    sealed = Report.open(store, report)
    facts = night.catalog_facts
    fitted = {"segmenter": masking.segmenter, "reducer": reducer}
    fitted |= {f"head/{variant}": outcome for variant, outcome in boosting.heads.items()}
    summary = RunSummary(
        release=published.release,
        gate=published.gate,
        reason=published.reason,
        catalog=CatalogSummary(**{name: getattr(facts, name) for name in CatalogSummary.model_fields}),
        masked=masking.n_masked,
        embedded=max(made.n_embedded for made in embeddings.values()),
        classified=classification.n_classified,
        trained=[name for name, outcome in fitted.items() if outcome and outcome.trained],
        seconds=clock.total(),
        metrics=sealed.metrics,
        causes=list(sealed.gate_causes),
        lost_most=sealed.lost_most,
        production=Report.open(store, production.report).metrics if production else {},
        report=str(store.local_path(sealed.part("report.html").key)),
        link=settings.report_link(published.release),
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    store.put(f"{RUNS}/{now.replace(':', '')}.json", summary.model_dump_json(indent=1).encode())
    return summary


def choose_variant(config: IndexConfig, available: list[Variant], reads_text: bool) -> Variant:
    """The representation to publish; `auto` takes boosted vectors, unless the backbone also reads text.

    A head is trained on pictures alone, so behind it a text would no longer meet them. Raises `BadConfig` when the
    variant asked for was not made.
    """
    if config.variant != "auto":
        variant = parse_variant(config.variant)
        if variant not in available:
            names = ", ".join(str(variant) for variant in available)
            raise BadConfig(f"index.variant {config.variant} was not made; this run made {names}")
        return variant
    boosted = [variant for variant in available if variant.boosted]
    return available[0] if reads_text or not boosted else boosted[0]


def _classify(settings: Settings, catalog: Ref, classifier: Ref, config: NightlyConfig) -> Classification:
    plan = plan_classes(settings, catalog, classifier, config.classify)
    n_classified = sum(each_shard(classify_shard, settings, plan, classifier, config.classify, config.ingest))
    classes = seal_class_set(settings, catalog, plan)
    return Classification(classifier=classifier, classes=classes, n_classified=n_classified)


def _boost(settings: Settings, catalog: Ref, embeddings: dict[View, Embedding], config: NightlyConfig) -> Boosting:
    heads: dict[View, Fitted] = {}
    vectors: dict[Variant, Ref] = {}
    for view, made in embeddings.items() if config.head.enabled else ():
        outcome = fit_head(settings, catalog, made.vectors, config.head)
        if outcome:
            heads[view] = outcome
            vectors[Variant(view, boosted=True)] = apply_head(settings, made.vectors, outcome.ref)
    return Boosting(heads=heads, vectors=vectors)


def _index(settings: Settings, plan: IndexPlan, config: IndexConfig) -> Ref:
    in_shards(build_index_shard, settings, plan.split())
    return seal_index(settings, plan, config)


def _catalog_facts(
    source: str, settings: Settings, ingested: IngestOutcome, plan: IndexPlan, n_late: int
) -> CatalogFacts:
    counts = Catalog.open(settings.open_store(), ingested.catalog).counts
    diff = ingested.diff
    return CatalogFacts(
        source=source,
        rows=counts["rows"],
        added=diff.added,
        changed=diff.changed,
        removed=diff.removed,
        unchanged=diff.unchanged,
        indexed=plan.n_rows,
        quarantined=counts["quarantined"] + n_late,
    )
