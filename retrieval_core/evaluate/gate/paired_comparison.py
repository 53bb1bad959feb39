"""Compare two releases on the same queries, metric by metric, overall and within each category.

Two statements are made about each tested metric:

- *Within tolerance*: with 95% confidence the loss is at most `largest_loss`. A test of non-inferiority asks this to be
  at most the tolerated loss (Wellek, "Testing Statistical Hypotheses of Equivalence and Noninferiority", 2010). Where
  every metric has to pass, their number needs no correction (Berger, "Multiparameter Hypothesis Testing and Acceptance
  Sampling", Technometrics 1982).
- *Beyond chance*: the sign-flip test rejects that both releases are equal. It is corrected for the number of metrics,
  so that at most `alpha` of equal releases have any such loss.

A metric blocks where it lost beyond chance and a loss larger than tolerated is not excluded. With enough queries every
loss of the tolerated size is beyond chance, and the gate is the test of non-inferiority. With fewer, no rule can let
equal releases pass 95 times in 100 and hold a loss of the tolerated size 90 times: if s is the standard error of the
difference, that takes (1.645 + 1.282) s <= max_loss. The rule then still passes equal releases, and the report says
which loss may have stayed unseen. `python -m benchmarks.gate` measures both rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float64, Int64, Text
from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import GateConfig
from retrieval_core.metrics.registry import is_headline
from retrieval_core.metrics.significance import (
    ClusterSums,
    can_reject,
    clusters_needed,
    difference_intervals,
    holm,
    permutation_p_less,
    sum_clusters,
    unseen_losses,
)

# The share of `alpha` that goes to the metrics over all queries where categories are tested too.
OVERALL_SHARE = 0.8
# The least p of n draws is 1 / (n + 1); this takes four times the draws that the strictest corrected level needs.
DRAWS_PER_LEVEL = 4
MIN_DRAWS, MAX_DRAWS = 10_000, 100_000
CONFIDENCE = 0.95  # that a loss is no larger than stated


class MetricChange(Value):
    """One metric of challenger and production, overall or within a `category`; a higher value is better.

    For a metric with one value a query: the means over the `n_queries` that define it on both sides, `n_differing` of
    which have another value, the 95% interval of the difference and, if it was tested, its Holm-corrected p (1 where
    too few queries differ for a test). The queries belong to `n_clusters` products; one without a product counts as its
    own. For a metric that is only a number: the two numbers.

    With 95% confidence the loss is at most `largest_loss`; `max_loss` is tolerated. `unseen_loss` is the `largest_loss`
    that an equal challenger would have here; about `n_clusters_needed` products bring it down to `max_loss`, or to the
    configured `max_unseen_loss` where it is above that.
    """

    name: str
    category: str = ""
    production: float
    candidate: float
    difference: float
    n_queries: int = 0
    n_clusters: int = 0
    n_differing: int = 0
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    largest_loss: float | None = None
    unseen_loss: float | None = None
    max_loss: float = 0.0
    n_clusters_needed: int = 0
    blocks: bool = False

    @property
    def is_within_tolerance(self) -> bool:
        return self.largest_loss is not None and self.largest_loss <= self.max_loss


class Changes(NamedTuple):
    """The metrics that both sides have per query, and the tested ones within each category."""

    overall: tuple[MetricChange, ...] = ()
    by_category: tuple[MetricChange, ...] = ()


def compare(challenger: pl.DataFrame, production: pl.DataFrame, config: GateConfig) -> Changes:
    """Compare two tables of queries on the queries that both have, and decide which losses block.

    A table has a unique column item_id and a float column a metric, null where undefined, 0 to 1; a higher value is
    better. A string column `cluster` in the challenger's table names the queries that depend on each other (null: on no
    other), and a string column `category` (null where unknown) makes the categories comparable.

    A headline metric blocks when its one-sided Holm-corrected p is below its level and a loss larger than `max_loss` is
    not excluded; where there is no headline, all metrics are tested. The same holds within each category of at least
    `min_category_queries` queries, with `max_category_loss`.

    The categories are a family of tests of their own. In one family, the metrics over all queries, which can detect a
    loss of two points, would pay for the tests of fifty categories, which cannot. `alpha` is split between the two
    families, so that an equal challenger is held with probability `alpha` at most, however the tests and the queries of
    a cluster depend on each other.
    """
    shared = _shared(challenger, production)
    headlines = [is_headline(name) for name in shared.names]
    tested = np.array(headlines if any(headlines) else [True] * len(headlines), np.bool_)
    within = [
        group
        for category, rows in _categories(shared.categories, config.min_category_queries)
        for group in _groups(_tested_only(shared, tested, rows), tested[tested], category)
        if len(group.challenger) >= config.min_category_queries
    ]
    alpha = config.alpha * (OVERALL_SHARE if within else 1.0)
    overall = _changes(list(_groups(shared, tested, "")), _Limit(config.max_loss, config.max_unseen_loss, alpha))
    position = {name: number for number, name in enumerate(shared.names)}
    limit = _Limit(config.max_category_loss, 1.0, config.alpha - alpha)
    return Changes(
        overall=tuple(sorted(overall, key=lambda row: position[row.name])),
        by_category=tuple(_changes(within, limit)) if within else (),
    )


class _Shared(NamedTuple):
    """The n queries that both sides have: (n, m) values of the m `names`, NaN where undefined, and (n,) the others."""

    names: list[str]
    challenger: Float64
    production: Float64
    clusters: Int64
    categories: Text


class _Group(NamedTuple):
    """Metrics that are defined for the same n >= 2 queries: (n, m) values of both sides, and which are tested.

    `summed` are the differences.
    """

    names: list[str]
    tested: Bool
    challenger: Float64
    production: Float64
    summed: ClusterSums
    category: str


class _Limit(NamedTuple):
    max_loss: float
    max_unseen_loss: float
    alpha: float


def _shared(challenger: pl.DataFrame, production: pl.DataFrame) -> _Shared:
    names = [
        name
        for name, dtype in challenger.schema.items()
        if dtype.is_float() and production.schema.get(name, pl.Null()).is_float()
    ]
    kinds = [name for name in ("category", "cluster") if challenger.schema.get(name) == pl.String]
    old = production.select("item_id", pl.col(names).name.suffix(" in production"))
    both = challenger.select("item_id", *names, *kinds).join(old, on="item_id", maintain_order="left")
    itself = "item:" + pl.col("item_id")
    clusters = both.select(pl.coalesce("cluster", itself) if "cluster" in kinds else itself).to_series()
    return _Shared(
        names,
        _values(both, names),
        _values(both, [f"{name} in production" for name in names]),
        clusters.rank("dense").to_numpy().astype(np.int64),
        both["category"].to_numpy() if "category" in kinds else np.full(len(both), None, np.object_),
    )


def _values(table: pl.DataFrame, names: list[str]) -> Float64:
    """Return (n, m) values, contiguous by column, NaN for null."""
    values = np.empty((len(table), len(names)), order="F")
    for column, name in enumerate(names):
        values[:, column] = table[name].cast(pl.Float64).to_numpy()
    return values


def _categories(categories: Text, min_queries: int) -> Iterator[tuple[str, Int64]]:
    """Yield each category with enough queries, and their rows; a category that all queries have is left out."""
    known = np.array([number for number, category in enumerate(categories) if category is not None], np.int64)
    names, codes, counts = np.unique(categories[known].astype(str), return_inverse=True, return_counts=True)
    for code in np.flatnonzero((counts >= min_queries) & (counts < len(known))):
        yield str(names[code]), known[codes == code]


def _tested_only(shared: _Shared, tested: Bool, rows: Int64) -> _Shared:
    return _Shared(
        [name for name, is_tested in zip(shared.names, tested, strict=True) if is_tested],
        shared.challenger[np.ix_(rows, tested)],
        shared.production[np.ix_(rows, tested)],
        shared.clusters[rows],
        shared.categories[rows],
    )


def _groups(shared: _Shared, tested: Bool, category: str) -> Iterator[_Group]:
    defined = ~np.isnan(shared.challenger - shared.production)
    columns_by_rows: dict[bytes, list[int]] = {}
    for column, rows in enumerate(defined.T):
        # A single query has no spread, so it cannot be tested.
        if rows.sum() > 1:
            columns_by_rows.setdefault(rows.tobytes(), []).append(column)
    for columns in map(np.array, columns_by_rows.values()):
        rows = defined[:, columns[0]]
        challenger, production = (side[np.ix_(rows, columns)] for side in (shared.challenger, shared.production))
        names = [shared.names[column] for column in columns]
        summed = sum_clusters(challenger - production, shared.clusters[rows])
        yield _Group(names, tested[columns], challenger, production, summed, category)


def _changes(groups: Sequence[_Group], limit: _Limit) -> list[MetricChange]:
    p_values = _corrected(groups, limit.alpha)
    return [change for group, p in zip(groups, p_values, strict=True) for change in _group_changes(group, p, limit)]


def _group_changes(group: _Group, p_values: Float64, limit: _Limit) -> Iterator[MetricChange]:
    pairs = group.summed
    low, high = difference_intervals(pairs)
    largest = -difference_intervals(pairs, level=2 * CONFIDENCE - 1)[0]
    unseen = unseen_losses(pairs, CONFIDENCE)
    is_too_few = unseen > limit.max_unseen_loss
    n_needed = clusters_needed(pairs, np.where(is_too_few, limit.max_unseen_loss, limit.max_loss), CONFIDENCE)
    n_differing = (group.challenger != group.production).sum(axis=0)
    for column, name in enumerate(group.names):
        p_holm = float(p_values[column])
        yield MetricChange(
            name=name,
            category=group.category,
            production=float(group.production[:, column].mean()),
            candidate=float(group.challenger[:, column].mean()),
            difference=float(pairs.means[column]),
            n_queries=len(group.challenger),
            n_clusters=len(pairs.sizes),
            n_differing=int(n_differing[column]),
            low=float(low[column]),
            high=float(high[column]),
            p_holm=None if np.isnan(p_holm) else p_holm,
            largest_loss=float(largest[column]),
            unseen_loss=float(unseen[column]),
            max_loss=limit.max_loss,
            n_clusters_needed=int(n_needed[column]),
            blocks=p_holm < limit.alpha and bool(largest[column] > limit.max_loss),
        )


def _corrected(groups: Sequence[_Group], alpha: float) -> list[Float64]:
    """Return the Holm-corrected p of each group's metrics, all groups being one family; NaN where not tested."""
    if not groups:
        return []
    tested = np.concatenate([group.tested for group in groups])
    n_differing = np.concatenate([(group.summed.sums != 0).sum(axis=0) for group in groups])
    is_decidable = tested.copy()
    is_decidable[tested] = can_reject(n_differing[tested], alpha)
    n_draws = int(np.clip(DRAWS_PER_LEVEL * is_decidable.sum() / alpha, MIN_DRAWS, MAX_DRAWS))
    p_values = np.full(len(tested), np.nan)
    edges = np.cumsum([len(group.names) for group in groups])[:-1]
    for group, start in zip(groups, (0, *edges), strict=True):
        columns = np.flatnonzero(is_decidable[start : start + len(group.names)])
        p_values[start + columns] = permutation_p_less(group.summed.sums[:, columns], n_draws)
    return np.split(np.where(tested & ~is_decidable, 1.0, holm(p_values.tolist())), edges)
