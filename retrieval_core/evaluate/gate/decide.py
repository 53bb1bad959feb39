"""May we publish? The candidate against production and against its bounds, decided once and said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config import GateConfig
from retrieval_core.evaluate.gate.paired_comparison import Changes, MetricChange, compare
from retrieval_core.metrics.registry import ANN_RECALL, UNLABELLED, is_measured_by

N_LOSSES_NAMED = 3  # of those within categories
LONGEST_NAME = 60


class Figures(NamedTuple):
    """What the gate reads of a release: the queries and the numbers of its search, its rows, its index.

    `per_query` is a table as `compare` wants it, or None. Both it and `metrics` are of the published chain alone.
    `reconciled`: every row is accounted for. `mask_fallback_rate` is of the pictures that were published masked or
    cropped, 0 where none are; `index_bytes` are all that a searcher maps; `latency_ms` is what 95 of 100 single queries
    stay below. `n_shared_gallery` are the items both were compared on, where those are not all; 0 where they are.
    """

    per_query: pl.DataFrame | None
    metrics: Mapping[str, float]
    n_rows: int = 0
    n_indexed: int = 0
    n_quarantined: int = 0
    reconciled: bool = True
    mask_fallback_rate: float = 0.0
    index_bytes: int = 0
    latency_ms: float = 0.0
    n_shared_gallery: int = 0


class Verdict(Value):
    """What the gate decided and why in one sentence; `causes` are what speaks against the release, if anything does.

    `rows` are the metrics that both sides have, `categories` the tested ones within each category.
    """

    gate: Literal["published", "held"]
    reason: str
    causes: tuple[str, ...] = ()
    rows: tuple[MetricChange, ...] = ()
    categories: tuple[MetricChange, ...] = ()

    @property
    def losses(self) -> tuple[MetricChange, ...]:
        """The metrics that block."""
        return tuple(row for row in (*self.rows, *self.categories) if row.blocks)


def decide(candidate: Figures, production: Figures | None, config: GateConfig) -> Verdict:
    """Publish or hold a candidate release; `production` is None on the first night.

    A loss beyond its tolerance and beyond chance blocks (`compare`). On any night, even the first, so does whatever is
    out of its bounds: rows that do not reconcile, too many of them quarantined, distrusted masks, an index that misses
    neighbours, is too large or too slow. Mode `warn` publishes with the reason all the same, `hold` holds what is well
    too, `off` looks at nothing.
    """
    if config.mode == "off":
        return Verdict(gate="published", reason="The gate is off: nothing was compared.")
    changes = Changes()
    if production and candidate.per_query is not None and production.per_query is not None:
        changes = compare(candidate.per_query, production.per_query, config)
    others = _other_changes(candidate.metrics, production.metrics, changes) if production else ()
    verdict = Verdict(
        gate="published",
        reason=_all_clear(changes, production is None, candidate.n_shared_gallery, config),
        causes=(*_faults(candidate, production, config), *_losses(changes, config)),
        rows=(*changes.overall, *others),
        categories=changes.by_category,
    )
    if not verdict.causes:
        waits = f"Waits to be promoted: {verdict.reason[0].lower()}{verdict.reason[1:]}"
        return verdict.model_copy(update={"gate": "held", "reason": waits}) if config.mode == "hold" else verdict
    causes = "; ".join(verdict.causes)
    if config.mode == "warn":
        return verdict.model_copy(update={"reason": f"Published with a warning: {causes}."})
    return verdict.model_copy(update={"gate": "held", "reason": f"Held: {causes}."})


def _other_changes(
    candidate: Mapping[str, float], production: Mapping[str, float], changes: Changes
) -> Iterator[MetricChange]:
    """Of the metrics that are known only as numbers."""
    compared = {row.name for row in changes.overall}
    for name, value in candidate.items():
        if name in production and name not in compared:
            before = production[name]
            yield MetricChange(name=name, production=before, candidate=value, difference=value - before)


def _faults(night: Figures, production: Figures | None, config: GateConfig) -> Iterator[str]:
    if not night.reconciled:
        yield (
            f"the {night.n_rows:,} rows of the catalogue are not the {night.n_indexed:,} indexed ones plus the "
            f"{night.n_quarantined:,} quarantined ones: run it again, and where that does not help report it"
        )
    rate = night.n_quarantined / max(night.n_rows, 1)
    if rate > config.max_quarantine_rate:
        yield (
            f"{night.n_quarantined:,} of {night.n_rows:,} rows are quarantined ({rate:.1%}), more than "
            f"{config.max_quarantine_rate:.4g} of them (gate.max_quarantine_rate): mend the pictures that the "
            "quarantine ledger names"
        )
    if night.mask_fallback_rate > config.max_mask_fallback_rate:
        yield (
            f"{night.mask_fallback_rate:.1%} of the masks are distrusted, more than "
            f"{config.max_mask_fallback_rate:.4g} of them (gate.max_mask_fallback_rate): train the segmenter longer or "
            "on more masks, or publish vectors of the whole pictures (index.variant)"
        )
    yield from _index_faults(night, production, config)


def _index_faults(night: Figures, production: Figures | None, config: GateConfig) -> Iterator[str]:
    ann_recall = night.metrics.get(ANN_RECALL.name, 1.0)
    if not ann_recall >= config.min_ann_recall:  # nor is NaN
        yield (
            f"the index finds {ann_recall:.3f} of the exact neighbours ({ANN_RECALL.name}), below "
            f"{config.min_ann_recall:g} (gate.min_ann_recall): raise index.recall_target, index.memory_gb or what was "
            "set of the search by hand"
        )
    if 0 < config.max_index_gb * 1e9 < night.index_bytes:
        yield (
            f"the index takes {night.index_bytes / 1e9:.3g} GB, more than {config.max_index_gb:g} GB "
            "(gate.max_index_gb): set index.memory_gb, publish fewer dimensions, or allow more"
        )
    if production and production.index_bytes and production.n_indexed and night.n_indexed and config.max_index_growth:
        per_item, before = night.index_bytes / night.n_indexed, production.index_bytes / production.n_indexed
        if per_item > before * (1 + config.max_index_growth):
            yield (
                f"the index takes {per_item:,.0f} bytes an item and production's {before:,.0f}, which is "
                f"{per_item / before - 1:.0%} more and beyond {config.max_index_growth:.0%} "
                "(gate.max_index_growth): see whether backbone, head or recipe were to change"
            )
    if 0 < config.max_latency_ms < night.latency_ms:
        yield (
            f"of 100 single queries 5 take longer than {night.latency_ms:.3g} ms, and {config.max_latency_ms:g} ms are "
            "allowed (gate.max_latency_ms): lower index.recall_target, or measure on a machine with less to do"
        )


def _losses(changes: Changes, config: GateConfig) -> Iterator[str]:
    yield from (_loss(row, config.max_loss) for row in changes.overall if row.blocks)
    worst = sorted((row for row in changes.by_category if row.blocks), key=lambda row: row.difference)
    yield from (_loss(row, config.max_category_loss) for row in worst[:N_LOSSES_NAMED])
    if len(worst) > N_LOSSES_NAMED:
        yield f"{len(worst) - N_LOSSES_NAMED} more metrics fell so within categories"


def _loss(row: MetricChange, tolerated: float) -> str:
    where = f" in category {_short(row.category)}" if row.category else ""
    return (
        f"{row.name} fell{where} from {row.production:.3f} to {row.candidate:.3f} on {row.n_queries} shared queries "
        f"(95% interval {row.low:+.3f} to {row.high:+.3f}, p = {row.p_holm:.2g}), "
        f"more than the tolerated {tolerated:g}"
    )


def _short(name: str) -> str:
    """A name of the catalogue's in one line."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def _all_clear(changes: Changes, is_first: bool, n_gallery: int, config: GateConfig) -> str:
    if is_first:
        return "First release: there is no production to compare with."
    tested = [row for row in changes.overall if row.p_holm is not None]
    if not tested:
        return "Nothing could be compared: candidate and production share no queries with a known answer."
    names = ", ".join(row.name for row in tested)
    n_categories = len({row.category for row in changes.by_category})
    within = f", nor beyond {config.max_category_loss:g} in any of {n_categories} categories" if n_categories else ""
    among = f" among the {n_gallery:,} items that both hold" if n_gallery else ""
    return (
        f"No loss beyond {config.max_loss:g} and beyond chance in {names} "
        f"on the {_most_queries(tested)} queries shared with production{among}{within}."
    )


def _most_queries(tested: list[MetricChange]) -> int:
    """Of the metrics that need labels, where there are any."""
    labelled = [row for row in tested if not is_measured_by(row.name, *UNLABELLED)]
    return max(row.n_queries for row in labelled or tested)
