"""Measure every representation and the index to be published, compare with production, write the report."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from prefect.logging import get_run_logger

from retrieval_core import lineage, releases
from retrieval_core.artifacts import (
    Catalog,
    Head,
    IndexSet,
    MaskSet,
    Reducer,
    Ref,
    Reject,
    Report,
    Segmenter,
    Value,
    VectorSet,
    fingerprint,
)
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate import VERSION
from retrieval_core.evaluate.facts import CatalogFacts, Facts, IndexFacts, MaskFacts, TrainingFacts, VariantFacts
from retrieval_core.evaluate.gate import Verdict, decide
from retrieval_core.evaluate.grids import mask_examples, query_grids
from retrieval_core.evaluate.metrics import METRIC_DEFINITIONS, Scores, ann_recall, random_baseline, score
from retrieval_core.evaluate.neighbours import exact_topk
from retrieval_core.evaluate.protocol import Protocol, choose_protocol, positions_in_gallery
from retrieval_core.evaluate.report import render
from retrieval_core.search import open_index
from retrieval_core.sets import indexable_items
from retrieval_core.settings import Settings
from retrieval_core.shards import Float32, load_vectors, put_part, read_table, table_bytes
from retrieval_core.store import Store
from tasks.index import IndexPlan
from tasks.mask import FitOutcome
from tasks.stage import stage

K = 10
N_GRIDS = 8
N_TIMED = 100
# The gate compares the published search alone: no other variant, no baseline, no spread, no rate where less is better.
NOT_COMPARED = re.compile(r"/|_random|_std|_rate")


class Night(Value):
    """What a run has made by the time it is measured."""

    source: str
    catalog: Ref
    catalog_facts: CatalogFacts
    backbone: Ref
    segmenter: FitOutcome | None
    masks: Ref | None
    heads: tuple[FitOutcome, ...]
    reducer: FitOutcome
    variants: tuple[Ref, ...]
    plan: IndexPlan
    index: Ref
    rejects: tuple[Reject, ...]
    seconds: dict[str, float]


class Measured(NamedTuple):
    """What was found out: `per_query` is of the published chain, `metrics` of all variants under their full names."""

    items: pl.DataFrame
    protocol: Protocol
    variants: tuple[VariantFacts, ...]
    metrics: dict[str, float]
    per_query: pl.DataFrame
    positions: npt.NDArray[np.int64]
    scores: Float32
    latency_ms: npt.NDArray[np.float64]
    masks: MaskFacts


@stage("evaluate")
def evaluate_night(settings: Settings, night: Night, config: NightlyConfig) -> Ref:
    """Measure, decide, and write the report. A night measured before against the same production keeps its report."""
    store = settings.open_store()
    production = releases.read_release(store, releases.PRODUCTION)
    against = Report.open(store, production.report) if production else None
    question = {
        "evaluate": config.evaluate.model_dump(),
        "gate": config.gate.model_dump(),
        "rerank_depth": config.index.rerank_depth,
        "index": night.index.name,
        "variants": [ref.name for ref in night.variants],
    }
    if against and against.config == question:
        return against.ref
    name = fingerprint("report", VERSION, question, [against.fingerprint if against else ""])
    known = Report.find(store, name)
    if known:
        return known.ref
    measured = _measure(store, night, config)
    verdict = _verdict(store, measured, against, night.catalog_facts, config)
    get_run_logger().info("gate: %s. %s", verdict.gate, verdict.reason)
    facts = _facts(store, night, measured, verdict, config, name, production.fingerprint if production else None)
    return _seal(store, name, question, facts, measured).ref


def _seal(store: Store, name: str, question: dict[str, object], facts: Facts, measured: Measured) -> Report:
    metrics = pl.DataFrame({"metric": list(measured.metrics), "value": list(measured.metrics.values())})
    files = {
        "metrics.json": facts.model_dump_json(indent=1, exclude={"grids": True, "masks": {"examples"}}).encode(),
        "metrics.parquet": table_bytes(metrics),
        "queries.parquet": table_bytes(measured.per_query),
        "report.html": render(facts).encode(),
    }
    parts = tuple(put_part(store, f"{Report.folder}/{name}/{file}", data, 0) for file, data in files.items())
    return Report(
        fingerprint=name,
        config=question,
        parts=parts,
        metrics=measured.metrics,
        gate=facts.gate,
        gate_reason=facts.reason,
    ).seal(store)


def _measure(store: Store, night: Night, config: NightlyConfig) -> Measured:
    vectors = VectorSet.open(store, night.plan.vectors)
    items = indexable_items(store, lineage.load_items(store, night.catalog.name), vectors)
    protocol = choose_protocol(items, config.evaluate)
    variants = tuple(_measure_variant(store, ref, items, protocol) for ref in night.variants)
    scores, positions, published, latency_ms, recall = _measure_published(store, night, items, protocol, config)
    prefixed = {f"{variant.name}/{name}": value for variant in variants for name, value in variant.metrics.items()}
    metrics = published.summary | prefixed | random_baseline(protocol.truth, config.evaluate.seed)
    if len(recall):
        metrics["ann_recall@10"] = float(recall.mean())
    masks = _mask_facts(store, night, items, config)
    if night.segmenter:
        metrics["mask_iou"] = Segmenter.open(store, night.segmenter.ref).val_iou
        metrics["mask_fallback_rate"] = masks.fallback_rate
    for outcome in night.heads:
        metrics |= _head_metrics(Head.open(store, outcome.ref), vectors.parents.get("head"))
    per_query = published.per_query.with_columns(
        item_id=items["item_id"].gather(protocol.queries), **({"ann_recall@10": recall} if len(recall) else {})
    )
    return Measured(items, protocol, variants, metrics, per_query, positions, scores, latency_ms, masks)


def _head_metrics(head: Head, published: str | None) -> dict[str, float]:
    """How well a head labels held-out pictures; of the published head also under the plain names."""
    variant = "boosted" if head.variant == "raw" else f"{head.variant}_boosted"
    scores = {name: value for name, value in head.metrics.items() if name.endswith("_example")}
    prefixed = {f"{variant}/{name}": value for name, value in scores.items()}
    return prefixed | scores if head.fingerprint == published else prefixed


def _measure_variant(store: Store, ref: Ref, items: pl.DataFrame, protocol: Protocol) -> VariantFacts:
    """One representation under exact search over the gallery."""
    vector_set = VectorSet.open(store, ref)
    vectors = load_vectors(store, vector_set, items["content_id"].to_list())
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], K)
    return VariantFacts(name=vector_set.variant, dim=vector_set.dim, metrics=score(positions, protocol.truth).summary)


def _measure_published(
    store: Store, night: Night, items: pl.DataFrame, protocol: Protocol, config: NightlyConfig
) -> tuple[Float32, npt.NDArray[np.int64], Scores, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The index as a searcher meets it: hits in the gallery, single-query latency, recall against exact search."""
    index = open_index(store, IndexSet.open(store, night.index))
    content_ids, row_ids = items["content_id"].to_list(), items["row_id"].to_numpy()
    vectors = load_vectors(store, VectorSet.open(store, night.plan.vectors), content_ids)
    candidates = load_vectors(store, VectorSet.open(store, night.plan.candidates), content_ids)[protocol.queries]
    queries, depth = vectors[protocol.queries], config.index.rerank_depth
    exact, _ = exact_topk(queries, vectors, K)
    found, _ = index.search(queries, candidates, K, depth)
    recall = ann_recall(exact, found)
    # Queries are in the index too: ask for enough that ten hits of the gallery are left.
    k = min(len(items), K + 2 * K * len(items) // max(len(protocol.gallery), 1))
    _, hits = index.search(queries, candidates, max(k, 1), depth)
    positions = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    latency_ms = np.empty(min(N_TIMED, len(queries)))
    for i in range(len(latency_ms)):
        started = time.perf_counter()
        index.search(queries[i : i + 1], candidates[i : i + 1], K, depth)
        latency_ms[i] = 1e3 * (time.perf_counter() - started)
    kept = np.einsum("qd,qkd->qk", queries, vectors[protocol.gallery[positions]])
    return kept.astype(np.float32), positions, score(positions, protocol.truth), latency_ms, recall


def _mask_facts(store: Store, night: Night, items: pl.DataFrame, config: NightlyConfig) -> MaskFacts:
    if night.masks is None:
        return MaskFacts()
    masks = MaskSet.open(store, night.masks)
    reasons = pl.concat([read_table(store, part, ["content_id", "reason"]) for part in masks.parts])
    reasons = reasons.filter(pl.col("content_id").is_in(items["content_id"].implode()))
    distrusted = reasons.filter(pl.col("reason") != "")["reason"]
    # A reason names its figure; the count is by kind.
    kinds = distrusted.str.replace_all(r"\s*[\d.]+%", "").value_counts(sort=True)
    return MaskFacts(
        n_masks=len(reasons),
        n_fallback=len(distrusted),
        reasons=dict(kinds.iter_rows()),
        examples=mask_examples(store, items, masks, N_GRIDS, config.evaluate.seed),
    )


def _verdict(
    store: Store, measured: Measured, against: Report | None, catalog: CatalogFacts, config: NightlyConfig
) -> Verdict:
    production = read_table(store, against.part("queries.parquet")) if against else None
    published = {name: value for name, value in measured.metrics.items() if not NOT_COMPARED.search(name)}
    return decide(
        measured.per_query, published, production, against.metrics if against else None, config.gate, catalog.reconciled
    )


def _facts(
    store: Store,
    night: Night,
    measured: Measured,
    verdict: Verdict,
    config: NightlyConfig,
    name: str,
    production: str | None,
) -> Facts:
    grids = query_grids(
        measured.items, measured.protocol, measured.positions, measured.scores, N_GRIDS, config.evaluate.seed
    )
    return Facts(
        report=name,
        production=production,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        gate=verdict.gate,
        reason=verdict.reason,
        changes=verdict.rows,
        catalog=night.catalog_facts,
        metrics=measured.metrics,
        definitions=METRIC_DEFINITIONS,
        n_queries=len(measured.protocol.queries),
        n_gallery=len(measured.protocol.gallery),
        variants=measured.variants,
        training=_training_facts(store, night),
        masks=measured.masks,
        index=_index_facts(store, night, measured),
        seconds=night.seconds,
        quarantine=_quarantine(store, night),
        grids=grids,
        backbone=config.embed.backbone,
        weights=config.embed.weights,
    )


def _quarantine(store: Store, night: Night) -> tuple[Reject, ...]:
    ledger = read_table(store, Catalog.open(store, night.catalog).part("quarantine.parquet"))
    return (*(Reject(**row) for row in ledger.iter_rows(named=True)), *night.rejects)


def _training_facts(store: Store, night: Night) -> tuple[TrainingFacts, ...]:
    facts = []
    if night.segmenter:
        segmenter = Segmenter.open(store, night.segmenter.ref)
        facts.append(
            TrainingFacts(
                name="U-Net segmenter",
                trained=night.segmenter.trained,
                fitted=segmenter.created,
                metrics={"mask_iou": segmenter.val_iou},
                history=segmenter.history,
            )
        )
    for outcome in night.heads:
        head = Head.open(store, outcome.ref)
        facts.append(
            TrainingFacts(
                name=f"head of {head.dim} over {head.variant}",
                trained=outcome.trained,
                fitted=head.created,
                metrics=head.metrics,
                history=head.history,
            )
        )
    reducer = Reducer.open(store, night.reducer.ref)
    explained = {f"variance explained by {dim}": share for dim, share in reducer.explained_variance.items()}
    facts.append(TrainingFacts(name="PCA", trained=night.reducer.trained, fitted=reducer.created, metrics=explained))
    return tuple(facts)


def _index_facts(store: Store, night: Night, measured: Measured) -> IndexFacts:
    index = IndexSet.open(store, night.index)
    vectors = VectorSet.open(store, night.plan.vectors)
    p50, p95 = np.percentile(measured.latency_ms, [50, 95]) if len(measured.latency_ms) else (0.0, 0.0)
    return IndexFacts(
        variant=vectors.variant,
        recipe=index.recipe,
        why=night.plan.recipe.why,
        n_rows=index.counts["rows"],
        n_shards=index.counts["shards"],
        n_shards_built=len(night.plan.missing),
        n_bytes=sum(part.n_bytes for part in index.parts),
        dim=index.dim,
        candidate_dim=index.candidate_dim,
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
    )
