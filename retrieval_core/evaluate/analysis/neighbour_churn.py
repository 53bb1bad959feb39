"""Neighbour churn: how many of an item's nearest neighbours changed since the previous release, and why.

The model accounts for what changes among the items that both releases show unchanged, when these alone are searched by
the previous vectors and by the current ones. The catalogue accounts for the rest: items that were added, removed, or
show another picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems, ReleasePair, sample_rows
from retrieval_core.evaluate.measure.setup import K, cluster_codes, hash_rows
from retrieval_core.metrics.significance import paired_interval

MAX_ASKED = 2_000
N_SHOWN = 12


class MovedItem(Value):
    """An item whose neighbours changed: the share of its ten nearest that did, the part of that share which the model
    accounts for, and the item ids of both neighbourhoods, nearest first.
    """

    item_id: str
    churn: float
    by_model: float
    before: tuple[str, ...]
    after: tuple[str, ...]


class ChurnFacts(Value):
    """How the ten nearest changed, over `n_asked` of the `n_shared` items that both releases have.

    `churn` is the mean share that changed, 0 to 1, and the sum of `by_catalogue` and `by_model`; `low` and `high` are
    its 95% interval, given only if a sample was used. `left` counts the neighbours that went (removed, changed,
    crowded_out), `entered` those that came (new, changed, moved_in). `histogram` counts items by how many of their ten
    changed, 0 to 10. `missing` says why nothing could be compared.
    """

    n_shared: int
    n_unchanged: int
    n_asked: int = 0
    same_space: bool = True
    churn: float = 0.0
    by_catalogue: float = 0.0
    by_model: float = 0.0
    low: float | None = None
    high: float | None = None
    left: dict[str, int] = {}
    entered: dict[str, int] = {}
    histogram: tuple[int, ...] = ()
    moved: tuple[MovedItem, ...] = ()
    missing: str = ""


class _Shared(NamedTuple):
    """Row ids, ascending: `rows` of the items in both releases, `unchanged` of those with the same picture in both."""

    rows: Int64
    unchanged: Int64


class _Change(NamedTuple):
    """The neighbourhoods of (q,) items: (q, 10) row ids in both releases, padded with -1.

    `stayed` (q, 10) bool are the previous neighbours that are still there, `existed` (q, 10) bool the current ones that
    were there. `churn` (q,) is NaN if there are no neighbours in either release.
    """

    before: Int64
    after: Int64
    stayed: Bool
    existed: Bool
    churn: Float64


def find_churn(pair: ReleasePair, seed: int) -> ChurnFacts | None:
    """Compare the ten nearest of the items that both releases have; None without a previous release.

    The releases may differ in width and model. Above `MAX_ASKED` shared items, that many are sampled by their hash.
    """
    previous, current = pair.previous, pair.current
    if previous is None:
        return None
    shared = _shared(previous.items, current.items)
    queries = sample_rows(shared.rows, MAX_ASKED, seed)
    counts = {"n_shared": len(shared.rows), "n_unchanged": len(shared.unchanged), "n_asked": len(queries)}
    if not len(queries):
        return ChurnFacts(**counts, missing="The two releases have no item in common.")
    change = _change(pair.before(queries, K)[1], pair.now(queries, K)[1])
    if np.isnan(change.churn).all():
        return ChurnFacts(**counts, missing="No item has a neighbour: the releases hold one item each.")
    by_model = _churn_by_model(previous, current, queries, shared.unchanged, change.churn)
    is_sample = len(queries) < len(shared.rows)
    clusters = cluster_codes(current.items.filter(pl.col("row_id").is_in(queries)).sort("row_id"))
    interval = paired_interval(change.churn, np.zeros(len(queries)), clusters) if is_sample else None
    mean, mean_by_model = float(np.nanmean(change.churn)), float(np.nanmean(by_model))
    return ChurnFacts(
        **counts,
        same_space=previous.family == current.family,
        churn=mean,
        by_catalogue=mean - mean_by_model,
        by_model=mean_by_model,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        left=_left(change, current.items, shared),
        entered=_entered(change, previous.items, shared),
        histogram=_histogram(change.churn),
        moved=_most_moved(previous, current, queries, change, by_model, seed),
    )


def _shared(previous: pl.DataFrame, current: pl.DataFrame) -> _Shared:
    both = previous.select("row_id", "content_id").join(
        current.select("row_id", "content_id"), on="row_id", suffix="_now"
    )
    unchanged = both.filter(pl.col("content_id") == pl.col("content_id_now"))
    return _Shared(both["row_id"].sort().to_numpy(), unchanged["row_id"].sort().to_numpy())


def _change(before: Int64, after: Int64) -> _Change:
    same = (before[:, :, None] == after[:, None, :]) & (before >= 0)[:, :, None]
    size = np.maximum((before >= 0).sum(axis=1), (after >= 0).sum(axis=1))
    n_kept = same.any(axis=2).sum(axis=1)
    churn = np.where(size > 0, 1 - n_kept / np.maximum(size, 1), np.nan)
    return _Change(before, after, same.any(axis=2), same.any(axis=1), churn)


def _churn_by_model(
    previous: IndexedItems, current: IndexedItems, queries: Int64, unchanged: Int64, churn: Float64
) -> Float64:
    """Return (q,) each item's churn among unchanged items, at most its whole churn; 0 if its own picture changed."""
    by_model = np.where(np.isnan(churn), np.nan, 0.0)
    is_unchanged = np.isin(queries, unchanged)
    if previous.family == current.family or not is_unchanged.any():
        return by_model
    nearest = [release.nearest(queries[is_unchanged], K, unchanged)[1] for release in (previous, current)]
    among_unchanged = _change(*nearest).churn
    by_model[is_unchanged] = np.fmin(np.nan_to_num(among_unchanged), churn[is_unchanged])
    return by_model


def _left(change: _Change, current: pl.DataFrame, shared: _Shared) -> dict[str, int]:
    went = change.before[(change.before >= 0) & ~change.stayed]
    removed, crowded_out = ~np.isin(went, current["row_id"].to_numpy()), np.isin(went, shared.unchanged)
    return {
        "removed": int(removed.sum()),
        "changed": int((~removed & ~crowded_out).sum()),
        "crowded_out": int(crowded_out.sum()),
    }


def _entered(change: _Change, previous: pl.DataFrame, shared: _Shared) -> dict[str, int]:
    came = change.after[(change.after >= 0) & ~change.existed]
    new, moved_in = ~np.isin(came, previous["row_id"].to_numpy()), np.isin(came, shared.unchanged)
    return {"new": int(new.sum()), "changed": int((~new & ~moved_in).sum()), "moved_in": int(moved_in.sum())}


def _histogram(churn: Float64) -> tuple[int, ...]:
    tenths = np.rint(K * churn[~np.isnan(churn)]).astype(np.int64)
    return tuple(np.bincount(tenths, minlength=K + 1).tolist())


def _most_moved(
    previous: IndexedItems, current: IndexedItems, queries: Int64, change: _Change, by_model: Float64, seed: int
) -> tuple[MovedItem, ...]:
    """Return the items with the largest churn; ties are broken by hash, to favour no part of the catalogue."""
    order = np.lexsort((hash_rows(queries, seed), -np.nan_to_num(change.churn)))[:N_SHOWN]
    chosen = [int(position) for position in order if change.churn[position] > 0]
    item_ids = _item_ids(current.items, queries[chosen][:, None])
    before = _item_ids(previous.items, change.before[chosen])
    after = _item_ids(current.items, change.after[chosen])
    return tuple(
        MovedItem(
            item_id=item_ids[rank][0],
            churn=float(change.churn[position]),
            by_model=float(by_model[position]),
            before=before[rank],
            after=after[rank],
        )
        for rank, position in enumerate(chosen)
    )


def _item_ids(items: pl.DataFrame, row_ids: Int64) -> list[tuple[str, ...]]:
    """Return the item ids of each row of (n, any) row ids, without the padding of -1."""
    rows = items.filter(pl.col("row_id").is_in(np.unique(row_ids).tolist()))
    item_id_of = dict(rows.select("row_id", "item_id").iter_rows())
    return [tuple(item_id_of[row_id] for row_id in row if row_id >= 0) for row in row_ids.tolist()]
