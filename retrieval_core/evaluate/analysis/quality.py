"""How good the published search is, and how surely: intervals, categories, confusion, best and worst queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.evaluate.measure.search_setup import hash_rows
from retrieval_core.metrics.retrieval import HEADLINES

MIN_STUDENT = 30  # queries; of fewer the spread is known too badly
SAME = 1e-9  # a spread below this is rounding
Z = 1.959964  # 95% of a normal distribution lie within
MAX_CONFUSED = 12  # categories a table can show
OTHERS = "others"


class MetricFacts(Value):
    """The mean of one metric over the `n_queries` that define it, and its 95% interval; none of a single query."""

    name: str
    value: float
    n_queries: int
    low: float | None = None
    high: float | None = None


class CategoryFacts(Value):
    """The headline metrics over the `n_queries` of one category."""

    category: str
    n_queries: int
    metrics: tuple[MetricFacts, ...]


class Confusion(Value):
    """`counts[i][j]` queries of `asked[i]` whose first hit is of `found[j]`; rarer categories are taken together.

    `n_queries` have a category and a first hit that has one.
    """

    n_queries: int
    asked: tuple[str, ...]
    found: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class QualityFacts(Value):
    """`metrics` of the published search, `categories` (the most asked first), and the first hits' `confusion`."""

    metrics: tuple[MetricFacts, ...] = ()
    categories: tuple[CategoryFacts, ...] = ()
    confusion: Confusion | None = None


def measure_quality(per_query: pl.DataFrame, protocol: Protocol, items: pl.DataFrame, first: Int64) -> QualityFacts:
    """Of a table of queries in the protocol's order: a float column a metric; `first` (q,) are positions of first hits.

    A first hit is a position in the gallery, -1 for none.
    """
    asked = items["category"].gather(protocol.queries)
    names = [name for name, dtype in per_query.schema.items() if dtype.is_float()]
    return QualityFacts(
        metrics=_metrics(per_query, names),
        categories=_categories(per_query.with_columns(asked.alias("category")), names),
        confusion=_confusion(asked, items["category"].gather(protocol.gallery), first),
    )


def interval(values: Float64) -> tuple[float, float] | None:
    """95% interval of the mean of (n,) values between 0 and 1; None of fewer than two.

    Of answers yes or no, of few values and of equal ones Wilson's ("Probable inference", JASA 1927): no values between
    0 and 1 vary more than yes and no of the same mean, so it is never too narrow for want of spread in the sample.
    Else Student's, which needs no resampling and so is as quick for a thousand categories.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if n < MIN_STUDENT or spread < SAME or np.isin(values, (0.0, 1.0)).all():
        return wilson(mean, n)
    reach = float(stdtrit(n - 1, 0.975)) * spread / n**0.5
    return max(mean - reach, 0.0), min(mean + reach, 1.0)


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of the mean of n answers yes or no."""
    centre, scale = mean + Z**2 / (2 * n), 1 + Z**2 / n
    reach = Z * (mean * (1 - mean) / n + Z**2 / (4 * n**2)) ** 0.5
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def _metrics(table: pl.DataFrame, names: Sequence[str]) -> tuple[MetricFacts, ...]:
    found = []
    for name in names:
        values = table[name].drop_nulls().drop_nans().to_numpy()
        if len(values):
            low, high = interval(values) or (None, None)
            mean = float(values.mean())
            found.append(MetricFacts(name=name, value=mean, n_queries=len(values), low=low, high=high))
    return tuple(found)


def _categories(table: pl.DataFrame, names: Sequence[str]) -> tuple[CategoryFacts, ...]:
    shown = [name for name in (*HEADLINES, "precision@5") if name in names]
    groups = table.drop_nulls("category").partition_by("category", as_dict=True)
    facts = [
        CategoryFacts(category=str(key[0]), n_queries=len(group), metrics=_metrics(group, shown))
        for key, group in groups.items()
    ]
    return tuple(sorted(facts, key=lambda one: (-one.n_queries, one.category)))


def _confusion(asked: pl.Series, gallery: pl.Series, first: Int64) -> Confusion | None:
    """None where fewer than two categories meet."""
    if not len(first) or not len(gallery):
        return None
    hits = gallery.gather(np.maximum(first, 0))
    pairs = pl.DataFrame({"asked": asked, "found": hits, "hit": first >= 0}).filter("hit").drop_nulls()
    if pl.concat([pairs["asked"], pairs["found"]]).n_unique() < 2:
        return None
    counted = pairs["asked"].value_counts().sort(["count", "asked"], descending=[True, False])["asked"]
    shown = counted.head(MAX_CONFUSED).to_list()
    kept = pairs.select(
        pl.when(pl.col(side).is_in(shown)).then(side).otherwise(pl.lit(OTHERS)) for side in pairs.columns[:2]
    )
    rows = [*shown, OTHERS] if (kept["asked"] == OTHERS).any() else shown
    columns = [*shown, OTHERS] if (kept["found"] == OTHERS).any() else shown
    number_of = {key: n for *key_, n in kept.group_by("asked", "found").len().iter_rows() for key in [tuple(key_)]}
    return Confusion(
        n_queries=len(kept),
        asked=tuple(rows),
        found=tuple(columns),
        counts=tuple(tuple(number_of.get((row, column), 0) for column in columns) for row in rows),
    )


def rank_queries(per_query: pl.DataFrame, row_ids: Int64, seed: int) -> Int64:
    """(r,) positions of the judged queries, the best first: by the mean of their headline metrics, equals by hash."""
    names = [name for name in HEADLINES if name in per_query.columns]
    if not names:
        return np.empty(0, np.int64)
    score = per_query.select(pl.mean_horizontal(pl.col(names).fill_nan(None))).to_series().fill_null(np.nan).to_numpy()
    order = np.lexsort((hash_rows(row_ids, seed), -score))
    return order[~np.isnan(score[order])].astype(np.int64)
