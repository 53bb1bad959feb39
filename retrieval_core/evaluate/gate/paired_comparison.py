"""Candidate and production on the same queries, metric by metric, overall and within each category."""

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

# Of `alpha`, where there are categories to test: what the metrics over all queries may spend.
OVERALL_SHARE = 0.8
# The least p of n draws is 1 / (n + 1): four times the draws that the sternest corrected level needs.
DRAWS_PER_LEVEL = 4
MIN_DRAWS, MAX_DRAWS = 10_000, 100_000


class MetricChange(Value):
    """One metric of candidate and production, a higher value being better; of one `category`, or overall.

    Of a per-query metric: means over the `n_queries` that define it on both sides, the 95% interval of the difference,
    and, if it was tested, its Holm-corrected p (1 where too few queries differ to tell). Of a metric known only as a
    number, the two numbers.
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
    """Every metric that both sides have per query, and the tested ones within each category."""

    overall: tuple[MetricChange, ...] = ()
    by_category: tuple[MetricChange, ...] = ()


def compare(candidate: pl.DataFrame, production: pl.DataFrame, config: GateConfig) -> Changes:
    """Compare two tables of queries on those that both have, and say which losses block.

    Tables: a unique item_id column and a float column a metric, null where undefined, a higher value being better; a
    string column `category` of the candidate (null where unknown) lets the categories be compared.

    A headline metric blocks when it fell by more than `max_loss`, its one-sided Holm-corrected p is below its level,
    and its 95% interval lies below 0; without any headline all metrics are tested. So do the same metrics within each
    category of `min_category_queries` queries or more, beyond `max_category_loss`. The categories are a family of their
    own: in one family the metrics overall, which can see a loss of two points, would pay for the tests of fifty
    categories, which cannot. `alpha` is split between the two, so that an equal candidate is held no more often than
    that, whatever depends on what.
    """
    shared = _shared(candidate, production)
    headlines = [is_headline(name) for name in shared.names]
    tested = np.array(headlines if any(headlines) else [True] * len(headlines), np.bool_)
    within = [
        group
        for category, rows in _categories(shared.categories, config.min_category_queries)
        for group in _groups(_tested_only(shared, tested, rows), tested[tested], category)
        if len(group.candidate) >= config.min_category_queries
    ]
    alpha = config.alpha * (OVERALL_SHARE if within else 1.0)
    overall = _changes(list(_groups(shared, tested, "")), _Limit(config.max_loss, alpha))
    place = {name: number for number, name in enumerate(shared.names)}
    return Changes(
        overall=tuple(sorted(overall, key=lambda row: place[row.name])),
        by_category=tuple(_changes(within, _Limit(config.max_category_loss, config.alpha - alpha))) if within else (),
    )


class _Shared(NamedTuple):
    """The queries that both sides have: (n, m) values of `names`, NaN where undefined, and (n,) categories."""

    names: list[str]
    candidate: Float64
    production: Float64
    categories: Text


class _Group(NamedTuple):
    """Metrics that the same n >= 2 queries define: (n, m) values of both sides, and which of them are tested."""

    names: list[str]
    tested: Bool
    candidate: Float64
    production: Float64
    category: str

    @property
    def differences(self) -> Float64:
        return self.candidate - self.production


class _Limit(NamedTuple):
    """A loss blocks when it is larger than `max_loss` and its corrected p is below `alpha`."""

    max_loss: float
    alpha: float


def _shared(candidate: pl.DataFrame, production: pl.DataFrame) -> _Shared:
    names = [
        name
        for name, dtype in candidate.schema.items()
        if dtype.is_float() and production.schema.get(name, pl.Null()).is_float()
    ]
    kinds = ["category"] if candidate.schema.get("category") == pl.String else []
    old = production.select("item_id", pl.col(names).name.suffix(" in production"))
    both = candidate.select("item_id", *names, *kinds).join(old, on="item_id", maintain_order="left")
    return _Shared(
        names,
        _values(both, names),
        _values(both, [f"{name} in production" for name in names]),
        both["category"].to_numpy() if kinds else np.full(len(both), None, np.object_),
    )


def _values(table: pl.DataFrame, names: list[str]) -> Float64:
    """(n, m) float64, column after column in memory, NaN for null."""
    values = np.empty((len(table), len(names)), order="F")
    for column, name in enumerate(names):
        values[:, column] = table[name].cast(pl.Float64).to_numpy()
    return values


def _categories(categories: Text, min_queries: int) -> Iterator[tuple[str, Int64]]:
    """Each category of enough queries and their rows, but not one that all are of: that is the whole again."""
    known = np.array([number for number, category in enumerate(categories) if category is not None], np.int64)
    names, codes, counts = np.unique(categories[known].astype(str), return_inverse=True, return_counts=True)
    for code in np.flatnonzero((counts >= min_queries) & (counts < len(known))):
        yield str(names[code]), known[codes == code]


def _tested_only(shared: _Shared, tested: Bool, rows: Int64) -> _Shared:
    return _Shared(
        [name for name, is_tested in zip(shared.names, tested, strict=True) if is_tested],
        shared.candidate[np.ix_(rows, tested)],
        shared.production[np.ix_(rows, tested)],
        shared.categories[rows],
    )


def _groups(shared: _Shared, tested: Bool, category: str) -> Iterator[_Group]:
    defined = ~np.isnan(shared.candidate - shared.production)
    alike: dict[bytes, list[int]] = {}
    for column, rows in enumerate(defined.T):
        # A single query has no spread, so nothing can be said about chance.
        if rows.sum() > 1:
            alike.setdefault(rows.tobytes(), []).append(column)
    for columns in map(np.array, alike.values()):
        chosen = np.ix_(defined[:, columns[0]], columns)
        names = [shared.names[column] for column in columns]
        yield _Group(names, tested[columns], shared.candidate[chosen], shared.production[chosen], category)


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
                    candidate=float(group.candidate[:, column].mean()),
                    difference=difference,
                    n_queries=len(group.candidate),
                    low=low,
                    high=high,
                    p_holm=None if np.isnan(p_holm) else p_holm,
                    blocks=difference < -limit.max_loss and p_holm < limit.alpha and high < 0,
                )
            )
    return changes


def _corrected(groups: Sequence[_Group], alpha: float) -> list[Float64]:
    """(m,) Holm-corrected p of every group's metrics, all groups being one family; NaN of what is not tested."""
    if not groups:
        return []
    tested = np.concatenate([group.tested for group in groups])
    n_differing = np.concatenate([(group.differences != 0).sum(axis=0) for group in groups])
    worth_it = tested.copy()
    worth_it[tested] = can_reject(n_differing[tested], alpha)
    n_draws = int(np.clip(DRAWS_PER_LEVEL * worth_it.sum() / alpha, MIN_DRAWS, MAX_DRAWS))
    p_values = np.full(len(tested), np.nan)
    edges = np.cumsum([len(group.names) for group in groups])[:-1]
    for group, start in zip(groups, (0, *edges), strict=True):
        columns = np.flatnonzero(worth_it[start : start + len(group.names)])
        p_values[start + columns] = permutation_p_less(group.differences[:, columns], n_draws)
    return np.split(np.where(tested & ~worth_it, 1.0, holm(p_values.tolist())), edges)
