"""What each variant finds: the same queries asked of the same gallery, by exact search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from pydantic import Field

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Backbone, ClassSet, Fitted, Ref, Value, VectorSet
from retrieval_core.artifacts.parts import load_classes, load_vectors
from retrieval_core.config import EvaluateConfig
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.measure.classified import classified_topk
from retrieval_core.evaluate.measure.protocol import Protocol, choose_protocol
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.registry import is_measured_by
from retrieval_core.metrics.relevance import MAX_CUTOFF
from retrieval_core.metrics.retrieval import Scores, random_scores, score
from retrieval_core.store.base import Store


class Candidate(Value):
    """A variant as it was made, and what it costs.

    `classes` are of mode classified, `masks` what a cropped variant's pictures were cropped to; `backbone` made the
    vectors, and knows how its own training was scored. A picture's time is that of the networks a query goes
    through: what masks or crops it, the backbone, the classifier; `n_bytes_per_item` is what its vector takes in an
    index.
    """

    spec: VariantConfig
    vectors: Ref
    classes: Ref | None = None
    masks: Ref | None = None
    backbone: Ref | None = None
    ms_per_picture: float = Field(gt=0)
    n_bytes_per_item: int = Field(gt=0)


class Comparing(Value):
    """What a run has made by the time its variants are compared: `models` are those trained for it, by their names."""

    source: str
    catalog: Ref
    candidates: tuple[Candidate, ...]
    models: dict[str, Fitted] = {}
    seconds: dict[str, float] = {}


class Compared(NamedTuple):
    """What every variant found, by its name: `positions` in the gallery and their cosine `similarities`, (q, 10).

    `random` is what retrieval at random achieves; `trained` how a variant's backbone was scored in its own training.
    """

    candidates: tuple[Candidate, ...]
    items: pl.DataFrame
    protocol: Protocol
    scores: dict[str, Scores]
    positions: dict[str, Int64]
    similarities: dict[str, Float32]
    random: Scores
    trained: dict[str, dict[str, float]]


def compare_variants(
    store: Store, catalog: Ref, candidates: Sequence[Candidate], evaluate: EvaluateConfig, top_classes: int
) -> Compared:
    """Ask every variant the same queries, over the items that each of them has a vector for.

    In mode classified a query is looked for among the items of its `top_classes` likeliest classes first. Raises
    `BadConfig` for such a variant without classes.
    """
    items = _shared_items(store, catalog, candidates)
    protocol = choose_protocol(items, evaluate)
    found = {candidate.spec.name: _search(store, candidate, items, protocol, top_classes) for candidate in candidates}
    return Compared(
        candidates=tuple(candidates),
        items=items,
        protocol=protocol,
        scores={name: score(positions, protocol.truth) for name, (_, positions) in found.items()},
        positions={name: positions for name, (_, positions) in found.items()},
        similarities={name: similarities for name, (similarities, _) in found.items()},
        random=random_scores(protocol.truth, evaluate.seed),
        trained={candidate.spec.name: _trained_scores(store, candidate.backbone) for candidate in candidates},
    )


def per_query_table(compared: Compared) -> pl.DataFrame:
    """One row a variant and query: columns variant, item_id of the query, and a Float64 one for each metric."""
    asked = compared.items["item_id"].gather(compared.protocol.queries)
    tables = [
        scores.per_query.select(pl.lit(name).alias("variant"), asked.alias("item_id"), pl.all())
        for name, scores in compared.scores.items()
    ]
    return pl.concat(tables)


def summary_table(compared: Compared) -> pl.DataFrame:
    """One row a variant and metric: columns variant, metric, value, random, ms_per_picture and n_bytes_per_item."""
    rows = [
        (candidate.spec.name, metric, value, candidate.ms_per_picture, candidate.n_bytes_per_item)
        for candidate in compared.candidates
        for metric, value in all_scores(compared, candidate.spec.name).items()
    ]
    columns = {
        "variant": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "ms_per_picture": pl.Float64,
        "n_bytes_per_item": pl.Int64,
    }
    table = pl.DataFrame(rows, schema=columns, orient="row")
    return table.with_columns(random=pl.col("metric").replace_strict(compared.random.summary, default=None))


def all_scores(compared: Compared, name: str) -> dict[str, float]:
    """Every metric of one variant, those of its backbone's own training among them."""
    return compared.trained[name] | compared.scores[name].summary


def _shared_items(store: Store, catalog: Ref, candidates: Sequence[Candidate]) -> pl.DataFrame:
    """The catalogue's rows, not in quarantine, whose picture has a vector of every variant."""
    items = load_items(store, catalog.name)
    for vectors in dict.fromkeys(candidate.vectors for candidate in candidates):
        items = indexable_items(store, items, VectorSet.open(store, vectors))
    return items


def _search(
    store: Store, candidate: Candidate, items: pl.DataFrame, protocol: Protocol, top_classes: int
) -> tuple[Float32, Int64]:
    """(q, 10) cosines and positions in the gallery, the nearest first."""
    content_ids = items["content_id"].to_list()
    vectors = load_vectors(store, VectorSet.open(store, candidate.vectors), content_ids)
    queries, gallery = vectors[protocol.queries], vectors[protocol.gallery]
    if candidate.spec.mode == "nearest":
        return exact_topk(queries, gallery, MAX_CUTOFF)
    if candidate.classes is None:
        raise BadConfig(f"variant {candidate.spec.name!r} has mode classified, but no classes were made for it")
    classes = load_classes(store, ClassSet.open(store, candidate.classes), content_ids)
    asked = classes[protocol.queries, :top_classes]
    return classified_topk(queries, gallery, asked, classes[protocol.gallery, 0], MAX_CUTOFF)


def _trained_scores(store: Store, backbone: Ref | None) -> dict[str, float]:
    metrics = Backbone.open(store, backbone).metrics if backbone else {}
    return {name: value for name, value in metrics.items() if is_measured_by(name, "head")}
