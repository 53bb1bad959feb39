"""The night: ingest, mask, embed, boost, reduce, index, evaluate, publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, cast

from prefect import flow, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from retrieval_core import releases
from retrieval_core.artifacts import Catalog, Fitted, Ref, Reject, Report, Value, boosted
from retrieval_core.config import IndexConfig, NightlyConfig
from retrieval_core.embed.cards import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.facts import CatalogFacts
from retrieval_core.evaluate.measure import Night
from retrieval_core.inspection import RUNS
from retrieval_core.settings import Settings
from tasks.embed import embed_shard, plan_vectors, prepare_backbone, rejected_items, seal_vector_set
from tasks.evaluate import evaluate_night
from tasks.head import apply_head, fit_head
from tasks.index import IndexPlan, build_index_shard, plan_index, seal_index
from tasks.ingest import IngestOutcome, collect_truth_masks, snapshot_catalog
from tasks.mask import fit_segmenter, mask_shard, plan_masks, seal_mask_set
from tasks.publish import publish_release
from tasks.reduce import apply_reducer, fit_reducer


class CatalogSummary(Value):
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    quarantined: int


class RunSummary(Value):
    """What a run did: the document of `vitrine run --json`."""

    release: str
    gate: Literal["published", "held"]
    reason: str
    catalog: CatalogSummary
    masked: int
    embedded: int
    trained: list[str]
    seconds: dict[str, float]
    metrics: dict[str, float]
    report: str


class Clock:
    """Seconds per stage, in the order the stages ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        get_run_logger().info("stage %s", name)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._started, 3)}


class Masking(Value):
    """The segmenter of the night and its masks, both None where pictures stay as they are."""

    segmenter: Fitted | None = None
    masks: Ref | None = None
    n_masked: int = 0


class Embedding(Value):
    """A vector set and how it came about."""

    vectors: Ref
    n_embedded: int
    rejects: tuple[Reject, ...]


class Boosting(Value):
    """The heads of the night and the boosted sets, by the variant they were trained on."""

    heads: dict[str, Fitted] = {}
    vectors: dict[str, Ref] = {}


# One shard at a time: a shard's own threads decode and embed on every core already.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=1))


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
    with clock.stage("mask"):
        masking = _mask(settings, source, catalog, config)
    with clock.stage("embed"):
        embeddings = _embed(settings, catalog, backbone, masking.masks, config)
        rejects = rejected_items(settings, catalog, [reject for made in embeddings.values() for reject in made.rejects])
    with clock.stage("head"):
        boosting = _boost(settings, catalog, embeddings, config)
    everything = {name: made.vectors for name, made in embeddings.items()} | boosting.vectors
    with clock.stage("reduce"):
        chosen = everything[choose_variant(config.index, list(everything), config.embed.backbone)]
        reducer = fit_reducer(settings, catalog, chosen, config.reduce)
        reduced = apply_reducer(settings, chosen, reducer.ref, config.reduce)
    with clock.stage("index"):
        plan = plan_index(settings, catalog, chosen, reduced[0], config.index)
        index = _index(settings, plan)
    night = Night(
        source=source,
        catalog=catalog,
        catalog_facts=_catalog_facts(source, settings, ingested, plan, len(rejects)),
        backbone=backbone,
        segmenter=masking.segmenter,
        masks=masking.masks,
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
        trained=[name for name, outcome in fitted.items() if outcome and outcome.trained],
        seconds=clock.total(),
        metrics=sealed.metrics,
        report=str(store.local_path(sealed.part("report.html").key)),
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    store.put(f"{RUNS}/{now.replace(':', '')}.json", summary.model_dump_json(indent=1).encode())
    create_markdown_artifact(_markdown(summary), key="nightly-summary", description="What the night did")
    return summary


def choose_variant(config: IndexConfig, available: list[str], backbone: str) -> str:
    """The representation to publish; `auto` takes boosted vectors, unless the backbone also reads text.

    A head is trained on pictures alone, so behind it a text would no longer meet them. Raises `BadConfig` when the
    variant asked for was not made.
    """
    if config.variant != "auto":
        if config.variant not in available:
            raise BadConfig(f"index.variant {config.variant} was not made; this run made {', '.join(available)}")
        return config.variant
    by_head = [name for name in available if name.endswith("boosted")]
    return available[0] if get_card(backbone).has_text or not by_head else by_head[0]


def _mask(settings: Settings, source: str, catalog: Ref, config: NightlyConfig) -> Masking:
    if not config.mask.enabled or config.embed.background == "raw":
        return Masking()
    truth = collect_truth_masks(settings, source, catalog)
    segmenter = fit_segmenter(settings, catalog, truth, config.mask, config.ingest)
    if segmenter is None:
        return Masking()
    plan = plan_masks(settings, catalog, segmenter.ref, config.mask)
    futures = mask_shard.map(
        unmapped(settings),
        unmapped(plan),
        range(len(plan.shards)),
        unmapped(segmenter.ref),
        unmapped(config.mask),
        unmapped(config.ingest),
    )
    n_masked = sum(future.result() for future in futures)
    return Masking(segmenter=segmenter, masks=seal_mask_set(settings, catalog, plan), n_masked=n_masked)


def _embed(
    settings: Settings, catalog: Ref, backbone: Ref, masks: Ref | None, config: NightlyConfig
) -> dict[str, Embedding]:
    """One vector set for each background asked for; without masks there is only the raw one."""
    backgrounds: dict[str, Ref | None] = {}
    if config.embed.background != "masked" or masks is None:
        backgrounds["raw"] = None
    if masks is not None:
        backgrounds["masked"] = masks
    made = {}
    for variant, worn in backgrounds.items():
        plan = plan_vectors(settings, catalog, backbone, worn, config.embed)
        futures = embed_shard.map(
            unmapped(settings),
            unmapped(plan),
            range(len(plan.shards)),
            unmapped(backbone),
            unmapped(worn),
            unmapped(config.embed),
            unmapped(config.ingest),
        )
        outcomes = [future.result() for future in futures]
        made[variant] = Embedding(
            vectors=seal_vector_set(settings, catalog, plan, backbone, variant),
            n_embedded=sum(outcome.n_rows for outcome in outcomes),
            rejects=tuple(reject for outcome in outcomes for reject in outcome.rejects),
        )
    return made


def _boost(settings: Settings, catalog: Ref, embeddings: dict[str, Embedding], config: NightlyConfig) -> Boosting:
    heads, vectors = {}, {}
    for variant, made in embeddings.items() if config.head.enabled else ():
        outcome = fit_head(settings, catalog, made.vectors, config.head)
        if outcome:
            heads[variant] = outcome
            vectors[boosted(variant)] = apply_head(settings, made.vectors, outcome.ref)
    return Boosting(heads=heads, vectors=vectors)


def _index(settings: Settings, plan: IndexPlan) -> Ref:
    futures = build_index_shard.map(unmapped(settings), unmapped(plan), list(plan.missing))
    for future in futures:
        future.result()
    return seal_index(settings, plan)


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


def _markdown(summary: RunSummary) -> str:
    rows = [
        ("release", summary.release),
        ("gate", f"{summary.gate}: {summary.reason}"),
        ("catalogue", ", ".join(f"{name} {n}" for name, n in summary.catalog.model_dump().items())),
        ("embedded", str(summary.embedded)),
        ("trained", ", ".join(summary.trained) or "nothing"),
        ("seconds", ", ".join(f"{name} {s:.0f}" for name, s in summary.seconds.items())),
        ("report", summary.report),
    ]
    headline = [(name, f"{value:.4f}") for name, value in summary.metrics.items() if "/" not in name]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows + headline)
