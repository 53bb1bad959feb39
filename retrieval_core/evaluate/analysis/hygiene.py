"""Catalogue hygiene: which items a person should look at and repair, kind by kind, the most certain first.

Each kind of problem has its own evidence: neighbours that disagree with a category or a label (`mislabelled.py`), one
picture under two products and variants of one product under several (`near_duplicates.py`), and orphans, far from
every other item.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.artifacts.catalog_rows import product_unit
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.mapped_rows import in_batches, rows_at
from retrieval_core.evaluate.analysis.mislabelled import (
    MIN_MEMBERS,
    NO_CODE,
    PlantedErrors,
    Suspects,
    plant_errors,
    suspect_codes,
    suspect_labels,
)
from retrieval_core.evaluate.analysis.near_duplicates import NearDuplicates
from retrieval_core.evaluate.measure.known_answer import rows_of
from retrieval_core.evaluate.measure.setup import Neighbours, SearchSetup
from retrieval_core.metrics.relevance import is_labelled

# In the order of the list: what is most often right comes first.
ProblemKind = Literal["category", "near_duplicate", "one_product", "label", "orphan"]

K = 10
N_SHOWN = 8  # examples of each problem
N_NAMED = 5  # of the other items of a group
NAME_WORDS = 0.9  # share of labels in the items' names from which labels are words of names
MAX_Z = 3.5
MIN_FOR_ORPHANS = 20  # the median of fewer distances is unreliable

FIX_SCHEMA = {
    "item_id": pl.String(),
    "problem": pl.String(),
    "evidence": pl.String(),
    "suggestion": pl.String(),
    "score": pl.Float64(),
}
# A spreadsheet runs a cell that begins like this as a formula (OWASP, "CSV injection").
FORMULA = r"^(\s*[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}])"


class FixExample(Value):
    """A row of the fix list; `beside` are the item's nearest items, or the other item of a pair."""

    item_id: str
    problem: ProblemKind
    evidence: str
    suggestion: str
    score: float
    beside: tuple[str, ...]


class HygieneFacts(Value):
    """`counts` of each problem among the `n_asked` of `n_rows` items that were examined, and examples of each.

    An item is an orphan if its nearest item is at `orphan_distance` or farther; `median_distance` is the usual distance
    to the nearest. `not_looked_for` gives the reason for each problem that could not be examined. `planted` says how
    far the suspicions of a kind can be trusted, where errors could be planted.
    """

    n_rows: int
    n_asked: int
    counts: dict[ProblemKind, int] = {}
    examples: tuple[FixExample, ...] = ()
    median_distance: float | None = None
    orphan_distance: float | None = None
    not_looked_for: dict[ProblemKind, str] = {}
    planted: dict[ProblemKind, PlantedErrors] = {}


class Hygiene(NamedTuple):
    """The fix list (`FIX_SCHEMA`), kind by kind, the most certain first, and the facts of the report."""

    fixes: pl.DataFrame
    facts: HygieneFacts


class _Neighbours(NamedTuple):
    """The neighbours of (q,) `rows` of the items.

    `nearest` (q, 10) are the rows of the nearest items of other products, padded with -1. `distance` (q,) is one minus
    the cosine of the nearest item of any product, NaN if there is none.
    """

    rows: Int64
    nearest: Int64
    distance: Float64


class _Orphans(NamedTuple):
    """The fixes, and the distances they were judged by; None if there is no usual distance to compare with."""

    fixes: list[_Fix]
    median: float | None = None
    threshold: float | None = None


class _Fix(NamedTuple):
    row: int
    problem: ProblemKind
    evidence: str
    suggestion: str
    score: float
    beside: tuple[int, ...]


def find_hygiene(
    setup: SearchSetup, found: Neighbours, duplicates: NearDuplicates, titles: pl.Series, seed: int
) -> Hygiene:
    """Build the fix list of a catalogue; `titles` are the names of its items, null where one has none.

    Items are judged by the neighbours `found`. `score`, 0 to 1, says how certain a row is: the probability
    that the suggestion fits better; 1 for a confirmed pair or group; 0.5 for an orphan at the threshold and more beyond
    it.
    """
    item_ids = setup.items["item_id"]
    reasons: dict[ProblemKind, str] = {}
    neighbours = _neighbours(setup.items, found)
    fixes = [*_category_fixes(setup, neighbours, reasons), *_label_fixes(setup, neighbours, titles, reasons)]
    orphans = _orphans(neighbours, reasons)
    fixes += [*_duplicate_fixes(setup.items, duplicates.pairs), *_group_fixes(setup.items, duplicates.groups)]
    fixes += orphans.fixes
    order = get_args(ProblemKind).index
    fixes.sort(key=lambda fix: (order(fix.problem), -fix.score, item_ids[fix.row]))
    facts = HygieneFacts(
        n_rows=len(item_ids),
        n_asked=len(neighbours.rows),
        counts={problem: sum(fix.problem == problem for fix in fixes) for problem in get_args(ProblemKind)},
        examples=tuple(_example(item_ids, fix) for fix in _first_of_each(fixes)),
        median_distance=orphans.median,
        orphan_distance=orphans.threshold,
        not_looked_for=reasons,
        planted=_planted(setup, neighbours, seed),
    )
    rows: list[tuple[Any, ...]] = [(item_ids[fix.row], *fix[1:5]) for fix in fixes]
    return Hygiene(pl.DataFrame(rows, schema=FIX_SCHEMA, orient="row"), facts)


def csv_bytes(fixes: pl.DataFrame) -> bytes:
    """Return the table as CSV that a spreadsheet opens as text: UTF-8 with a byte-order mark, text cells quoted.

    A cell that would begin a formula gets an apostrophe before it.
    """
    texts = pl.col(pl.String).str.replace(FORMULA, "'$1")
    return fixes.with_columns(texts).write_csv(quote_style="non_numeric", include_bom=True).encode()


def _neighbours(items: pl.DataFrame, found: Neighbours) -> _Neighbours:
    rows, positions, scores = found
    asked = np.unique(np.append(rows, np.maximum(positions, 0)))
    named = rows_at(items.select("product_id", "item_id"), asked).select(product_unit().rank("dense").cast(pl.Int64))
    units = np.zeros(len(items), np.int64)
    units[asked] = named.to_series().to_numpy()
    is_other = (positions >= 0) & (positions != rows[:, None])
    best = np.where(is_other, scores, -np.inf).max(axis=1, initial=-np.inf)
    distance = np.where(np.isfinite(best), np.maximum(1 - best.astype(np.float64), 0), np.nan)
    return _Neighbours(rows, _first(positions, is_other & (units[positions] != units[rows][:, None])), distance)


def _first(positions: Int64, eligible: Bool) -> Int64:
    """Return (q, K) the first eligible positions of each row, padded with -1."""
    order = np.argsort(~eligible, axis=1, kind="stable")[:, :K]
    first = np.where(np.take_along_axis(eligible, order, axis=1), np.take_along_axis(positions, order, axis=1), -1)
    return np.pad(first, ((0, 0), (0, K - first.shape[1])), constant_values=-1)


def _category_fixes(setup: SearchSetup, neighbours: _Neighbours, reasons: dict[ProblemKind, str]) -> Iterator[_Fix]:
    codes = setup.protocol.judgements.category
    if codes is None:
        reasons["category"] = "No item names a category."
        return
    if (np.bincount(codes[codes >= 0]) >= MIN_MEMBERS).sum() < 2:
        reasons["category"] = f"Fewer than two categories have {MIN_MEMBERS} items or more: there is nothing to mix up."
        return
    names = setup.items["category"]
    unique_codes, first_rows = np.unique(codes, return_index=True)
    name_of = dict(zip(unique_codes.tolist(), names.gather(first_rows), strict=True))
    neighbour_codes = np.append(codes, NO_CODE)[neighbours.nearest]
    for query, suspect in _each(suspect_codes(codes[neighbours.rows], neighbour_codes)):
        row = int(neighbours.rows[query])
        suggested = name_of[suspect.suggested]
        yield _Fix(
            row,
            "category",
            f"{suspect.n_suggested} of its {suspect.n_neighbours} nearest pictures of other products are {suggested}, "
            f"{suspect.n_agree} are {names[row]}; of {names[row]} usually {suspect.typical:.0%} are",
            f"category {suggested} instead of {names[row]}",
            suspect.probability,
            _beside(neighbours.nearest[query]),
        )


def _planted(setup: SearchSetup, neighbours: _Neighbours, seed: int) -> dict[ProblemKind, PlantedErrors]:
    codes = setup.protocol.judgements.category
    planted = plant_errors(codes, neighbours.rows, neighbours.nearest, seed) if codes is not None else None
    return {"category": planted} if planted else {}


def _label_fixes(
    setup: SearchSetup, neighbours: _Neighbours, titles: pl.Series, reasons: dict[ProblemKind, str]
) -> Iterator[_Fix]:
    """Yield the most certain label fix of each item; a word of an item's own name is not called wrong."""
    judged = setup.protocol.judgements
    if judged.labels is None:
        reasons["label"] = "No item has a label."
        return
    n_named, named = 0, set[tuple[int, str]]()
    for batch in _labels_in_titles(setup.items, titles):
        n_named += len(batch)
        named.update(batch.filter(pl.col("row").is_in(neighbours.rows)).iter_rows())
    if n_named >= NAME_WORDS * judged.labels.nnz:
        reasons["label"] = "Labels are the words of the items' names, of which a picture need not show each."
        return
    query_of = np.full(judged.n_items + 1, -1, np.int64)
    query_of[neighbours.rows] = np.arange(len(neighbours.rows))
    # An item without any label is no evidence against the labels it lacks.
    labels = judged.labels[neighbours.rows]
    has_labels = is_labelled(labels)
    nearest = query_of[neighbours.nearest]
    nearest[~np.append(has_labels, False)[nearest]] = -1
    nearest[~has_labels] = -1
    best: dict[int, _Fix] = {}
    for name, suspects in zip(judged.label_names, suspect_labels(labels, nearest), strict=True):
        for query, suspect in _each(suspects):
            row = int(neighbours.rows[query])
            if not suspect.suggested and (row, name) in named:
                continue
            n_with = suspect.n_suggested if suspect.suggested else suspect.n_agree
            fix = _Fix(
                row,
                "label",
                f"{n_with} of its {suspect.n_neighbours} nearest pictures of other products have the label {name}",
                f"{'add' if suspect.suggested else 'remove'} the label {name}",
                suspect.probability,
                _beside(neighbours.nearest[query]),
            )
            best[row] = max(best.get(row, fix), fix, key=lambda candidate: candidate.score)
    yield from best.values()


def _labels_in_titles(items: pl.DataFrame, titles: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the row and the label for each label that is a word of its item's title, in batches of rows."""
    between = r"[^\pL\pN]+"  # words
    lower, label = pl.col("title").str.to_lowercase(), pl.col("labels").str.to_lowercase().str.replace_all(between, " ")
    words = (" " + lower + " ").str.replace_all(between, " ")
    for batch in in_batches(items.select("labels").with_row_index("row").with_columns(title=titles)):
        labels = batch.filter(pl.col("title").is_not_null()).explode("labels").drop_nulls("labels")
        is_named = words.str.contains(pl.concat_str(pl.lit(" "), label, pl.lit(" ")), literal=True)
        yield labels.filter(is_named).select("row", "labels").unique()


class _Suspect(NamedTuple):
    suggested: int
    probability: float
    n_agree: int
    n_suggested: int
    n_neighbours: int
    typical: float


def _each(suspects: Suspects) -> Iterator[tuple[int, _Suspect]]:
    columns = [column.tolist() for column in suspects]
    return ((query, _Suspect(*rest)) for query, *rest in zip(*columns, strict=True))


def _duplicate_fixes(items: pl.DataFrame, pairs: pl.DataFrame) -> Iterator[_Fix]:
    row_of = rows_of(items, [*pairs["item_id"], *pairs["other_item_id"]])
    for item_id, other, product_id, other_product_id, similarity in pairs.iter_rows():
        product, other_product = (
            f"product {name}" if name else "no product" for name in (product_id, other_product_id)
        )
        yield _Fix(
            row_of[item_id],
            "near_duplicate",
            f"shows the same picture as {other} (cosine {similarity:.3f}), which belongs to {other_product}; "
            f"it to {product}",
            f"one product for {item_id} and {other}, or another picture for one of them",
            1.0,
            (row_of[other],),
        )


def _group_fixes(items: pl.DataFrame, groups: pl.DataFrame) -> Iterator[_Fix]:
    row_of = rows_of(items, groups["item_id"])
    for (proposed,), group in groups.group_by("proposed_product_id", maintain_order=True):
        members = group["item_id"].to_list()
        whole = "both" if len(members) == 2 else f"all {len(members)} of them"
        for item_id, product_id, _ in group.iter_rows():
            if product_id == proposed:
                continue
            others = [other for other in members if other != item_id]
            more = f" and {len(others) - N_NAMED} more" if len(others) > N_NAMED else ""
            yield _Fix(
                row_of[item_id],
                "one_product",
                f"shows the design of {', '.join(others[:N_NAMED])}{more} in another colour",
                f"product_id {proposed} for {whole}, as variants of one product",
                1.0,
                tuple(row_of[other] for other in others[:K]),
            )


def _orphans(neighbours: _Neighbours, reasons: dict[ProblemKind, str]) -> _Orphans:
    """Find items whose nearest is unusually far: Iglewicz and Hoaglin's modified z-score above 3.5.

    ("How to Detect and Handle Outliers", ASQC 1993.) The deviation is taken over the distances above the median, which
    spread wider than those below.
    """
    distance = neighbours.distance
    defined = distance[~np.isnan(distance)]
    if len(defined) < MIN_FOR_ORPHANS:
        reasons["orphan"] = f"Fewer than {MIN_FOR_ORPHANS} items have a neighbour: there is no usual distance."
        return _Orphans([])
    median = float(np.median(defined))
    deviation = float(np.median(defined[defined >= median] - median))
    if deviation <= 0:
        reasons["orphan"] = "Most items are equally far from their nearest: there is no usual spread of distances."
        return _Orphans([])
    z = 0.6745 * (distance - median) / deviation
    threshold = median + MAX_Z * deviation / 0.6745
    fixes = [
        _Fix(
            int(neighbours.rows[query]),
            "orphan",
            f"nothing is nearer than {distance[query]:.3f}; usual is {median:.3f}, far from {threshold:.3f} on",
            "look whether the picture shows the product, and the product belongs to the catalogue",
            1 - MAX_Z / (2 * float(z[query])),
            _beside(neighbours.nearest[query]),
        )
        for query in np.flatnonzero(z > MAX_Z).tolist()
    ]
    return _Orphans(fixes, median, threshold)


def _beside(positions: Int64) -> tuple[int, ...]:
    return tuple(row for row in positions.tolist() if row >= 0)


def _first_of_each(fixes: list[_Fix]) -> Iterator[_Fix]:
    for problem in get_args(ProblemKind):
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
