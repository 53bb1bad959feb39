"""Queries whose right answer is known without labels: golden and synthetic queries, judged by content ids.

Two items that show the same picture cannot be told apart, so either of them is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.evaluate.thumbnails import FROM_SOURCE, Thumbnail, item_picture
from retrieval_core.search.hits import Hit

MAX_PROBLEMS = 20  # in the report
MAX_PROBLEM_CHARS = 300
N_MISSED = 8  # missed queries in the report
N_SHOWN = 5  # expected items, and hits, of each

Contents = Mapping[str, str]  # content ids by item id


class MissedQuery(Value):
    """A query whose first hit was wrong, with up to five expected items and its first hits, for the report."""

    query: Thumbnail
    expected: tuple[Thumbnail, ...]
    hits: tuple[Thumbnail, ...]
    note: str = ""


class Answer(NamedTuple):
    """The hits of the query `name`, best first, and the content ids that are right; the first `k` hits count."""

    name: str
    expected: frozenset[str]
    hits: tuple[Hit, ...]
    k: int = 10

    def correct(self, contents: Contents) -> list[bool]:
        """Return whether each of the first k hits is right."""
        return [contents.get(hit.item_id) in self.expected for hit in self.hits[: self.k]]

    def hit(self, contents: Contents) -> float:
        """Return 1 where the first hit is right, else 0."""
        return float(any(self.correct(contents)[:1]))

    def recall(self, contents: Contents) -> float:
        """Return the expected pictures among the first k hits, over as many as could be there."""
        seen = {contents.get(hit.item_id) for hit in self.hits[: self.k]}
        return len(seen & self.expected) / min(len(self.expected), self.k)

    def reciprocal_rank(self, contents: Contents) -> float:
        """Return 1 / rank of the first right hit, 0 where none of the first k is right."""
        correct = self.correct(contents)
        return 1 / (1 + correct.index(True)) if any(correct) else 0.0


class Missed(NamedTuple):
    """A query whose first hit was wrong: its thumbnail, the expected item ids and its answer."""

    query: Thumbnail
    expected: Sequence[str]
    answer: Answer
    note: str = ""


def contents_of(items: pl.DataFrame, item_ids: Iterable[str]) -> dict[str, str]:
    """Return the content ids of these item ids, of those that `items` has."""
    known = items.filter(pl.col("item_id").is_in(list(set(item_ids))))
    return dict(known.select("item_id", "content_id").iter_rows())


def rows_of(items: pl.DataFrame, item_ids: Iterable[str]) -> dict[str, int]:
    """Return the rows of these item ids, of those that `items` has."""
    numbered = items.select("item_id").with_row_index("row").filter(pl.col("item_id").is_in(list(set(item_ids))))
    return dict(numbered.select("item_id", "row").iter_rows())


def hit_ids(answers: Iterable[Answer]) -> set[str]:
    """Return the ids of all items that were found."""
    return {hit.item_id for answer in answers for hit in answer.hits}


def first_problems(problems: Sequence[str]) -> tuple[str, ...]:
    """Return the first `MAX_PROBLEMS`, each as one line of bounded length: names and cells can hold anything."""
    lines = [" ".join(problem.split()) for problem in problems[:MAX_PROBLEMS]]
    return tuple(line if len(line) <= MAX_PROBLEM_CHARS else f"{line[: MAX_PROBLEM_CHARS - 1]}…" for line in lines)


def show_missed(
    items: pl.DataFrame, missed: Sequence[Missed], contents: Contents, pictures: PictureReader = FROM_SOURCE
) -> tuple[MissedQuery, ...]:
    """Return the first `N_MISSED` with the thumbnails of what was expected and found."""
    chosen = missed[:N_MISSED]
    item_ids = {item_id for miss in chosen for item_id in miss.expected[:N_SHOWN]} | hit_ids(m.answer for m in chosen)
    rows = rows_of(items, item_ids)
    return tuple(
        MissedQuery(
            query=miss.query,
            expected=tuple(
                item_picture(items, rows[name], pictures=pictures) for name in miss.expected[:N_SHOWN] if name in rows
            ),
            hits=tuple(
                item_picture(items, rows[hit.item_id], hit.score, right, pictures)
                for hit, right in zip(miss.answer.hits[:N_SHOWN], miss.answer.correct(contents), strict=False)
                if hit.item_id in rows
            ),
            note=miss.note,
        )
        for miss in chosen
    )
