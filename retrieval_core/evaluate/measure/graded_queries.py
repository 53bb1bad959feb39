"""Golden queries with grades, from the file of a run or from what shoppers chose, searched in a release.

A grade is of a product: any of its pictures is as good. Hits without a grade are passed over before the first ten count
("condensed lists", Sakai, "Alternatives to bpref", SIGIR 2007). For feedback that is needed: it grades what earlier
releases showed, and if everything else counted as wrong, a release would lose for each good item that none of them
found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.errors import Permanent
from retrieval_core.evaluate.measure.golden_queries import GoldenFile, parse_golden, picture_of, read_golden
from retrieval_core.feedback.grades import TEXT_QUERY
from retrieval_core.feedback.judgements import GOLDEN_FILE, last_judgements
from retrieval_core.item_ids.normal_form import normal_name
from retrieval_core.metrics.graded import ndcg
from retrieval_core.metrics.registry import GOLDEN_NDCG
from retrieval_core.search.hits import Hit
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease
from retrieval_core.store.base import Store

DEPTH = 100  # hits that are looked through for judged ones
SCHEMA = {"item_id": pl.String, "cluster": pl.String, GOLDEN_NDCG.name: pl.Float64}

log = logging.getLogger(__name__)


class GradedQuery(NamedTuple):
    """A query as the file at `uri` has it, and the grades of products, or of items without one.

    `name` also says what it is judged by, so that the gate compares the same question only. Queries of one product have
    one `cluster`.
    """

    name: str
    cluster: str
    query: str
    uri: str
    grades: dict[str, int]


def read_feedback(store: Store, config: EvaluateConfig) -> GoldenFile:
    """Return the last golden queries made of what shoppers chose, none where there are none or `config` wants none."""
    judgements = last_judgements(store) if config.feedback else None
    if judgements is None:
        return GoldenFile("")
    part = judgements.part(GOLDEN_FILE)
    return parse_golden(part.key, store.local_path(part.key, part.sha256).read_bytes())


def choose_graded(store: Store, config: EvaluateConfig, items: pl.DataFrame) -> list[GradedQuery]:
    """Return the graded queries of the run's file and of feedback that can be judged among these items.

    That is where graded products are left with different grades: else every order of them is as good.
    """
    files = (read_golden(config.golden), read_feedback(store, config))
    asked = [(file.uri, query) for file in files for query in file.queries if query.grades]
    products = _products(items, {name for _, query in asked for name in (normal_name(query.query), *query.expected)})
    chosen = []
    for uri, query in asked:
        grades: dict[str, int] = {}
        for item_id, grade in zip(query.expected, query.grades, strict=True):
            if product := products.get(item_id):
                grades[product] = max(grade, grades.get(product, 0))
        if len(set(grades.values())) > 1:
            name = normal_name(query.query) if normal_name(query.query) in products else query.query
            digest = content_id(repr(sorted(grades.items())).encode())[:8]
            chosen.append(GradedQuery(f"graded/{digest}/{name}", products.get(name, name), name, uri, grades))
    return chosen


def search_graded(
    release: OpenRelease, items: pl.DataFrame, queries: Sequence[GradedQuery], max_pixels: int
) -> pl.DataFrame:
    """Return a row (item_id, cluster, nDCG@10) for each query that a release of these `items` can answer."""
    answered = [(query, hits) for query in queries if (hits := _hits(release, items, query, max_pixels)) is not None]
    products = _products(items, {hit.item_id for _, hits in answered for hit in hits})
    rows = [(query.name, query.cluster, _score(query, hits, products)) for query, hits in answered]
    return pl.DataFrame(rows, SCHEMA, orient="row")


def _hits(release: OpenRelease, items: pl.DataFrame, query: GradedQuery, max_pixels: int) -> list[Hit] | None:
    try:
        return release.search(_asked(release, query, max_pixels), k=DEPTH, by_product=True)
    except Permanent as error:  # an item that left, a picture that is gone, words that the backbone cannot read
        log.warning("graded query %s is left out: %s", query.query, error)
        return None


def _asked(release: OpenRelease, query: GradedQuery, max_pixels: int) -> Query:
    if release.find_row(query.query) is not None:
        return Query(item_ids=(query.query,))
    if query.query.startswith(TEXT_QUERY):
        return Query(texts=(query.query.removeprefix(TEXT_QUERY),))
    return Query(images=(picture_of(query.uri, query.query, max_pixels),))


def _score(query: GradedQuery, hits: Iterable[Hit], products: dict[str, str]) -> float:
    found: Iterator[str] = (products[hit.item_id] for hit in hits if hit.item_id in products)
    judged = [query.grades[product] for product in dict.fromkeys(found) if product in query.grades]
    return ndcg(judged, list(query.grades.values()))


def _products(items: pl.DataFrame, item_ids: Iterable[str]) -> dict[str, str]:
    """Return the products of these items, of those that `items` has; the picture for one of no product."""
    known = items.filter(pl.col("item_id").is_in(list(item_ids)))
    product = pl.coalesce("product " + pl.col("product_id"), "picture " + pl.col("content_id"))
    return dict(known.select("item_id", product.alias("product")).iter_rows())
