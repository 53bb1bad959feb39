"""Quality of the published search with its uncertainty: intervals, categories, confusion, best and worst queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.setup import Protocol, hash_rows
from retrieval_core.metrics.registry import BY_CATEGORY, HEADLINES
from retrieval_core.metrics.significance import sum_clusters, wilson

MIN_STUDENT = 30  # clusters; the spread of fewer is too uncertain for Student's t
MIN_SPREAD = 1e-9  # a smaller spread is rounding
MAX_CONFUSED = 12  # categories that a table can show
OTHERS = "others"


class MetricFacts(Value):
    """The mean of one metric over the `n_queries` that define it, and its 95% interval; None for a single query."""

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
    """`counts[i][j]` queries of category `asked[i]` whose first hit is of category `found[j]`.

    Rarer categories are counted together as "others". `n_queries` have both a category and a first hit with one.
    """

    n_queries: int
    asked: tuple[str, ...]
    found: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class QualityFacts(Value):
    """`metrics` of the published search, `categories` (those with most queries first), first hits' `confusion`.

    `unlabelled` are the metrics of golden and synthetic queries.
    """

    metrics: tuple[MetricFacts, ...] = ()
    unlabelled: tuple[MetricFacts, ...] = ()
    categories: tuple[CategoryFacts, ...] = ()
    confusion: Confusion | None = None


def measure_quality(
    per_query: pl.DataFrame, unlabelled: pl.DataFrame, protocol: Protocol, items: pl.DataFrame, first: Int64
) -> QualityFacts:
    """Summarise tables of queries: one in the protocol's order, and one of queries that need no labels.

    They have a float column for each metric and name the queries' clusters; intervals count the queries of one cluster
    as one observation. `first` (q,) are the gallery positions of the first hits, -1 for none.
    """
    asked = items["category"].gather(protocol.queries)
    per_query = per_query.with_columns(asked.alias("category"))
    names = _metric_names(per_query)
    return QualityFacts(
        metrics=_metrics(per_query, names),
        unlabelled=_metrics(unlabelled, _metric_names(unlabelled)),
        categories=_categories(per_query, names),
        confusion=_confusion(asked, items["category"].gather(protocol.gallery), first),
    )


def interval(values: Float64, clusters: Int64) -> tuple[float, float] | None:
    """Return the 95% interval of the mean of (n,) values between 0 and 1; None if there are fewer than two clusters.

    Yes-or-no values, few clusters and equal values get Wilson's interval. No values between 0 and 1 vary more than yes
    and no of the same mean, so it is never too narrow, however little the sample varies. All others get Student's with
    the cluster-robust standard error.
    """
    from scipy.special import stdtrit

    summed = sum_clusters(values[:, None], clusters)
    n_clusters = len(summed.sizes)
    if n_clusters < 2:
        return None
    mean, error = float(summed.means[0]), float(summed.standard_errors[0])
    if n_clusters < MIN_STUDENT or error < MIN_SPREAD or np.isin(values, (0.0, 1.0)).all():
        # As many independent values as would give this standard error (Korn and Graubard, "Confidence intervals for
        # proportions with small expected number of positive counts", 1998), if there are enough clusters to tell.
        n = mean * (1 - mean) / error**2 if n_clusters >= MIN_STUDENT and error >= MIN_SPREAD else 0.0
        low, high = wilson(summed.means, float(np.clip(n, summed.n_effective, len(values))))
        return float(low[0]), float(high[0])
    reach = float(stdtrit(summed.n_effective - 1, 0.975)) * error
    return max(mean - reach, 0.0), min(mean + reach, 1.0)


def _metric_names(table: pl.DataFrame) -> list[str]:
    return [name for name, dtype in table.schema.items() if dtype.is_float()]


def _metrics(table: pl.DataFrame, names: Sequence[str]) -> tuple[MetricFacts, ...]:
    facts = []
    for name in names:
        known = table.select(name, "cluster").drop_nulls().drop_nans()
        values = known[name].to_numpy()
        if len(values):
            clusters = known["cluster"].rank("dense").to_numpy().astype(np.int64)
            low, high = interval(values, clusters) or (None, None)
            mean = float(values.mean())
            facts.append(MetricFacts(name=name, value=mean, n_queries=len(values), low=low, high=high))
    return tuple(facts)


def _categories(table: pl.DataFrame, names: Sequence[str]) -> tuple[CategoryFacts, ...]:
    columns = [name for name in BY_CATEGORY if name in names]
    groups = table.drop_nulls("category").partition_by("category", as_dict=True)
    facts = [
        CategoryFacts(category=str(key[0]), n_queries=len(group), metrics=_metrics(group, columns))
        for key, group in groups.items()
    ]
    return tuple(sorted(facts, key=lambda fact: (-fact.n_queries, fact.category)))


def _confusion(asked: pl.Series, gallery: pl.Series, first: Int64) -> Confusion | None:
    """Return None if fewer than two categories occur among the queries and their first hits."""
    if not len(first) or not len(gallery):
        return None
    found = gallery.gather(np.maximum(first, 0))
    pairs = pl.DataFrame({"asked": asked, "found": found, "has_hit": first >= 0}).filter("has_hit").drop_nulls()
    if pl.concat([pairs["asked"], pairs["found"]]).n_unique() < 2:
        return None
    frequent = pairs["asked"].value_counts().sort(["count", "asked"], descending=[True, False])["asked"]
    named = frequent.head(MAX_CONFUSED).to_list()
    grouped = pairs.select(
        pl.when(pl.col(side).is_in(named)).then(side).otherwise(pl.lit(OTHERS)) for side in ("asked", "found")
    )
    rows = [*named, OTHERS] if (grouped["asked"] == OTHERS).any() else named
    columns = [*named, OTHERS] if (grouped["found"] == OTHERS).any() else named
    count_of = {(row, column): n for row, column, n in grouped.group_by("asked", "found").len().iter_rows()}
    return Confusion(
        n_queries=len(grouped),
        asked=tuple(rows),
        found=tuple(columns),
        counts=tuple(tuple(count_of.get((row, column), 0) for column in columns) for row in rows),
    )


def rank_queries(per_query: pl.DataFrame, row_ids: Int64, seed: int) -> Int64:
    """Return (r,) positions of the judged queries, best first by the mean of their headline metrics, ties by hash."""
    names = [name for name in HEADLINES if name in per_query.columns]
    if not names:
        return np.empty(0, np.int64)
    score = per_query.select(pl.mean_horizontal(pl.col(names).fill_nan(None))).to_series().fill_null(np.nan).to_numpy()
    order = np.lexsort((hash_rows(row_ids, seed), -score))
    return order[~np.isnan(score[order])].astype(np.int64)
