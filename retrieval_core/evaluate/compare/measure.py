"""Measure each variant: the same queries against the same gallery, by exact search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Backbone, ClassSet, Fitted, Ref, Value, VectorSet
from retrieval_core.artifacts.parts import load_classes
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, VariantConfig
from retrieval_core.evaluate.compare.protocol import comparison_protocol
from retrieval_core.evaluate.measure.exact_search import Gallery, classified_topk, stored_gallery
from retrieval_core.evaluate.measure.setup import Protocol
from retrieval_core.index.topk import best_of, pair_scores
from retrieval_core.metrics.full_ranking import full_ranking
from retrieval_core.metrics.registry import is_measured_by
from retrieval_core.metrics.relevance import MAX_CUTOFF
from retrieval_core.metrics.retrieval import Scores, random_scores, score
from retrieval_core.store.base import Store


class Searched(Value):
    """What a variant searches: its vectors, those that rerank, and the classes of mode classified."""

    vectors: Ref
    whole: Ref | None = None
    classes: Ref | None = None


class BuiltVariant(Value):
    """A variant with its artifacts and its costs.

    `classes` is set for mode classified, `whole` for a variant that reranks, `masks` for a cropped variant; `replicas`
    are the variant as trained by other seeds. `backbone` computed the vectors and holds the scores of its training.
    `ms_per_picture` is the time of all networks that a query passes through: segmenter or
    detector, backbone, classifier. `n_bytes_per_item` is the size of an item in an index.
    """

    spec: VariantConfig
    vectors: Ref
    whole: Ref | None = None
    classes: Ref | None = None
    replicas: tuple[Searched, ...] = ()
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

    `random` are the expected scores of a random ranking; `trained` the scores that a variant's backbone had in its
    training; `seed_deviations` the standard deviation of each metric over the seeds of a variant, whose `scores` are
    the means over them.
    """

    variants: tuple[BuiltVariant, ...]
    items: pl.DataFrame
    protocol: Protocol
    scores: dict[str, Scores]
    positions: dict[str, Int64]
    similarities: dict[str, Float32]
    random: Scores
    trained: dict[str, dict[str, float]]
    seed_deviations: dict[str, dict[str, float]]


def compare_variants(
    store: Store, catalog: Ref, variants: Sequence[BuiltVariant], config: ComparisonConfig
) -> ComparisonResults:
    """Search and score every variant with the same queries, over the items for which all of them have a vector.

    In mode classified, the items of a query's likeliest classes rank first. Raises `BadConfig` for such a variant
    without classes.
    """
    items = _shared_items(store, catalog, variants)
    protocol = comparison_protocol(items, config.evaluate, config.protocol)
    is_ranked = any(is_measured_by(metric, "ranking") for table in config.tables for metric in table.metrics)
    search = _Search(store, items, protocol, config.classify.top_classes, is_ranked)
    hits, scores, deviations = {}, {}, {}
    for variant in variants:
        name = variant.spec.name
        runs = [search.run(variant.spec, searched) for searched in (_searched(variant), *variant.replicas)]
        hits[name] = runs[0].similarities, runs[0].positions
        scores[name], deviations[name] = _over_seeds([run.scores for run in runs])
    return ComparisonResults(
        variants=tuple(variants),
        items=items,
        protocol=protocol,
        scores=scores,
        positions={name: positions for name, (_, positions) in hits.items()},
        similarities={name: similarities for name, (similarities, _) in hits.items()},
        random=random_scores(protocol.truth),
        trained={variant.spec.name: _trained_scores(store, variant.backbone) for variant in variants},
        seed_deviations=deviations,
    )


def _searched(variant: BuiltVariant) -> Searched:
    return Searched(vectors=variant.vectors, whole=variant.whole, classes=variant.classes)


def _over_seeds(scores: Sequence[Scores]) -> tuple[Scores, dict[str, float]]:
    """Return the mean of each metric over the seeds, for single queries too, and its standard deviation over them."""
    if len(scores) == 1:
        return scores[0], {}
    first, *_ = tables = [of_seed.per_query for of_seed in scores]
    means = [pl.mean_horizontal([table[name] for table in tables]).alias(name) for name in first.columns]
    per_query = first.select(*means)
    values = {name: [of_seed.summary[name] for of_seed in scores] for name in scores[0].summary}
    summary = {name: float(np.mean(of_seeds)) for name, of_seeds in values.items()}
    return Scores(per_query, summary), {name: float(np.std(of_seeds, ddof=1)) for name, of_seeds in values.items()}


def per_query_table(results: ComparisonResults) -> pl.DataFrame:
    """Return one row for each variant and query: variant, item_id of the query, and a Float64 column a metric.

    A metric is null where the query or the variant leaves it undefined.
    """
    item_ids = results.items["item_id"].gather(results.protocol.queries)
    tables = [
        scores.per_query.select(pl.lit(name).alias("variant"), item_ids.alias("item_id"), pl.all())
        for name, scores in results.scores.items()
    ]
    return pl.concat(tables, how="diagonal")


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
    vector_sets = [
        ref for variant in variants for ref in (variant.vectors, *(seed.vectors for seed in variant.replicas))
    ]
    for vectors in dict.fromkeys(vector_sets):
        items = indexable_items(store, items, VectorSet.open(store, vectors))
    return items


class _Run(NamedTuple):
    """(q, 10) cosines and positions in the gallery, the nearest first, and their scores."""

    similarities: Float32
    positions: Int64
    scores: Scores


class _Search(NamedTuple):
    """The search of a comparison; `is_ranked` if the whole ranking is scored too."""

    store: Store
    items: pl.DataFrame
    protocol: Protocol
    top_classes: int
    is_ranked: bool

    def run(self, spec: VariantConfig, searched: Searched) -> _Run:
        gallery = self._gallery(searched.vectors)
        similarities, positions = self._without_own(*self._find(spec, searched, gallery))
        is_ranked = self.is_ranked and spec.mode == "nearest" and not spec.rerank_depth
        ranking = full_ranking(gallery.queries(), self._all(gallery), self.protocol.truth) if is_ranked else {}
        return _Run(similarities, positions, score(positions, self.protocol.truth, ranking))

    def _find(self, spec: VariantConfig, searched: Searched, gallery: Gallery) -> tuple[Float32, Int64]:
        """Return (q, 11) cosines and positions, one more than is scored, as a query may find itself."""
        n_found = MAX_CUTOFF + 1
        if searched.whole is not None:
            depth = max(spec.rerank_depth, n_found)
            return self._reranked(gallery.nearest(depth)[1], self._gallery(searched.whole), n_found)
        if spec.mode == "nearest":
            return gallery.nearest(n_found)
        if searched.classes is None:
            raise BadConfig(f"variant {spec.name!r} has mode classified, but no classes")
        classes = load_classes(self.store, ClassSet.open(self.store, searched.classes), self.items["content_id"])
        query_classes = classes[self.protocol.queries, : self.top_classes]
        item_classes = classes[self.protocol.gallery, 0]
        return classified_topk(gallery.queries(), gallery.blocks, query_classes, item_classes, n_found)

    def _reranked(self, candidates: Int64, whole: Gallery, k: int) -> tuple[Float32, Int64]:
        """Return the k candidates, (q, depth) padded with -1, with the largest inner products of whole vectors."""
        query, column = np.nonzero(candidates >= 0)
        position = candidates[query, column]
        scores = pair_scores(whole.queries(), query, self._all(whole), position)
        return best_of(query, position, scores, len(candidates), k)

    def _without_own(self, similarities: Float32, positions: Int64) -> tuple[Float32, Int64]:
        """Return the first ten hits that are not the query itself."""
        is_own = (positions == self.protocol.truth.own[:, None]) & (positions >= 0)
        order = np.argsort(is_own, axis=1, kind="stable")[:, :MAX_CUTOFF]
        kept = np.take_along_axis(positions, order, axis=1)
        kept[np.take_along_axis(is_own, order, axis=1)] = -1
        return np.take_along_axis(similarities, order, axis=1), kept

    def _gallery(self, vectors: Ref) -> Gallery:
        protocol = self.protocol
        return stored_gallery(
            self.store, VectorSet.open(self.store, vectors), self.items, protocol.queries, protocol.gallery
        )

    def _all(self, gallery: Gallery) -> Float32:
        return gallery.load(gallery.gallery_ids)


def _trained_scores(store: Store, backbone: Ref | None) -> dict[str, float]:
    metrics = Backbone.open(store, backbone).metrics if backbone else {}
    return {name: value for name, value in metrics.items() if is_measured_by(name, "head")}
