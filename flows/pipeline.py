"""From a sealed catalogue to a release: mask, embed, classify, boost, reduce, index, evaluate, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from prefect.logging import get_run_logger

from flows.pictures import boost, choose_masking, mask_and_embed, reduce
from flows.run import Clock
from flows.shards.engines import each_shard, in_shards, others_for
from flows.summary import RunSummary, summarise_run
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Catalog, Fitted, Ref, Release, Report, Value
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config.stages import IndexConfig, NightlyConfig, View
from retrieval_core.errors import AliasConflict
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.index.versions import IndexPlan
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.settings import Settings
from tasks.classify import classify_shard, plan_classes, prepare_classifier, seal_class_set
from tasks.evaluate import choose_variant, evaluate_run, search_shard
from tasks.head import fit_head
from tasks.index import build_index_shard, plan_index, seal_index
from tasks.mask import prepare_detector
from tasks.pictures import prepare_backbone, rejected_items
from tasks.publish import publish_release
from tasks.reduce import fit_reducer

MAX_TRIES = 3


class Classification(Value):
    """The classifier of a run and the classes it gave, both None when pictures are not classified."""

    classifier: Ref | None = None
    classes: Ref | None = None
    n_classified: int = 0


class Boosting(NamedTuple):
    """The heads of a run, and the vectors that they boosted."""

    heads: tuple[Fitted, ...]
    vectors: dict[Variant, Ref]


def publish_catalog(
    source: str, settings: Settings, config: NightlyConfig, ingest: Callable[[Release | None], IngestOutcome]
) -> RunSummary:
    """Seal a catalogue by `ingest`, make it searchable, measure it, and publish unless it got worse.

    `ingest` is given the production release. When another run publishes in the meantime, this one starts again from
    the new production, so that neither's changes are lost; artifacts that exist are reused. Raises `AliasConflict`
    after `MAX_TRIES`.
    """
    clock = Clock()
    for _ in range(MAX_TRIES - 1):
        try:
            return _publish_catalog(source, settings, config, ingest, clock)
        except AliasConflict as conflict:
            get_run_logger().warning("%s. Starting again from there", conflict)
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
        masking = choose_masking(settings, source, catalog, detector, config)
    with clock.stage("embed"):
        pictures = mask_and_embed(settings, catalog, masking, backbone, config)
        rejects = rejected_items(settings, catalog, list(pictures.rejects))
    classification = Classification()
    if classifier:
        with clock.stage("classify"):
            classification = _classify(settings, catalog, classifier, config)
    with clock.stage("head"):
        boosting = _boost(settings, catalog, pictures.vectors, config)
    vectors = {Variant(view): embedded for view, embedded in pictures.vectors.items()} | boosting.vectors
    with clock.stage("reduce"):
        choice = choose_variant(settings, catalog, list(vectors.values()), backbone, config)
        published = vectors[choice.variant]
        reducer = fit_reducer(settings, catalog, published, config.reduce)
        reduced = reduce(settings, published, reducer.ref, config.reduce)
    with clock.stage("index"):
        plan = plan_index(settings, catalog, published, reduced, config.index)
        index = _index(settings, plan, config.index)
    outputs = RunOutputs(
        source=source,
        catalog=catalog,
        fields=ingested.fields,
        catalog_facts=_catalog_facts(source, settings, ingested, plan, len(rejects)),
        backbone=backbone,
        segmenter=masking.segmenter,
        detector=masking.detector,
        masks=pictures.masks,
        classifier=classification.classifier,
        classes=classification.classes,
        heads=boosting.heads,
        reducer=reducer,
        variants=(*vectors.values(), *reduced),
        choice=choice,
        vectors=plan.vectors,
        candidates=plan.candidates,
        index=index,
        n_shards_built=len(plan.missing),
        rejects=rejects,
        seconds=clock.seconds,
        n_masked=pictures.n_masked,
        n_pictures={
            "ingest": ingested.n_read,
            "embed": max(pictures.n_embedded.values()),
            "classify": classification.n_classified,
        },
    )
    with clock.stage("evaluate"):
        report = evaluate_run(settings, outputs, config, others_for(search_shard, settings))
    with clock.stage("publish"):
        publication = publish_release(settings, outputs, report, production.fingerprint if production else None, config)
    summary = summarise_run(settings, outputs, Report.open(store, report), publication, production, clock.total())
    summary = summary.model_copy(update={"fetched": ingested.fetched})
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    store.put(f"{releases.RUNS}/{now.replace(':', '')}.json", summary.model_dump_json(indent=1).encode())
    return summary


def _classify(settings: Settings, catalog: Ref, classifier: Ref, config: NightlyConfig) -> Classification:
    plan = plan_classes(settings, catalog, classifier, config.classify)
    n_classified = sum(each_shard(classify_shard, settings, plan, classifier, config.classify, config.ingest))
    classes = seal_class_set(settings, catalog, plan)
    return Classification(classifier=classifier, classes=classes, n_classified=n_classified)


def _boost(settings: Settings, catalog: Ref, embedded: Mapping[View, Ref], config: NightlyConfig) -> Boosting:
    heads: list[Fitted] = []
    vectors: dict[Variant, Ref] = {}
    for view, plain in embedded.items() if config.head.enabled else ():
        head = fit_head(settings, catalog, plain, config.head)
        if head:
            heads.append(head)
            vectors[Variant(view, boosted=True)] = boost(settings, plain, head.ref)
    return Boosting(heads=tuple(heads), vectors=vectors)


def _index(settings: Settings, plan: IndexPlan, config: IndexConfig) -> Ref:
    in_shards(build_index_shard, settings, plan.split())
    return seal_index(settings, plan, config)


def _catalog_facts(
    source: str, settings: Settings, ingested: IngestOutcome, plan: IndexPlan, n_late_rejects: int
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
        moved=diff.moved,
        refreshed=diff.refreshed,
        passed_over=ingested.n_passed_over,
        indexed=plan.n_rows,
        quarantined=counts["quarantined"] + n_late_rejects,
        declared_removals=ingested.declared_removals,
        notes=ingested.notes,
    )
