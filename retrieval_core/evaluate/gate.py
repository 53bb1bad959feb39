"""May we publish? The candidate against production on the same queries, decided once and said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.artifacts import Value
from retrieval_core.config import GateConfig
from retrieval_core.evaluate.significance import holm, paired_bootstrap, paired_permutation_p

# One metric for each kind of truth. Holm's correction pays for every metric tested, and recall@2 after recall@1 asks
# the same question again: with all metrics tested, a real loss of two points would often pass.
HEADLINES = ("recall@1", "map@5", "attribute_map@10", "label_iou@5")

Float64 = npt.NDArray[np.float64]


class MetricChange(Value):
    """One metric of candidate and production, a higher value being better.

    Of a per-query metric: means over the `n_queries` that define it on both sides, the 95% interval of the difference,
    and, if it was tested, its Holm-corrected p. Of a metric known only as a number, the two numbers.
    """

    name: str
    production: float
    candidate: float
    difference: float
    n_queries: int = 0
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    blocks: bool = False


class Verdict(Value):
    """What the gate decided, why in one sentence, and every metric that both sides have."""

    gate: Literal["published", "held"]
    reason: str
    rows: tuple[MetricChange, ...] = ()

    @property
    def losses(self) -> tuple[MetricChange, ...]:
        """The metrics that block."""
        return tuple(row for row in self.rows if row.blocks)


class _Paired(NamedTuple):
    name: str
    candidate: Float64
    production: Float64


def decide(
    candidate: pl.DataFrame | None,
    candidate_metrics: Mapping[str, float],
    production: pl.DataFrame | None,
    production_metrics: Mapping[str, float] | None,
    config: GateConfig,
    reconciled: bool,
) -> Verdict:
    """Publish or hold a candidate release.

    `candidate` and `production` have a unique item_id column and a float column for each metric, a higher value being
    better, null where undefined; they are compared on the queries both have. Pass only the chain that is published.

    A headline metric blocks when it fell by more than `max_loss`, its one-sided Holm-corrected p is below `alpha`, and
    its interval lies below 0; without any headline all shared metrics are tested. An `ann_recall@10` below
    `min_ann_recall` and a catalogue that does not reconcile (`reconciled` False) block on any night, even the first.
    Mode `warn` publishes with the reason all the same, `off` looks at nothing.
    """
    if config.mode == "off":
        return Verdict(gate="published", reason="The gate is off: nothing was compared.")
    pairs = [] if candidate is None or production is None else _pair(candidate, production)
    rows = (*_per_query_changes(pairs, config), *_other_changes(candidate_metrics, production_metrics or {}, pairs))
    causes = _faults(candidate_metrics, config, reconciled) + [_loss(row, config) for row in rows if row.blocks]
    if causes:
        reason = f"{'Held' if config.mode == 'block' else 'Published with a warning'}: {'; '.join(causes)}."
        return Verdict(gate="held" if config.mode == "block" else "published", reason=reason, rows=rows)
    is_first = production is None and production_metrics is None
    return Verdict(gate="published", reason=_all_clear(rows, is_first, config), rows=rows)


def _pair(candidate: pl.DataFrame, production: pl.DataFrame) -> list[_Paired]:
    names = [
        name
        for name, dtype in candidate.schema.items()
        if dtype.is_float() and production.schema.get(name, pl.Null()).is_float()
    ]
    old = production.select("item_id", pl.col(names).name.suffix(" in production"))
    shared = candidate.select("item_id", *names).join(old, on="item_id", maintain_order="left").fill_nan(None)
    pairs = []
    for name in names:
        both = shared.select(name, f"{name} in production").drop_nulls().cast(pl.Float64)
        # A single query has no spread, so nothing can be said about chance.
        if both.height > 1:
            pairs.append(_Paired(name, both[:, 0].to_numpy(), both[:, 1].to_numpy()))
    return pairs


def _per_query_changes(pairs: list[_Paired], config: GateConfig) -> list[MetricChange]:
    headlines = [pair for pair in pairs if pair.name.rsplit("/", 1)[-1] in HEADLINES]
    tested = [pair.name for pair in headlines or pairs]
    p_values = [
        paired_permutation_p(pair.candidate, pair.production, alternative="less")
        if pair.name in tested
        else float("nan")
        for pair in pairs
    ]
    return [_change(pair, p, config) for pair, p in zip(pairs, holm(p_values), strict=True)]


def _change(pair: _Paired, p_holm: float, config: GateConfig) -> MetricChange:
    difference, low, high, n_queries = paired_bootstrap(pair.candidate, pair.production)
    return MetricChange(
        name=pair.name,
        production=float(pair.production.mean()),
        candidate=float(pair.candidate.mean()),
        difference=difference,
        n_queries=n_queries,
        low=low,
        high=high,
        p_holm=None if np.isnan(p_holm) else p_holm,
        blocks=difference < -config.max_loss and p_holm < config.alpha and high < 0,
    )


def _other_changes(
    candidate: Mapping[str, float], production: Mapping[str, float], pairs: list[_Paired]
) -> list[MetricChange]:
    compared = {pair.name for pair in pairs}
    return [
        MetricChange(name=name, production=production[name], candidate=value, difference=value - production[name])
        for name, value in candidate.items()
        if name in production and name not in compared
    ]


def _faults(metrics: Mapping[str, float], config: GateConfig, reconciled: bool) -> list[str]:
    causes = [] if reconciled else ["the catalogue's rows are not the indexed ones plus the quarantined ones"]
    ann_recall = metrics.get("ann_recall@10", 1.0)
    if not ann_recall >= config.min_ann_recall:
        causes.append(
            f"the index finds {ann_recall:.3f} of the exact neighbours (ann_recall@10), below {config.min_ann_recall:g}"
        )
    return causes


def _loss(row: MetricChange, config: GateConfig) -> str:
    return (
        f"{row.name} fell from {row.production:.3f} to {row.candidate:.3f} on {row.n_queries} shared queries "
        f"(95% interval {row.low:+.3f} to {row.high:+.3f}, p = {row.p_holm:.2g}), "
        f"more than the tolerated {config.max_loss:g}"
    )


def _all_clear(rows: tuple[MetricChange, ...], is_first: bool, config: GateConfig) -> str:
    if is_first:
        return "First release: there is no production to compare with."
    tested = [row for row in rows if row.p_holm is not None]
    if not tested:
        return "Nothing could be compared: candidate and production share no queries with a known answer."
    n_queries = max(row.n_queries for row in tested)
    names = ", ".join(row.name for row in tested)
    return (
        f"No loss beyond {config.max_loss:g} and beyond chance in {names} "
        f"on the {n_queries} queries shared with production."
    )
