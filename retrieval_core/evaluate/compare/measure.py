"""Measure each variant: the same queries against the same gallery, by exact search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from pydantic import Field

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Backbone, ClassSet, Fitted, Ref, Value, VectorSet
from retrieval_core.artifacts.parts import load_classes
from retrieval_core.config import EvaluateConfig
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.measure.exact_search import classified_topk, stored_gallery
from retrieval_core.evaluate.measure.setup import Protocol, choose_protocol
from retrieval_core.metrics.registry import is_measured_by
from retrieval_core.metrics.relevance import MAX_CUTOFF
from retrieval_core.metrics.retrieval import Scores, random_scores, score
from retrieval_core.store.base import Store


class BuiltVariant(Value):
    """A variant with its artifacts and its costs.

    `classes` is set for mode classified, `masks` for a cropped variant; `backbone` computed the vectors and holds the
    scores of its training. `ms_per_picture` is the time of all networks that a query passes through: segmenter or
    detector, backbone, classifier. `n_bytes_per_item` is the size of an item in an index.
    """

    spec: VariantConfig
    vectors: Ref
    classes: Ref | None = None
    masks: Ref | None = None
    backbone: Ref | None = None
    ms_per_picture: float = Field(gt=0)
    n_bytes_per_item: int = Field(gt=0)


class ComparisonInputs(Value):
    """The artifacts that a comparison compares; `models` are those trained for it, by name."""

    source: str
    catalog: Ref
    variants: tuple[BuiltVariant, ...]
    models: dict[str, Fitted] = {}
    seconds: dict[str, float] = {}


class ComparisonResults(NamedTuple):
    """The search results of every variant, by its name: `positions` in the gallery and cosine `similarities`, (q, 10).

    `random` are the scores of a random ranking; `trained` the scores that a variant's backbone had in its training.
    """

    variants: tuple[BuiltVariant, ...]
    items: pl.DataFrame
    protocol: Protocol
    scores: dict[str, Scores]
    positions: dict[str, Int64]
    similarities: dict[str, Float32]
    random: Scores
    trained: dict[str, dict[str, float]]


def compare_variants(
    store: Store, catalog: Ref, variants: Sequence[BuiltVariant], evaluate: EvaluateConfig, top_classes: int
) -> ComparisonResults:
    """Search and score every variant with the same queries, over the items for which all of them have a vector.

    In mode classified, the items of a query's `top_classes` likeliest classes rank first. Raises `BadConfig` for such a
    variant without classes.
    """
    items = _shared_items(store, catalog, variants)
    protocol = choose_protocol(items, evaluate)
    hits = {variant.spec.name: _search(store, variant, items, protocol, top_classes) for variant in variants}
    return ComparisonResults(
        variants=tuple(variants),
        items=items,
        protocol=protocol,
        scores={name: score(positions, protocol.truth) for name, (_, positions) in hits.items()},
        positions={name: positions for name, (_, positions) in hits.items()},
        similarities={name: similarities for name, (similarities, _) in hits.items()},
        random=random_scores(protocol.truth),
        trained={variant.spec.name: _trained_scores(store, variant.backbone) for variant in variants},
    )


def per_query_table(results: ComparisonResults) -> pl.DataFrame:
    """Return one row for each variant and query: variant, item_id of the query, and a Float64 column a metric."""
    item_ids = results.items["item_id"].gather(results.protocol.queries)
    tables = [
        scores.per_query.select(pl.lit(name).alias("variant"), item_ids.alias("item_id"), pl.all())
        for name, scores in results.scores.items()
    ]
    return pl.concat(tables)


def summary_table(results: ComparisonResults) -> pl.DataFrame:
    """Return one row for each variant and metric.

    The columns are variant, metric, value, random, ms_per_picture and n_bytes_per_item.
    """
    rows = [
        (variant.spec.name, metric, value, variant.ms_per_picture, variant.n_bytes_per_item)
        for variant in results.variants
        for metric, value in all_scores(results, variant.spec.name).items()
    ]
    columns = {
        "variant": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "ms_per_picture": pl.Float64,
        "n_bytes_per_item": pl.Int64,
    }
    table = pl.DataFrame(rows, schema=columns, orient="row")
    return table.with_columns(random=pl.col("metric").replace_strict(results.random.summary, default=None))


def all_scores(results: ComparisonResults, name: str) -> dict[str, float]:
    """Return every metric of one variant, with those of its backbone's training."""
    return results.trained[name] | results.scores[name].summary


def _shared_items(store: Store, catalog: Ref, variants: Sequence[BuiltVariant]) -> pl.DataFrame:
    """Return the catalogue's rows outside quarantine for whose picture every variant has a vector."""
    items = load_items(store, catalog.name)
    for vectors in dict.fromkeys(variant.vectors for variant in variants):
        items = indexable_items(store, items, VectorSet.open(store, vectors))
    return items


def _search(
    store: Store, variant: BuiltVariant, items: pl.DataFrame, protocol: Protocol, top_classes: int
) -> tuple[Float32, Int64]:
    """Return (q, 10) cosines and positions in the gallery, the nearest first."""
    gallery = stored_gallery(store, VectorSet.open(store, variant.vectors), items, protocol)
    if variant.spec.mode == "nearest":
        return gallery.nearest(MAX_CUTOFF)
    if variant.classes is None:
        raise BadConfig(f"variant {variant.spec.name!r} has mode classified, but no classes")
    classes = load_classes(store, ClassSet.open(store, variant.classes), items["content_id"])
    query_classes = classes[protocol.queries, :top_classes]
    return classified_topk(gallery.queries(), gallery.blocks, query_classes, classes[protocol.gallery, 0], MAX_CUTOFF)


def _trained_scores(store: Store, backbone: Ref | None) -> dict[str, float]:
    metrics = Backbone.open(store, backbone).metrics if backbone else {}
    return {name: value for name, value in metrics.items() if is_measured_by(name, "head")}
