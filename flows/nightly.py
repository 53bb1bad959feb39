"""The night: ingest, mask, embed, classify, boost, reduce, index, evaluate, publish."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, unmapped
from prefect.artifacts import create_markdown_artifact

from flows.shards import RUNNER, each_shard
from flows.summary import CatalogSummary, Clock, RunSummary
from flows.views import Embedding, embed_pictures, mask_pictures
from retrieval_core import releases
from retrieval_core.artifacts import Backbone, Catalog, Fitted, Ref, Report, Value, boosted
from retrieval_core.config import IndexConfig, NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.facts import CatalogFacts
from retrieval_core.evaluate.measure import Night
from retrieval_core.inspection import RUNS
from retrieval_core.settings import Settings
from tasks.classify import classify_shard, plan_classes, prepare_classifier, seal_class_set
from tasks.embed import prepare_backbone, rejected_items
from tasks.evaluate import evaluate_night
from tasks.head import apply_head, fit_head
from tasks.index import IndexPlan, build_index_shard, plan_index, seal_index
from tasks.ingest import IngestOutcome, snapshot_catalog
from tasks.mask import prepare_detector
from tasks.publish import publish_release
from tasks.reduce import apply_reducer, fit_reducer


class Classification(Value):
    """The classifier of the night and the classes it gave, both None where pictures are not classified."""

    classifier: Ref | None = None
    classes: Ref | None = None
    n_classified: int = 0


class Boosting(Value):
    """The heads of the night and the boosted sets, by the variant they were trained on."""

    heads: dict[str, Fitted] = {}
    vectors: dict[str, Ref] = {}


@flow(name="nightly", task_runner=RUNNER, validate_parameters=True)
def nightly(source: str, settings: Settings, config: NightlyConfig | None = None) -> RunSummary:
    """Bring the search up to date with the catalogue, measure it, and publish unless it got worse.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use.
        config: what to make, stage by stage.
    """
    config = config or NightlyConfig()
    store, clock = settings.open_store(), Clock()
    production = releases.read_alias(store, releases.PRODUCTION)
    with clock.stage("ingest"):
        ingested = snapshot_catalog(settings, source, config.ingest)
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
    everything = {name: made.vectors for name, made in embeddings.items()} | boosting.vectors
    with clock.stage("reduce"):
        chosen = everything[choose_variant(config.index, list(everything), Backbone.open(store, backbone).has_text)]
        reducer = fit_reducer(settings, catalog, chosen, config.reduce)
        reduced = apply_reducer(settings, chosen, reducer.ref, config.reduce)
    with clock.stage("index"):
        plan = plan_index(settings, catalog, chosen, reduced, config.index)
        index = _index(settings, plan, config.index)
    night = Night(
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
    )
    with clock.stage("evaluate"):
        report = evaluate_night(settings, night, config)
    with clock.stage("publish"):
        published = publish_release(settings, night, report, production.release if production else None, config)
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
        report=str(store.local_path(sealed.part("report.html").key)),
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    store.put(f"{RUNS}/{now.replace(':', '')}.json", summary.model_dump_json(indent=1).encode())
    create_markdown_artifact(summary.as_markdown(), key="nightly-summary", description="What the night did")
    return summary


def choose_variant(config: IndexConfig, available: list[str], reads_text: bool) -> str:
    """The representation to publish; `auto` takes boosted vectors, unless the backbone also reads text.

    A head is trained on pictures alone, so behind it a text would no longer meet them. Raises `BadConfig` when the
    variant asked for was not made.
    """
    if config.variant != "auto":
        if config.variant not in available:
            raise BadConfig(f"index.variant {config.variant} was not made; this run made {', '.join(available)}")
        return config.variant
    by_head = [name for name in available if name.endswith("boosted")]
    return available[0] if reads_text or not by_head else by_head[0]


def _classify(settings: Settings, catalog: Ref, classifier: Ref, config: NightlyConfig) -> Classification:
    plan = plan_classes(settings, catalog, classifier, config.classify)
    n_classified = sum(each_shard(classify_shard, settings, plan, classifier, config.classify, config.ingest))
    classes = seal_class_set(settings, catalog, plan)
    return Classification(classifier=classifier, classes=classes, n_classified=n_classified)


def _boost(settings: Settings, catalog: Ref, embeddings: dict[str, Embedding], config: NightlyConfig) -> Boosting:
    heads, vectors = {}, {}
    for variant, made in embeddings.items() if config.head.enabled else ():
        outcome = fit_head(settings, catalog, made.vectors, config.head)
        if outcome:
            heads[variant] = outcome
            vectors[boosted(variant)] = apply_head(settings, made.vectors, outcome.ref)
    return Boosting(heads=heads, vectors=vectors)


def _index(settings: Settings, plan: IndexPlan, config: IndexConfig) -> Ref:
    futures = build_index_shard.map(unmapped(settings), unmapped(plan), list(plan.missing))
    for future in futures:
        future.result()
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
