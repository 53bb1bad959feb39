"""Neighbour churn: how much of what stood beside an item since the last release stands there no more, and why.

The model's part is what changes among the items that both releases show unchanged: the same items, searched by the old
vectors and by the new ones. The rest is the catalogue's: what came, went, or shows another picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.indexed_rows import Indexed, sample_rows
from retrieval_core.evaluate.measure.search_setup import K, hash_rows
from retrieval_core.metrics.significance import paired_bootstrap

MAX_ASKED = 2_000
N_SHOWN = 12


class MovedItem(Value):
    """An item whose neighbourhood moved: shares of its ten nearest that changed, and both lists, nearest first."""

    item_id: str
    churn: float
    by_model: float
    before: tuple[str, ...]
    after: tuple[str, ...]


class ChurnFacts(Value):
    """Of `n_asked` of the `n_shared` items that both releases have, what became of their ten nearest.

    `churn` is the mean share that changed, 0 to 1, and the sum of `by_catalogue` and `by_model`; `low` and `high` are
    its 95% interval where only some of the items were asked. `left` counts neighbours that went (removed, changed,
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
    """Ascending row ids: items of both releases, and those of them that show the same picture in both."""

    rows: Int64
    unchanged: Int64


class _Change(NamedTuple):
    """(q, 10) row ids of both neighbourhoods, -1 where there are fewer; (q, 10) bool what stayed of each; (q,) churn.

    NaN where there were no neighbours and are none.
    """

    before: Int64
    after: Int64
    kept: Bool
    known: Bool
    churn: Float64


def find_churn(then: Indexed | None, now: Indexed, seed: int) -> ChurnFacts | None:
    """Compare the ten nearest of the items that both releases have; None on a first night, without a `then`.

    The releases may differ in width and model. Above `MAX_ASKED` shared items, that many are drawn by hash.
    """
    if then is None:
        return None
    shared = _shared(then.items, now.items)
    asked = sample_rows(shared.rows, MAX_ASKED, seed)
    counts = {"n_shared": len(shared.rows), "n_unchanged": len(shared.unchanged), "n_asked": len(asked)}
    if not len(asked):
        return ChurnFacts(**counts, missing="The two releases have no item in common.")
    change = _compare(then, now, asked)
    if np.isnan(change.churn).all():
        return ChurnFacts(**counts, missing="No item has a neighbour: the releases hold one item each.")
    by_model = _churn_by_model(then, now, asked, shared.unchanged, change.churn)
    is_sample = len(asked) < len(shared.rows)
    interval = paired_bootstrap(change.churn, np.zeros(len(asked)), seed=seed) if is_sample else None
    mean, mean_by_model = float(np.nanmean(change.churn)), float(np.nanmean(by_model))
    return ChurnFacts(
        **counts,
        same_space=then.family == now.family,
        churn=mean,
        by_catalogue=mean - mean_by_model,
        by_model=mean_by_model,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        left=_left(change, now.items, shared),
        entered=_entered(change, then.items, shared),
        histogram=_histogram(change.churn),
        moved=_most_moved(then, now, asked, change, by_model, seed),
    )


def _shared(then: pl.DataFrame, now: pl.DataFrame) -> _Shared:
    both = then.select("row_id", "content_id").join(now.select("row_id", "content_id"), on="row_id", suffix="_now")
    same = both.filter(pl.col("content_id") == pl.col("content_id_now"))
    return _Shared(both["row_id"].sort().to_numpy(), same["row_id"].sort().to_numpy())


def _compare(then: Indexed, now: Indexed, asked: Int64, among: Int64 | None = None) -> _Change:
    _, before = then.nearest(asked, K, among)
    _, after = now.nearest(asked, K, among)
    same = (before[:, :, None] == after[:, None, :]) & (before >= 0)[:, :, None]
    size = np.maximum((before >= 0).sum(axis=1), (after >= 0).sum(axis=1))
    n_kept = same.any(axis=2).sum(axis=1)
    churn = np.where(size > 0, 1 - n_kept / np.maximum(size, 1), np.nan)
    return _Change(before, after, same.any(axis=2), same.any(axis=1), churn)


def _churn_by_model(then: Indexed, now: Indexed, asked: Int64, unchanged: Int64, churn: Float64) -> Float64:
    """(q,) each item's churn among the unchanged ones, at most its whole churn; 0 where its own picture changed."""
    by_model = np.where(np.isnan(churn), np.nan, 0.0)
    is_unchanged = np.isin(asked, unchanged)
    if then.family == now.family or not is_unchanged.any():
        return by_model
    among = _compare(then, now, asked[is_unchanged], unchanged).churn
    by_model[is_unchanged] = np.fmin(np.nan_to_num(among), churn[is_unchanged])
    return by_model


def _left(change: _Change, now: pl.DataFrame, shared: _Shared) -> dict[str, int]:
    gone = change.before[(change.before >= 0) & ~change.kept]
    removed, crowded_out = ~np.isin(gone, now["row_id"].to_numpy()), np.isin(gone, shared.unchanged)
    return {
        "removed": int(removed.sum()),
        "changed": int((~removed & ~crowded_out).sum()),
        "crowded_out": int(crowded_out.sum()),
    }


def _entered(change: _Change, then: pl.DataFrame, shared: _Shared) -> dict[str, int]:
    came = change.after[(change.after >= 0) & ~change.known]
    new, moved_in = ~np.isin(came, then["row_id"].to_numpy()), np.isin(came, shared.unchanged)
    return {"new": int(new.sum()), "changed": int((~new & ~moved_in).sum()), "moved_in": int(moved_in.sum())}


def _histogram(churn: Float64) -> tuple[int, ...]:
    tenths = np.rint(K * churn[~np.isnan(churn)]).astype(np.int64)
    return tuple(np.bincount(tenths, minlength=K + 1).tolist())


def _most_moved(
    then: Indexed, now: Indexed, asked: Int64, change: _Change, by_model: Float64, seed: int
) -> tuple[MovedItem, ...]:
    """Of items that moved as much, those first that hash lowest: not always the same shelf of the catalogue."""
    order = np.lexsort((hash_rows(asked, seed), -np.nan_to_num(change.churn)))[:N_SHOWN]
    shown = [int(place) for place in order if change.churn[place] > 0]
    names = [_names(side.items, found[shown]) for side, found in ((then, change.before), (now, change.after))]
    own = _names(now.items, asked[shown][:, None])
    return tuple(
        MovedItem(
            item_id=own[rank][0],
            churn=float(change.churn[place]),
            by_model=float(by_model[place]),
            before=names[0][rank],
            after=names[1][rank],
        )
        for rank, place in enumerate(shown)
    )


def _names(items: pl.DataFrame, row_ids: Int64) -> list[tuple[str, ...]]:
    """The item ids of each row of (n, any) row ids; -1 has none."""
    wanted = items.filter(pl.col("row_id").is_in(np.unique(row_ids).tolist()))
    name_of = dict(wanted.select("row_id", "item_id").iter_rows())
    return [tuple(name_of[row_id] for row_id in row if row_id >= 0) for row in row_ids.tolist()]
