"""What a night is worth: every representation and the index to be published, on the same queries."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core import lineage
from retrieval_core.artifacts import Fitted, Head, IndexSet, MaskSet, Ref, Reject, Segmenter, Value, VectorSet, boosted
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.facts import CatalogFacts, MaskFacts, VariantFacts
from retrieval_core.evaluate.grids import mask_examples
from retrieval_core.evaluate.metrics import Scores, ann_recall, random_baseline, score
from retrieval_core.evaluate.neighbours import exact_topk
from retrieval_core.evaluate.protocol import Protocol, choose_protocol, positions_in_gallery
from retrieval_core.search import open_index
from retrieval_core.sets import indexable_items
from retrieval_core.shards import Float32, load_vectors, read_table
from retrieval_core.store import Store

K = 10
N_MASK_EXAMPLES = 8
N_TIMED = 100


class Night(Value):
    """What a run has made by the time it is measured: `vectors` are published, `candidates` find them in the index."""

    source: str
    catalog: Ref
    catalog_facts: CatalogFacts
    backbone: Ref
    segmenter: Fitted | None
    masks: Ref | None
    heads: tuple[Fitted, ...]
    reducer: Fitted
    variants: tuple[Ref, ...]
    vectors: Ref
    candidates: Ref
    index: Ref
    n_shards_built: int
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


def measure(store: Store, night: Night, config: NightlyConfig) -> Measured:
    """Every representation under exact search, and the index as a searcher meets it, on the same held-out queries."""
    vectors = VectorSet.open(store, night.vectors)
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
    scores = {name: value for name, value in head.metrics.items() if name.endswith("_example")}
    prefixed = {f"{boosted(head.variant)}/{name}": value for name, value in scores.items()}
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
    vectors = load_vectors(store, VectorSet.open(store, night.vectors), content_ids)
    candidates = load_vectors(store, VectorSet.open(store, night.candidates), content_ids)[protocol.queries]
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
        examples=mask_examples(store, items, masks, N_MASK_EXAMPLES, config.evaluate.seed),
    )
