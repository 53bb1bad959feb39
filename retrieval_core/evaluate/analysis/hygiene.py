"""Catalogue hygiene: what a person should look at and put right, the surest first.

Three problems, each with its own evidence: neighbours that disagree with a category or a label (`mislabelled.py`), one
picture under two products (`near_duplicates.py`), and items that nothing is near to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.analysis.mislabelled import MIN_MEMBERS, Suspects, suspect_codes, suspect_labels
from retrieval_core.evaluate.measure.indexed_rows import sample_rows
from retrieval_core.evaluate.measure.protocol import positions_in_gallery
from retrieval_core.evaluate.measure.search_setup import Bench

Problem = Literal["category", "label", "near_duplicate", "orphan"]

K = 10
MAX_ASKED = 10_000  # rows whose neighbours are looked at; of a larger catalogue those with the lowest hashes
ASKED_AT_ONCE = 4_096
N_FOUND = 3 * K + 1  # itself, and other pictures of its product, do not count as neighbours
N_SHOWN = 8  # examples of each problem
MAX_Z = 3.5
MIN_FOR_ORPHANS = 20  # a median of fewer distances says little

FIX_SCHEMA = {
    "item_id": pl.String(),
    "problem": pl.String(),
    "evidence": pl.String(),
    "suggestion": pl.String(),
    "score": pl.Float64(),
}
# A spreadsheet takes a cell that begins so for a formula and runs it (OWASP, "CSV injection").
FORMULA = r"^(\s*[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}])"


class FixExample(Value):
    """A row of the fix list with the items beside it: its nearest, or the other one of a pair."""

    item_id: str
    problem: Problem
    evidence: str
    suggestion: str
    score: float
    beside: tuple[str, ...]


class HygieneFacts(Value):
    """`counts` of each problem among the `n_asked` of `n_rows` items that were looked at, with the first of each.

    `orphan_distance` is the distance to the nearest item from which on an item counts as an orphan, `median_distance`
    the usual one. `not_looked_for` says of a problem why it could not be looked for.
    """

    n_rows: int
    n_asked: int
    counts: dict[Problem, int] = {}
    examples: tuple[FixExample, ...] = ()
    median_distance: float | None = None
    orphan_distance: float | None = None
    not_looked_for: dict[Problem, str] = {}


class Hygiene(NamedTuple):
    """The fix list with `FIX_SCHEMA`, the surest first, and the facts of the report."""

    fixes: pl.DataFrame
    facts: HygieneFacts


class _Neighbours(NamedTuple):
    """Of (q,) `rows` of the items: (q, 10) rows of the nearest of other products, -1 where fewer were found.

    `distance` (q,) is one less the cosine of the nearest of all, NaN where there is none.
    """

    rows: Int64
    nearest: Int64
    distance: Float64


class _Orphans(NamedTuple):
    """The fixes, and the distances that tell them; without these there was no telling."""

    fixes: list[_Fix]
    median: float | None = None
    threshold: float | None = None


class _Fix(NamedTuple):
    row: int
    problem: Problem
    evidence: str
    suggestion: str
    score: float
    beside: tuple[int, ...]


def find_hygiene(bench: Bench, duplicates: pl.DataFrame, seed: int) -> Hygiene:
    """The fix list of a catalogue; `duplicates` are the `pairs` that `find_near_duplicates` confirmed.

    Neighbours are those that the published search finds. `score`, 0 to 1, says how sure a row is: the probability that
    the suggestion fits better, 1 for a confirmed pair, 0.5 for an orphan at the threshold and more beyond it.
    """
    items = bench.items
    reasons: dict[Problem, str] = {}
    found = _neighbours(bench, seed)
    fixes = [*_category_fixes(bench, found, reasons), *_label_fixes(bench, found, reasons)]
    orphans = _orphans(bench, found, reasons)
    fixes += [*_duplicate_fixes(items, duplicates), *orphans.fixes]
    item_ids = items["item_id"]
    fixes.sort(key=lambda fix: (-fix.score, fix.problem, item_ids[fix.row]))
    facts = HygieneFacts(
        n_rows=len(items),
        n_asked=len(found.rows),
        counts={problem: sum(fix.problem == problem for fix in fixes) for problem in get_args(Problem)},
        examples=tuple(_example(item_ids, fix) for fix in _first_of_each(fixes)),
        median_distance=orphans.median,
        orphan_distance=orphans.threshold,
        not_looked_for=reasons,
    )
    rows: list[tuple[Any, ...]] = [(item_ids[fix.row], *fix[1:5]) for fix in fixes]
    return Hygiene(pl.DataFrame(rows, schema=FIX_SCHEMA, orient="row"), facts)


def csv_bytes(fixes: pl.DataFrame) -> bytes:
    """The table as CSV that a spreadsheet opens as text: UTF-8 with a byte-order mark, all cells of text quoted.

    A cell that would begin a formula gets an apostrophe before it.
    """
    texts = pl.col(pl.String).str.replace(FORMULA, "'$1")
    return fixes.with_columns(texts).write_csv(quote_style="non_numeric", include_bom=True).encode()


def _neighbours(bench: Bench, seed: int) -> _Neighbours:
    row_ids = bench.items["row_id"].to_numpy()
    asked = np.flatnonzero(np.isin(row_ids, sample_rows(row_ids, MAX_ASKED, seed)))
    group = _groups(bench.items)
    nearest = np.full((len(asked), K), -1, np.int64)
    distance = np.full(len(asked), np.nan)
    depth = min(N_FOUND if bench.items["product_id"].is_not_null().any() else K + 1, len(row_ids))
    reranked = max(1, bench.rerank_depth * K // max(depth, 1))  # as many rows as a search for ten
    for start in range(0, len(asked), ASKED_AT_ONCE):
        rows = asked[start : start + ASKED_AT_ONCE]
        scores, hits = bench.find(rows, depth, rerank_depth=reranked)
        positions = positions_in_gallery(hits, row_ids, depth)
        other = (positions >= 0) & (positions != rows[:, None])
        best = np.where(other, scores, -np.inf).max(axis=1, initial=-np.inf)
        block = slice(start, start + len(rows))
        distance[block] = np.where(np.isfinite(best), np.maximum(1 - best.astype(np.float64), 0), np.nan)
        nearest[block] = _first(positions, other & (group[positions] != group[rows][:, None]))
    return _Neighbours(asked, nearest, distance)


def _groups(items: pl.DataFrame) -> Int64:
    """(n,) one number for the items of a product, and for each item that belongs to none."""
    unit = pl.coalesce("product:" + pl.col("product_id"), "item:" + pl.col("item_id"))
    return items.select(unit.rank("dense").cast(pl.Int64)).to_series().to_numpy()


def _first(positions: Int64, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> Int64:
    """(q, K) the first wanted positions of each row, padded with -1."""
    order = np.argsort(~wanted, axis=1, kind="stable")[:, :K]
    first = np.where(np.take_along_axis(wanted, order, axis=1), np.take_along_axis(positions, order, axis=1), -1)
    return np.pad(first, ((0, 0), (0, K - first.shape[1])), constant_values=-1)


def _category_fixes(bench: Bench, found: _Neighbours, reasons: dict[Problem, str]) -> Iterator[_Fix]:
    codes = bench.protocol.judgements.category
    n_common = 0 if codes is None else int((np.bincount(codes[codes >= 0]) >= MIN_MEMBERS).sum())
    if codes is None or n_common < 2:
        reasons["category"] = (
            "No item names a category."
            if codes is None
            else f"Fewer than two categories have {MIN_MEMBERS} items or more: there is nothing to mix up."
        )
        return
    names = bench.items["category"]
    name_of = dict(zip(codes.tolist(), names.to_list(), strict=True))
    around = np.append(codes, -1)[found.nearest]
    for at, suspect in _each(suspect_codes(codes[found.rows], around)):
        row = int(found.rows[at])
        suggested = name_of[suspect.suggested]
        yield _Fix(
            row,
            "category",
            f"{suspect.n_suggested} of {suspect.n_neighbours} neighbours are {suggested}, {suspect.n_agree} are "
            f"{names[row]}; of {names[row]} usually {suspect.typical:.0%} of the neighbours are",
            f"category {suggested} instead of {names[row]}",
            suspect.probability,
            _beside(found.nearest[at]),
        )


def _label_fixes(bench: Bench, found: _Neighbours, reasons: dict[Problem, str]) -> Iterator[_Fix]:
    """Of each item the surest label alone."""
    judged = bench.protocol.judgements
    if judged.labels is None:
        reasons["label"] = "No item has a label."
        return
    place = np.full(bench.protocol.judgements.n_items + 1, -1, np.int64)
    place[found.rows] = np.arange(len(found.rows))
    # An item without any label says nothing of the ones it lacks.
    spoken = judged.labels[found.rows].any(axis=1)
    nearest = place[found.nearest]
    nearest[~np.append(spoken, False)[nearest]] = -1
    nearest[~spoken] = -1
    surest: dict[int, _Fix] = {}
    for name, suspects in zip(judged.label_names, suspect_labels(judged.labels[found.rows], nearest), strict=True):
        for at, suspect in _each(suspects):
            row = int(found.rows[at])
            n_with = suspect.n_suggested if suspect.suggested else suspect.n_agree
            fix = _Fix(
                row,
                "label",
                f"{n_with} of {suspect.n_neighbours} neighbours have the label {name}",
                f"{'add' if suspect.suggested else 'remove'} the label {name}",
                suspect.probability,
                _beside(found.nearest[at]),
            )
            surest[row] = max(surest.get(row, fix), fix, key=lambda one: one.score)
    yield from surest.values()


class _Suspect(NamedTuple):
    suggested: int
    probability: float
    n_agree: int
    n_suggested: int
    n_neighbours: int
    typical: float


def _each(suspects: Suspects) -> Iterator[tuple[int, _Suspect]]:
    columns = [column.tolist() for column in suspects]
    return ((row, _Suspect(*rest)) for row, *rest in zip(*columns, strict=True))


def _duplicate_fixes(items: pl.DataFrame, pairs: pl.DataFrame) -> Iterator[_Fix]:
    row_of = {item_id: row for row, item_id in enumerate(items["item_id"])}
    for item_id, other, product, other_product, similarity in pairs.iter_rows():
        ours, theirs = (f"product {name}" if name else "no product" for name in (product, other_product))
        yield _Fix(
            row_of[item_id],
            "near_duplicate",
            f"shows the same picture as {other} (cosine {similarity:.3f}), which belongs to {theirs}; it to {ours}",
            f"one product for {item_id} and {other}, or another picture for one of them",
            1.0,
            (row_of[other],),
        )


def _orphans(bench: Bench, found: _Neighbours, reasons: dict[Problem, str]) -> _Orphans:
    """Items whose nearest is far beyond the usual distance, by Iglewicz and Hoaglin's modified z-score above 3.5.

    ("How to Detect and Handle Outliers", ASQC 1993.) The deviation is that of the distances above the median, for they
    lie wider on that side.
    """
    known = found.distance[~np.isnan(found.distance)]
    if len(known) < MIN_FOR_ORPHANS:
        reasons["orphan"] = f"Fewer than {MIN_FOR_ORPHANS} items have a neighbour: there is no usual distance."
        return _Orphans([])
    median = float(np.median(known))
    deviation = float(np.median(known[known >= median] - median))
    if deviation <= 0:
        reasons["orphan"] = "Most items are equally far from their nearest: there is no usual spread of distances."
        return _Orphans([])
    z = 0.6745 * (found.distance - median) / deviation
    threshold = median + MAX_Z * deviation / 0.6745
    fixes = [
        _Fix(
            int(found.rows[at]),
            "orphan",
            f"nothing is nearer than {found.distance[at]:.3f}; usual is {median:.3f}, far from {threshold:.3f} on",
            "look whether the picture shows the product, and the product belongs to the catalogue",
            1 - MAX_Z / (2 * float(z[at])),
            _beside(found.nearest[at]),
        )
        for at in np.flatnonzero(z > MAX_Z).tolist()
    ]
    return _Orphans(fixes, median, threshold)


def _beside(positions: Int64) -> tuple[int, ...]:
    return tuple(row for row in positions.tolist() if row >= 0)


def _first_of_each(fixes: list[_Fix]) -> Iterator[_Fix]:
    for problem in get_args(Problem):
        yield from [fix for fix in fixes if fix.problem == problem][:N_SHOWN]


def _example(item_ids: pl.Series, fix: _Fix) -> FixExample:
    return FixExample(
        item_id=item_ids[fix.row],
        problem=fix.problem,
        evidence=fix.evidence,
        suggestion=fix.suggestion,
        score=fix.score,
        beside=tuple(item_ids[row] for row in fix.beside),
    )
