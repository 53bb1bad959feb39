"""Compare challenger and production on the same queries, metric by metric, overall and within each category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float64, Int64, Text
from retrieval_core.artifacts.manifests import Value
from retrieval_core.config import GateConfig
from retrieval_core.metrics.registry import is_headline
from retrieval_core.metrics.significance import bootstrap_intervals, can_reject, holm, permutation_p_less

# The share of `alpha` that goes to the metrics over all queries where categories are tested too.
OVERALL_SHARE = 0.8
# The least p of n draws is 1 / (n + 1); this takes four times the draws that the strictest corrected level needs.
DRAWS_PER_LEVEL = 4
MIN_DRAWS, MAX_DRAWS = 10_000, 100_000


class MetricChange(Value):
    """One metric of challenger and production, overall or within a `category`; a higher value is better.

    For a metric with one value a query: the means over the `n_queries` that define it on both sides, the 95% interval
    of the difference and, if it was tested, its Holm-corrected p (1 where too few queries differ for a test). For a
    metric that is only a number: the two numbers.
    """

    name: str
    category: str = ""
    production: float
    candidate: float
    difference: float
    n_queries: int = 0
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    blocks: bool = False


class Changes(NamedTuple):
    """The metrics that both sides have per query, and the tested ones within each category."""

    overall: tuple[MetricChange, ...] = ()
    by_category: tuple[MetricChange, ...] = ()


def compare(challenger: pl.DataFrame, production: pl.DataFrame, config: GateConfig) -> Changes:
    """Compare two tables of queries on the queries that both have, and decide which losses block.

    A table has a unique column item_id and a float column a metric, null where undefined; a higher value is better. A
    string column `category` in the challenger's table (null where unknown) makes the categories comparable.

    A headline metric blocks when it fell by more than `max_loss`, its one-sided Holm-corrected p is below its level,
    and its 95% interval lies below 0; where there is no headline, all metrics are tested. The same holds within each
    category of at least `min_category_queries` queries, with `max_category_loss`.

    The categories are a family of tests of their own. In one family, the metrics over all queries, which can detect a
    loss of two points, would pay for the tests of fifty categories, which cannot. `alpha` is split between the two
    families, so that an equal challenger is held with probability `alpha` at most, however the tests depend on each
    other.
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
    overall = _changes(list(_groups(shared, tested, "")), _Limit(config.max_loss, alpha))
    place = {name: number for number, name in enumerate(shared.names)}
    return Changes(
        overall=tuple(sorted(overall, key=lambda row: place[row.name])),
        by_category=tuple(_changes(within, _Limit(config.max_category_loss, config.alpha - alpha))) if within else (),
    )


class _Shared(NamedTuple):
    """The n queries that both sides have: (n, m) values of the m `names`, NaN where undefined, and (n,) categories."""

    names: list[str]
    challenger: Float64
    production: Float64
    categories: Text


class _Group(NamedTuple):
    """Metrics that are defined for the same n >= 2 queries: (n, m) values of both sides, and which are tested."""

    names: list[str]
    tested: Bool
    challenger: Float64
    production: Float64
    category: str

    @property
    def differences(self) -> Float64:
        return self.challenger - self.production


class _Limit(NamedTuple):
    """A loss blocks when it is larger than `max_loss` and its corrected p is below `alpha`."""

    max_loss: float
    alpha: float


def _shared(challenger: pl.DataFrame, production: pl.DataFrame) -> _Shared:
    names = [
        name
        for name, dtype in challenger.schema.items()
        if dtype.is_float() and production.schema.get(name, pl.Null()).is_float()
    ]
    kinds = ["category"] if challenger.schema.get("category") == pl.String else []
    old = production.select("item_id", pl.col(names).name.suffix(" in production"))
    both = challenger.select("item_id", *names, *kinds).join(old, on="item_id", maintain_order="left")
    return _Shared(
        names,
        _values(both, names),
        _values(both, [f"{name} in production" for name in names]),
        both["category"].to_numpy() if kinds else np.full(len(both), None, np.object_),
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
        chosen = np.ix_(defined[:, columns[0]], columns)
        names = [shared.names[column] for column in columns]
        yield _Group(names, tested[columns], shared.challenger[chosen], shared.production[chosen], category)


def _changes(groups: Sequence[_Group], limit: _Limit) -> list[MetricChange]:
    changes = []
    for group, p_values in zip(groups, _corrected(groups, limit.alpha), strict=True):
        differences, ends = group.differences.mean(axis=0), bootstrap_intervals(group.differences)
        for column, name in enumerate(group.names):
            difference, low, high, p_holm = map(float, (differences[column], *ends[:, column], p_values[column]))
            changes.append(
                MetricChange(
                    name=name,
                    category=group.category,
                    production=float(group.production[:, column].mean()),
                    candidate=float(group.challenger[:, column].mean()),
                    difference=difference,
                    n_queries=len(group.challenger),
                    low=low,
                    high=high,
                    p_holm=None if np.isnan(p_holm) else p_holm,
                    blocks=difference < -limit.max_loss and p_holm < limit.alpha and high < 0,
                )
            )
    return changes


def _corrected(groups: Sequence[_Group], alpha: float) -> list[Float64]:
    """Return the Holm-corrected p of each group's metrics, all groups being one family; NaN where not tested."""
    if not groups:
        return []
    tested = np.concatenate([group.tested for group in groups])
    n_differing = np.concatenate([(group.differences != 0).sum(axis=0) for group in groups])
    is_decidable = tested.copy()
    is_decidable[tested] = can_reject(n_differing[tested], alpha)
    n_draws = int(np.clip(DRAWS_PER_LEVEL * is_decidable.sum() / alpha, MIN_DRAWS, MAX_DRAWS))
    p_values = np.full(len(tested), np.nan)
    edges = np.cumsum([len(group.names) for group in groups])[:-1]
    for group, start in zip(groups, (0, *edges), strict=True):
        columns = np.flatnonzero(is_decidable[start : start + len(group.names)])
        p_values[start + columns] = permutation_p_less(group.differences[:, columns], n_draws)
    return np.split(np.where(tested & ~is_decidable, 1.0, holm(p_values.tolist())), edges)
