"""What a night is worth: every representation and the index to be published, on the same queries."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core import lineage
from retrieval_core.artifacts import (
    ClassSet,
    Fitted,
    Head,
    IndexSet,
    MaskSet,
    Ref,
    Reject,
    Segmenter,
    Value,
    VectorSet,
    boosted,
)
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.classified import classified_topk
from retrieval_core.evaluate.facts import CatalogFacts, MaskFacts, VariantFacts
from retrieval_core.evaluate.grids import mask_examples
from retrieval_core.evaluate.metrics import Scores, ann_recall, random_baseline, score
from retrieval_core.evaluate.neighbours import exact_topk
from retrieval_core.evaluate.protocol import Protocol, choose_protocol, positions_in_gallery
from retrieval_core.search import open_index
from retrieval_core.sets import indexable_items
from retrieval_core.shards import Float32, load_classes, load_vectors, read_table
from retrieval_core.store import Store

K = 10
N_MASK_EXAMPLES = 8
N_TIMED = 100
CLASSIFIED = "classified"  # the prefix of what classify-then-nearest reaches


class Night(Value):
    """What a run has made by the time it is measured: `vectors` are published, `candidates` find them in the index.

    `masks` are what the published variant was masked with or cropped to, the boxes of `detector` among them.
    """

    source: str
    catalog: Ref
    catalog_facts: CatalogFacts
    backbone: Ref
    segmenter: Fitted | None
    detector: Ref | None
    masks: Ref | None
    classifier: Ref | None
    classes: Ref | None
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


class _Bench(NamedTuple):
    """What the published search is measured on: (n, dim) and (n, candidate_dim) vectors of all `items`."""

    items: pl.DataFrame
    protocol: Protocol
    vectors: Float32
    candidates: Float32


class _Published(NamedTuple):
    """The index as a searcher met it: positions in the gallery, their cosine scores, and what that was worth."""

    positions: npt.NDArray[np.int64]
    scores: Float32
    worth: Scores
    latency_ms: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]


def measure(store: Store, night: Night, config: NightlyConfig) -> Measured:
    """Every representation under exact search, and the index as a searcher meets it, on the same held-out queries.

    Where every picture queries there is nothing to find, and no metric of the search for it.
    """
    vectors = VectorSet.open(store, night.vectors)
    items = indexable_items(store, lineage.load_items(store, night.catalog.name), vectors)
    loaded = {ref.key: _load(store, ref, items) for ref in (night.vectors, night.candidates)}
    protocol = choose_protocol(items, config.evaluate)
    bench = _Bench(items, protocol, loaded[night.vectors.key], loaded[night.candidates.key])
    variants = [_measure_variant(store, ref, bench, loaded.get(ref.key)) for ref in night.variants]
    if night.classes:
        variants.append(_measure_classified(store, night.classes, bench, config.classify.top_classes))
    published = _measure_published(store, night, bench, config.index.rerank_depth)
    prefixed = {f"{variant.name}/{name}": value for variant in variants for name, value in variant.metrics.items()}
    metrics = published.worth.summary | prefixed | random_baseline(protocol.truth, config.evaluate.seed)
    if len(published.recall):
        metrics["ann_recall@10"] = float(published.recall.mean())
    masks = _mask_facts(store, night, items, config)
    if night.segmenter:
        metrics["mask_iou"] = Segmenter.open(store, night.segmenter.ref).val_iou
    if night.masks:
        metrics["mask_fallback_rate"] = masks.fallback_rate
    for outcome in night.heads:
        metrics |= _head_metrics(Head.open(store, outcome.ref), vectors.parents.get("head"))
    return Measured(
        items=items,
        protocol=protocol,
        variants=tuple(variants),
        metrics=metrics,
        per_query=_per_query(bench, published),
        positions=published.positions,
        scores=published.scores,
        latency_ms=published.latency_ms,
        masks=masks,
    )


def _load(store: Store, ref: Ref, items: pl.DataFrame) -> Float32:
    return load_vectors(store, VectorSet.open(store, ref), items["content_id"].to_list())


def _per_query(bench: _Bench, published: _Published) -> pl.DataFrame:
    recall = {"ann_recall@10": published.recall} if len(published.recall) else {}
    item_ids = bench.items["item_id"].gather(bench.protocol.queries)
    return published.worth.per_query.with_columns(item_id=item_ids, **recall)


def _head_metrics(head: Head, published: str | None) -> dict[str, float]:
    """How well a head labels held-out pictures; of the published head also under the plain names."""
    scores = {name: value for name, value in head.metrics.items() if name.endswith("_example")}
    prefixed = {f"{boosted(head.variant)}/{name}": value for name, value in scores.items()}
    return prefixed | scores if head.fingerprint == published else prefixed


def _measure_variant(store: Store, ref: Ref, bench: _Bench, loaded: Float32 | None) -> VariantFacts:
    """One representation under exact search over the gallery; `loaded` are its vectors where they are known."""
    vector_set, protocol = VectorSet.open(store, ref), bench.protocol
    vectors = _load(store, ref, bench.items) if loaded is None else loaded
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], K)
    return VariantFacts(name=vector_set.variant, dim=vector_set.dim, metrics=score(positions, protocol.truth).summary)


def _measure_classified(store: Store, classes: Ref, bench: _Bench, top_classes: int) -> VariantFacts:
    """The published vectors under exact search that looks among the items of a query's likeliest classes first."""
    queries, gallery = bench.protocol.queries, bench.protocol.gallery
    named = load_classes(store, ClassSet.open(store, classes), bench.items["content_id"].to_list())
    _, positions = classified_topk(
        bench.vectors[queries], bench.vectors[gallery], named[queries, :top_classes], named[gallery, 0], K
    )
    return VariantFacts(
        name=CLASSIFIED,
        dim=bench.vectors.shape[1],
        metrics=score(positions, bench.protocol.truth).summary,
        note=f"in the {top_classes} likeliest classes" if top_classes > 1 else "in the likeliest class",
    )


def _measure_published(store: Store, night: Night, bench: _Bench, depth: int) -> _Published:
    """The index as a searcher meets it: hits in the gallery, single-query latency, recall against exact search."""
    index = open_index(store, IndexSet.open(store, night.index))
    protocol, row_ids = bench.protocol, bench.items["row_id"].to_numpy()
    queries, candidates = bench.vectors[protocol.queries], bench.candidates[protocol.queries]
    exact, _ = exact_topk(queries, bench.vectors, K)
    found, _ = index.search(queries, candidates, K, depth)
    # Queries are in the index too: ask for enough that ten hits of the gallery are left.
    k = min(len(row_ids), K + 2 * K * len(row_ids) // max(len(protocol.gallery), 1))
    _, hits = index.search(queries, candidates, max(k, 1), depth)
    positions = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    latency_ms = np.empty(min(N_TIMED, len(queries)))
    for i in range(len(latency_ms)):
        started = time.perf_counter()
        index.search(queries[i : i + 1], candidates[i : i + 1], K, depth)
        latency_ms[i] = 1e3 * (time.perf_counter() - started)
    query, slot = np.nonzero(positions >= 0)
    scores = np.full(positions.shape, -np.inf, np.float32)
    scores[query, slot] = np.vecdot(queries[query], bench.vectors[protocol.gallery[positions[query, slot]]])
    return _Published(positions, scores, score(positions, protocol.truth), latency_ms, ann_recall(exact, found))


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
        examples=mask_examples(store, items, masks, config, N_MASK_EXAMPLES),
    )
