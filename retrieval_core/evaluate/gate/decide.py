"""Decide whether a challenger is published: compare it with production and with its bounds, and give the reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.anchor_comparison import AnchorFigures, compare_with_anchor, find_drift
from retrieval_core.evaluate.gate.catalog_losses import find_catalog_losses, short_name
from retrieval_core.evaluate.gate.paired_comparison import Changes, MetricChange, compare
from retrieval_core.evaluate.measure.filtered import FilterFacts
from retrieval_core.metrics.registry import ANN_RECALL, UNLABELLED, is_headline, is_measured_by

N_LOSSES_NAMED = 3  # losses within categories that the reason names

# What a cause is about: lost items or what is said of them, too few queries to compare, rows that do not add up,
# unreadable pictures, distrusted masks, the index, a loss of quality since production, or since the anchor.
CauseKind = Literal["catalogue", "queries", "rows", "pictures", "masks", "index", "search", "drift"]


class ReleaseFigures(NamedTuple):
    """What the gate knows of a release: its search, its rows and its index.

    `per_query` is a table for `compare`, or None; it and `metrics` are of the published search only. `n_queries` are
    the queries by which production was measured in each metric, also those that the challenger lacks. `items` are the
    items that the release finds, for `find_catalog_losses`, None where they cannot be read; `declared_removals` are
    those that it lacks on purpose. `reconciled` says that every row is accounted for. `mask_fallback_rate` is 0 where
    pictures are published whole. `index_bytes` counts every file that a search maps. `latency_ms` is the 95th
    percentile of single queries. `n_shared_gallery` is the number of items on which both releases were compared, 0 for
    all. `filters` are searches among a part of the rows.
    """

    per_query: pl.DataFrame | None
    metrics: Mapping[str, float]
    n_queries: Mapping[str, int] = {}
    items: pl.DataFrame | None = None
    declared_removals: Collection[str] = ()
    n_rows: int = 0
    n_indexed: int = 0
    n_quarantined: int = 0
    reconciled: bool = True
    mask_fallback_rate: float = 0.0
    index_bytes: int = 0
    latency_ms: float = 0.0
    n_shared_gallery: int = 0
    filters: tuple[FilterFacts, ...] = ()

    @property
    def bytes_per_item(self) -> float:
        return self.index_bytes / self.n_indexed if self.n_indexed else 0.0


class Verdict(Value):
    """The decision and its reason in one sentence; `causes` speak against publishing, each of its kind in `kinds`.

    `rows` are the metrics that both releases have, `categories` the tested ones within each category, `since_anchor`
    both kinds against an anchor that is not production. `is_anchor` says that the challenger is clearly better than the
    anchor, or the first release, and so the anchor of the next ones.
    """

    gate: Literal["published", "held"]
    reason: str
    causes: tuple[str, ...] = ()
    kinds: tuple[CauseKind, ...] = ()
    rows: tuple[MetricChange, ...] = ()
    categories: tuple[MetricChange, ...] = ()
    since_anchor: tuple[MetricChange, ...] = ()
    is_anchor: bool = False

    @property
    def losses(self) -> tuple[MetricChange, ...]:
        """The metrics whose loss blocks."""
        return tuple(row for row in (*self.rows, *self.categories, *self.since_anchor) if row.blocks)


def decide(
    challenger: ReleaseFigures,
    production: ReleaseFigures | None,
    config: GateConfig,
    anchor: AnchorFigures | None = None,
) -> Verdict:
    """Publish or hold a challenger; `production` is None where nothing is published yet.

    Where there is a production, a loss of its catalogue blocks (`find_catalog_losses`), a loss of quality that is
    beyond chance and not shown to be within tolerance (`compare`), since production or since the anchor, and too few
    queries to see one. So does, in every run, what is out of its bounds: rows that do not add up, too many quarantined
    rows or distrusted masks, an index that misses neighbours or is too large or too slow. Mode `warn` publishes with a
    warning, `hold` holds every release, and `off` compares nothing.
    """
    if config.mode == "off":
        return Verdict(gate="published", reason="The gate is off: nothing was compared.")
    changes = Changes()
    if production and challenger.per_query is not None and production.per_query is not None:
        alpha = config.alpha * (1 - anchor.alpha_share if anchor else 1)
        changes = compare(challenger.per_query, production.per_query, config.model_copy(update={"alpha": alpha}))
    since_anchor = compare_with_anchor(anchor, config) if anchor else ()
    found: dict[CauseKind, Iterable[str]] = {
        "catalogue": _catalog_losses(production, challenger, config) if production else (),
        "queries": _too_few_queries(production, changes, config) if production else (),
        "rows": _row_faults(challenger),
        "pictures": _quarantine_faults(challenger, config),
        "masks": _mask_faults(challenger, config),
        "index": _index_faults(challenger, production, config),
        "search": _losses(changes),
        "drift": find_drift(anchor, changes, since_anchor, challenger.n_indexed, config) if anchor else (),
    }
    causes = [(kind, cause) for kind, of_kind in found.items() for cause in of_kind]
    others = _other_changes(challenger.metrics, production.metrics, changes) if production else ()
    verdict = Verdict(
        gate="published",
        reason=_all_clear(changes, production is None, challenger.n_shared_gallery)
        + _anchor_words(anchor, since_anchor),
        causes=tuple(cause for _, cause in causes),
        kinds=tuple(kind for kind, _ in causes),
        rows=(*changes.overall, *others),
        categories=changes.by_category,
        since_anchor=since_anchor,
        is_anchor=not production or _is_clearly_better(since_anchor or changes.overall, config),
    )
    if not causes:
        waits = f"Waits to be promoted: {verdict.reason[0].lower()}{verdict.reason[1:]}"
        return verdict.model_copy(update={"gate": "held", "reason": waits}) if config.mode == "hold" else verdict
    joined = f"{'; '.join(verdict.causes)}.{_note(anchor)}"
    if config.mode == "warn":
        return verdict.model_copy(update={"reason": f"Published with a warning: {joined}"})
    return verdict.model_copy(update={"gate": "held", "reason": f"Held: {joined}"})


def _is_clearly_better(rows: Iterable[MetricChange], config: GateConfig) -> bool:
    """Return whether a tested metric rose by more than `max_drift` with 95% confidence, and none blocks."""
    tested = [row for row in rows if row.p_holm is not None and not row.category]
    return any((row.low or 0.0) > config.max_drift for row in tested) and not any(row.blocks for row in tested)


def _anchor_words(anchor: AnchorFigures | None, since_anchor: Sequence[MetricChange]) -> str:
    tested = [row for row in since_anchor if row.p_holm is not None and not row.category]
    if not anchor or not tested:
        return _note(anchor)
    since = f"Since the anchor {anchor.release[:12]}, among the {anchor.n_gallery:,} items of both"
    return f" {since}, {_largest_losses(tested)}.{_note(anchor)}"


def _note(anchor: AnchorFigures | None) -> str:
    return f" {anchor.note}" if anchor and anchor.note else ""


def _other_changes(
    challenger: Mapping[str, float], production: Mapping[str, float], changes: Changes
) -> Iterator[MetricChange]:
    """Yield the metrics that are known only as numbers."""
    compared = {row.name for row in changes.overall}
    for name, value in challenger.items():
        if name in production and name not in compared:
            before = production[name]
            yield MetricChange(name=name, production=before, candidate=value, difference=value - before)


def _catalog_losses(production: ReleaseFigures, challenger: ReleaseFigures, config: GateConfig) -> Iterable[str]:
    if production.items is None or challenger.items is None:
        return ()
    return find_catalog_losses(production.items, challenger.items, config, challenger.declared_removals)


def _too_few_queries(production: ReleaseFigures, changes: Changes, config: GateConfig) -> Iterator[str]:
    needed = config.min_queries
    n_compared = {row.name: row.n_queries for row in _tested(changes)}
    lost = [
        f"{n_compared.get(name, 0):,} of {n_before:,} in {name}"
        for name, n_before in production.n_queries.items()
        if is_headline(name)
        and not is_measured_by(name, *UNLABELLED)
        and n_before >= needed > n_compared.get(name, 0) < (1 - config.max_removed_fraction) * n_before
    ]
    if lost:
        yield (
            f"too few of production's queries can be compared, {' and '.join(lost)} ({needed} are needed, "
            "gate.min_queries): check what the source says of splits, products, categories and labels"
        )
    elif max(n_compared.values(), default=0) < needed:
        yield (
            f"only {max(n_compared.values(), default=0)} queries can be compared with production, and a loss shows on "
            f"{needed} or more (gate.min_queries): hold out more pictures (ingest.n_holdout), search with more "
            "synthetic queries (evaluate.synthetic_queries), or promote releases by hand"
        )
    else:
        yield from _too_few_products(_tested(changes), config)


def _too_few_products(tested: Sequence[MetricChange], config: GateConfig) -> Iterator[str]:
    row = min(tested, key=lambda row: row.unseen_loss or 0.0)
    if (row.unseen_loss or 0.0) > config.max_unseen_loss:
        yield (
            f"too few products to judge the search: on {_queries(row)} shared with production, {row.n_differing:,} "
            f"with another result, {row.name} could lose {_points(row.unseen_loss)} points unseen, more than "
            f"{100 * config.max_unseen_loss:g} (gate.max_unseen_loss); about {row.n_clusters_needed:,} products are "
            "needed: hold out more pictures (ingest.n_holdout), add golden queries (evaluate.golden), allow more, or "
            "promote releases by hand"
        )


def _row_faults(challenger: ReleaseFigures) -> Iterator[str]:
    if not challenger.reconciled:
        yield (
            f"the {challenger.n_rows:,} rows of the catalogue are not the {challenger.n_indexed:,} indexed ones plus "
            f"the {challenger.n_quarantined:,} quarantined ones: run again, and report a bug if it persists"
        )


def _quarantine_faults(challenger: ReleaseFigures, config: GateConfig) -> Iterator[str]:
    rate = challenger.n_quarantined / max(challenger.n_rows, 1)
    if rate > config.max_quarantine_rate:
        yield (
            f"{challenger.n_quarantined:,} of {challenger.n_rows:,} rows are quarantined ({rate:.1%}), more than "
            f"{config.max_quarantine_rate:.4g} of them (gate.max_quarantine_rate): repair the pictures that the "
            "quarantine ledger names"
        )


def _mask_faults(challenger: ReleaseFigures, config: GateConfig) -> Iterator[str]:
    if challenger.mask_fallback_rate > config.max_mask_fallback_rate:
        yield (
            f"{challenger.mask_fallback_rate:.1%} of the masks are distrusted, more than "
            f"{config.max_mask_fallback_rate:.4g} of them (gate.max_mask_fallback_rate): train the segmenter longer or "
            "on more masks, or publish vectors of the whole pictures (index.variant)"
        )


def _index_faults(challenger: ReleaseFigures, production: ReleaseFigures | None, config: GateConfig) -> Iterator[str]:
    ann_recall = challenger.metrics.get(ANN_RECALL.name, 1.0)
    if not ann_recall >= config.min_ann_recall:  # also true for NaN
        yield (
            f"the index finds {ann_recall:.3f} of the exact neighbours ({ANN_RECALL.name}), below "
            f"{config.min_ann_recall:g} (gate.min_ann_recall): raise index.recall_target, index.memory_gb or the "
            "search parameters that were set by hand"
        )
    worst = min(challenger.filters, key=lambda facts: facts.recall, default=None)
    if worst and not worst.recall >= config.min_ann_recall:
        yield (
            f"with a filter ({short_name(worst.meaning)}) the index finds {worst.recall:.3f} of the exact neighbours "
            f"({ANN_RECALL.full_name('value', worst.name)}), below {config.min_ann_recall:g} (gate.min_ann_recall): "
            "raise index.recall_target or the search parameters that were set by hand"
        )
    if 0 < config.max_index_gb * 1e9 < challenger.index_bytes:
        yield (
            f"the index takes {challenger.index_bytes / 1e9:.3g} GB, more than {config.max_index_gb:g} GB "
            "(gate.max_index_gb): set index.memory_gb, publish fewer dimensions, or allow more"
        )
    per_item, before = challenger.bytes_per_item, production.bytes_per_item if production else 0.0
    if before and 0 < config.max_index_growth < per_item / before - 1:
        yield (
            f"the index takes {per_item:,.0f} bytes an item and production's {before:,.0f}, which is "
            f"{per_item / before - 1:.0%} more and beyond {config.max_index_growth:.0%} (gate.max_index_growth): "
            "check whether backbone, head or recipe were meant to change"
        )
    if 0 < config.max_latency_ms < challenger.latency_ms:
        yield (
            f"5 of 100 single queries take longer than {challenger.latency_ms:.3g} ms; {config.max_latency_ms:g} ms "
            "are allowed (gate.max_latency_ms): lower index.recall_target, or measure on a less busy machine"
        )


def _losses(changes: Changes) -> Iterator[str]:
    yield from (_loss(row) for row in changes.overall if row.blocks)
    worst = sorted((row for row in changes.by_category if row.blocks), key=lambda row: row.difference)
    yield from (_loss(row) for row in worst[:N_LOSSES_NAMED])
    if len(worst) > N_LOSSES_NAMED:
        yield f"{len(worst) - N_LOSSES_NAMED} more metrics fell so within categories"


def _loss(row: MetricChange) -> str:
    where = f" in category {short_name(row.category)}" if row.category else ""
    return (
        f"{row.name} fell{where} from {row.production:.3f} to {row.candidate:.3f} on {_queries(row)} shared with "
        f"production, beyond chance (p = {row.p_holm:.2g}): it may have lost up to {_points(row.largest_loss)} points "
        f"(95% confidence), and {100 * row.max_loss:g} are tolerated"
    )


def _tested(changes: Changes) -> list[MetricChange]:
    return [row for row in changes.overall if row.p_holm is not None]


def _queries(row: MetricChange) -> str:
    products = f" of {row.n_clusters:,} products" if row.n_clusters < row.n_queries else ""
    return f"{row.n_queries:,} queries{products}"


def _points(loss: float | None) -> str:
    """Return a loss in hundredths, rounded up to a tenth; a gain counts as none."""
    return f"{math.ceil(1000 * max(loss or 0.0, 0.0) - 1e-6) / 10:.1f}"


def _all_clear(changes: Changes, is_first: bool, n_gallery: int) -> str:
    if is_first:
        return "First release: there is no production to compare with."
    tested = _tested(changes)
    if not tested:
        return "Nothing could be compared: challenger and production share no queries with a known answer."
    n_categories = len({row.category for row in changes.by_category})
    within = f", nor within the categories compared ({n_categories})" if n_categories else ""
    among = f" among the {n_gallery:,} items that both hold" if n_gallery else ""
    return (
        f"No loss beyond chance on {_queries(_most_queries(tested))} shared with production{among}{within}. With 95% "
        f"confidence {_largest_losses(tested)}."
    )


def _largest_losses(tested: Sequence[MetricChange]) -> str:
    """Say how much of each metric may be lost, and how many products it takes to show that it is not too much."""
    first, *others = (f"{_points(row.largest_loss)}{{}} in {row.name}" for row in tested)
    losses = ", ".join([first.format(" points"), *(other.format("") for other in others)])
    unseen = [row for row in tested if not row.is_within_tolerance and (row.unseen_loss or 0.0) > row.max_loss]
    n_needed = max((row.n_clusters_needed for row in unseen), default=0)
    needed = f", and showing that takes about {n_needed:,} products" if n_needed else ""
    return f"the loss is at most {losses}; {100 * tested[0].max_loss:g} are tolerated{needed}"


def _most_queries(tested: list[MetricChange]) -> MetricChange:
    """Return the metric with most queries, among those that need labels if there are any."""
    labelled = [row for row in tested if not is_measured_by(row.name, *UNLABELLED)]
    return max(labelled or tested, key=lambda row: row.n_queries)
