"""Measure a run: every variant and the index to be published, on the same held-out queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import (
    ClassSet,
    Head,
    IndexSet,
    Ref,
    Release,
    Report,
    Segmenter,
    Value,
    VectorSet,
)
from retrieval_core.artifacts.mapped_rows import rows_at
from retrieval_core.artifacts.parts import load_classes, load_vectors
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.measure.confidence import MeasuredConfidence, measure_confidence
from retrieval_core.evaluate.measure.exact_search import (
    Gallery,
    Link,
    chain_names,
    classified_topk,
    indexed_gallery,
    stored_gallery,
)
from retrieval_core.evaluate.measure.filtered import FilterFacts, measure_filters
from retrieval_core.evaluate.measure.golden_queries import GoldenFacts, read_golden, search_golden
from retrieval_core.evaluate.measure.graded_queries import GradedQuery, choose_graded, search_graded
from retrieval_core.evaluate.measure.index_quality import CurvePoint, IndexQuality, measure_index, time_curve
from retrieval_core.evaluate.measure.indexed_rows import sample_rows
from retrieval_core.evaluate.measure.kept_searches import KeptSearches, read_searches
from retrieval_core.evaluate.measure.mask_quality import MaskFacts, measure_masks
from retrieval_core.evaluate.measure.picture_search import PictureSearch, read_known
from retrieval_core.evaluate.measure.row_vectors import StoredVectors
from retrieval_core.evaluate.measure.setup import MAX_ASKED, K, Protocol, SearchSetup, choose_protocol, cluster_names
from retrieval_core.evaluate.measure.synthetic_queries import (
    SyntheticFacts,
    draw_items,
    read_item_masks,
    search_synthetic,
)
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.search_shards import Machines, ShardedSearch
from retrieval_core.index.lookup import open_index
from retrieval_core.metrics.registry import ANN_RECALL, GOLDEN_NDCG, MASK_FALLBACK_RATE, MASK_IOU, is_measured_by
from retrieval_core.metrics.retrieval import Scores, random_baseline, score
from retrieval_core.search.release import OpenRelease
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

CLASSIFIED = "classified"  # the scope of the metrics of classify-then-search


class VariantFacts(Value):
    """One representation under exact search; `metrics` have plain names, without the variant.

    `note` says what was searched where that is not the whole gallery.
    """

    name: str
    dim: int
    metrics: dict[str, float]
    note: str = ""


class Measured(NamedTuple):
    """What was measured of a run; `metrics` holds every metric of every variant by its full name.

    `published` is the published index, and `per_query` has one row a query with its item_id, its cluster and its
    metrics there.
    `links` are the representations that lead to the published one, under exact search.
    """

    setup: SearchSetup
    links: tuple[Link, ...]
    variants: tuple[VariantFacts, ...]
    metrics: dict[str, float]
    per_query: pl.DataFrame
    published: IndexQuality
    curve: tuple[CurvePoint, ...]
    filters: tuple[FilterFacts, ...]
    masks: MaskFacts
    unlabelled: Unlabelled
    confidence: MeasuredConfidence

    @property
    def items(self) -> pl.DataFrame:
        return self.setup.items

    @property
    def protocol(self) -> Protocol:
        return self.setup.protocol


def measure(
    store: Store,
    outputs: RunOutputs,
    config: NightlyConfig,
    settings: Settings | None = None,
    earlier: Report | None = None,
    machines: Machines | None = None,
) -> Measured:
    """Measure every variant under exact search, and the published index, on the same held-out queries.

    Where every picture is a query the gallery is empty, and there are no metrics of the search. `settings` give the
    device and the threads for embedding golden and synthetic queries; the default is the environment. What a report
    has embedded and compared `earlier` is not embedded and compared again. `machines` make shards of large searches.
    """
    vectors, index_set = VectorSet.open(store, outputs.vectors), IndexSet.open(store, outputs.index)
    sets = [VectorSet.open(store, ref) for ref in outputs.variants]
    search = ShardedSearch(store, sets, machines).nearest if machines else Gallery.nearest
    setup = _open_setup(store, outputs, index_set, config, KeptSearches(read_searches(store, earlier), search))
    published = measure_index(setup)
    nearest = {outputs.vectors.key: published.nearest}
    searched = {
        variant.name: (variant, scores)
        for variant, scores in (_measure_variant(store, ref, setup, nearest.get(ref.key)) for ref in outputs.variants)
    }
    variants = [variant for variant, _ in searched.values()]
    chain = chain_names(vectors.full_variant(), VectorSet.open(store, outputs.candidates).variant, searched)
    if outputs.classes:
        variants.append(_measure_classified(store, outputs.classes, setup, config.classify.top_classes))
    filters = measure_filters(setup, config.evaluate.seed)
    prefixed = {f"{variant.name}/{name}": value for variant in variants for name, value in variant.metrics.items()}
    metrics = published.scores.summary | prefixed | random_baseline(setup.protocol.truth)
    metrics |= {ANN_RECALL.full_name("value", chosen.name): chosen.recall for chosen in filters}
    if len(published.recall):
        metrics[ANN_RECALL.name] = float(published.recall.mean())
    masks = measure_masks(store, outputs, setup.items, config)
    if outputs.segmenter:
        metrics[MASK_IOU.name] = Segmenter.open(store, outputs.segmenter.ref).val_iou
    if outputs.masks:
        metrics[MASK_FALLBACK_RATE.name] = masks.fallback_rate
    unlabelled = measure_unlabelled(store, outputs, setup.items, config, settings or Settings.load(), earlier)
    metrics |= unlabelled.metrics
    for outcome in outputs.heads:
        metrics |= _head_metrics(Head.open(store, outcome.ref), vectors.parents.get("head"))
    return Measured(
        setup=setup,
        links=tuple(Link(name, step, searched[name][1].per_query) for name, step in chain),
        variants=tuple(variants),
        metrics=metrics,
        per_query=_per_query(setup, published),
        published=published,
        curve=time_curve(setup, index_set.curve, (index_set.nprobe, index_set.rerank_depth)),
        filters=filters,
        masks=masks,
        unlabelled=unlabelled,
        confidence=measure_confidence(setup, config.head.seed),
    )


def _open_setup(
    store: Store, outputs: RunOutputs, index_set: IndexSet, config: NightlyConfig, searches: KeptSearches
) -> SearchSetup:
    items = load_items(store, outputs.catalog.name)
    items = indexable_items(store, items, VectorSet.open(store, outputs.vectors))
    protocol, index = choose_protocol(items, config.evaluate), open_index(store, index_set)
    row_ids, content_ids = items["row_id"].to_numpy(), items["content_id"]
    candidate_set = VectorSet.open(store, outputs.candidates)
    asked = np.isin(row_ids, sample_rows(row_ids, MAX_ASKED, config.evaluate.seed))
    kept = np.union1d(protocol.queries, np.flatnonzero(asked))
    vectors = StoredVectors(kept, lambda rows: index.vectors_of(row_ids[rows]))
    return SearchSetup(
        items=items,
        protocol=protocol,
        vectors=vectors,
        candidates=vectors
        if outputs.candidates == outputs.vectors
        else StoredVectors(kept, lambda rows: load_vectors(store, candidate_set, content_ids.gather(rows))),
        index=index,
        rerank_depth=index_set.rerank_depth,
        pictures=PictureReader(store),
        family=index_set.family,
        kept=searches,
    )


def _per_query(setup: SearchSetup, published: IndexQuality) -> pl.DataFrame:
    recall = {ANN_RECALL.name: published.recall} if len(published.recall) else {}
    queries = rows_at(setup.items.select("item_id", "product_id", "content_id"), setup.protocol.queries)
    return published.scores.per_query.with_columns(queries["item_id"], cluster_names(queries), **recall)


def _head_metrics(head: Head, published: str | None) -> dict[str, float]:
    """Return how well a head labels held-out pictures, for the published head also without the variant."""
    scores = {name: value for name, value in head.metrics.items() if is_measured_by(name, "head")}
    prefixed = {f"{head.variant.boost()}/{name}": value for name, value in scores.items()}
    return prefixed | scores if head.fingerprint == published else prefixed


def _measure_variant(
    store: Store, ref: Ref, setup: SearchSetup, positions: Int64 | None
) -> tuple[VariantFacts, Scores]:
    """Measure one variant under exact search of the gallery, which found `positions` if that was done before."""
    vector_set = VectorSet.open(store, ref)
    if positions is None:
        gallery = stored_gallery(store, vector_set, setup.items, setup.protocol.queries, setup.protocol.gallery)
        _, positions = setup.kept.nearest("gallery", gallery, K)
    scores = score(positions, setup.protocol.truth)
    return VariantFacts(name=str(vector_set.variant), dim=vector_set.dim, metrics=scores.summary), scores


def _measure_classified(store: Store, classes: Ref, setup: SearchSetup, top_classes: int) -> VariantFacts:
    """Measure the published vectors under exact search among the items of a query's likeliest classes first."""
    protocol = setup.protocol
    named = load_classes(store, ClassSet.open(store, classes), setup.items["content_id"])
    gallery = indexed_gallery(setup.index, setup.family, setup.items, protocol.queries, protocol.gallery)
    query_classes, gallery_class = named[protocol.queries, :top_classes], named[protocol.gallery, 0]
    _, positions = classified_topk(gallery.queries(), gallery.blocks, query_classes, gallery_class, K)
    return VariantFacts(
        name=CLASSIFIED,
        dim=setup.index.dim,
        metrics=score(positions, setup.protocol.truth).summary,
        note=f"in the {top_classes} likeliest classes" if top_classes > 1 else "in the likeliest class",
    )


UNSEALED = "challenger"


class Unlabelled(NamedTuple):
    """Metrics by name, a row (item_id, cluster, metrics) a golden query or drawn item, and the facts of the report.

    `graded` are the graded queries, which production is asked, too; `vectors` are those of the synthetic queries, for
    the next run.
    """

    metrics: dict[str, float]
    per_query: pl.DataFrame
    graded: list[GradedQuery]
    golden: GoldenFacts
    synthetic: SyntheticFacts
    vectors: pl.DataFrame


def measure_unlabelled(
    store: Store,
    outputs: RunOutputs,
    items: pl.DataFrame,
    config: NightlyConfig,
    settings: Settings,
    earlier: Report | None,
) -> Unlabelled:
    """Search the release that the run would publish as a user does, from a picture to its hits among `items`."""
    release, max_pixels = open_challenger(store, outputs, config, settings), config.ingest.max_pixels
    golden = search_golden(release, items, read_golden(config.evaluate.golden), max_pixels, PictureReader(store))
    queries = choose_graded(store, config.evaluate, items)
    graded = search_graded(release, items, queries, max_pixels)
    mean = {GOLDEN_NDCG.name: float(graded[GOLDEN_NDCG.name].to_numpy().mean())} if len(graded) else {}
    masks = read_item_masks(store, outputs.masks, draw_items(items, config.evaluate))
    searched = PictureSearch(release, read_known(store, earlier))
    synthetic = search_synthetic(searched, items, masks, config.evaluate, max_pixels, PictureReader(store))
    return Unlabelled(
        metrics=golden.metrics | mean | synthetic.metrics,
        per_query=pl.concat([golden.per_query, *([graded] if mean else []), synthetic.per_query], how="diagonal"),
        graded=queries,
        golden=golden.facts,
        synthetic=synthetic.facts,
        vectors=searched.vectors(),
    )


def open_challenger(store: Store, outputs: RunOutputs, config: NightlyConfig, settings: Settings) -> OpenRelease:
    """Open the release that this run would publish, which has no report yet. Raises `NotFound`, `ShardCorrupt`."""
    release = Release.model_validate(
        {
            **outputs.release_refs(store),
            "kind": "Release",
            "fingerprint": UNSEALED,
            "config": config.model_dump(mode="json"),
            "report": Ref(kind="Report", key=f"reports/{UNSEALED}"),
            "variant": VectorSet.open(store, outputs.vectors).full_variant(),
            "gate": "held",
        }
    )
    return OpenRelease(store, release, settings)
