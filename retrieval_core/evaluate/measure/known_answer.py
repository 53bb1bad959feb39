"""Queries whose answer is known without a label: what was found, judged by the pictures that were to be found.

Two items that show the very same picture cannot be told apart by it, so either is the right answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Hit, Value
from retrieval_core.evaluate.thumbnails import Thumbnail, item_picture

MAX_PROBLEMS = 20  # that a page tells
LONGEST_PROBLEM = 300
N_MISSED = 8
N_SHOWN = 5  # of what was expected, and of what was found

Contents = Mapping[str, str]  # of item ids, the content ids


class MissedQuery(Value):
    """A query of known answer whose first hit was wrong: what was expected, up to five, and what was found."""

    query: Thumbnail
    expected: tuple[Thumbnail, ...]
    hits: tuple[Thumbnail, ...]
    note: str = ""


class Answer(NamedTuple):
    """What a search found for the query `name`, best first, and the content ids that it ought to find."""

    name: str
    expected: frozenset[str]
    hits: tuple[Hit, ...]
    k: int = 10

    def found(self, contents: Contents) -> list[bool]:
        """Of the first k hits, whether each is right."""
        return [contents.get(hit.item_id) in self.expected for hit in self.hits[: self.k]]

    def hit(self, contents: Contents) -> float:
        """1 where the first hit is right, else 0."""
        return float(any(self.found(contents)[:1]))

    def recall(self, contents: Contents) -> float:
        """Expected pictures among the first k, over as many as could be there."""
        seen = {contents.get(hit.item_id) for hit in self.hits[: self.k]}
        return len(seen & self.expected) / min(len(self.expected), self.k)

    def reciprocal_rank(self, contents: Contents) -> float:
        """1 / the rank of the first right hit, 0 where none of the first k is."""
        found = self.found(contents)
        return 1 / (1 + found.index(True)) if any(found) else 0.0


class Missed(NamedTuple):
    """A query whose first hit was wrong: its picture and the items it ought to find."""

    query: Thumbnail
    expected: Sequence[str]
    answer: Answer
    note: str = ""


def contents_of(items: pl.DataFrame, item_ids: Iterable[str]) -> dict[str, str]:
    """The content ids of those item ids that `items` have."""
    known = items.filter(pl.col("item_id").is_in(list(set(item_ids))))
    return dict(known.select("item_id", "content_id").iter_rows())


def hit_ids(answers: Iterable[Answer]) -> set[str]:
    """Every item that was found."""
    return {hit.item_id for answer in answers for hit in answer.hits}


def told(problems: Sequence[str]) -> tuple[str, ...]:
    """The first `MAX_PROBLEMS`, each in one line of bounded length: file names and cells can be anything."""
    lines = [" ".join(problem.split()) for problem in problems[:MAX_PROBLEMS]]
    return tuple(line if len(line) <= LONGEST_PROBLEM else f"{line[: LONGEST_PROBLEM - 1]}…" for line in lines)


def show_missed(items: pl.DataFrame, missed: Sequence[Missed], contents: Contents) -> tuple[MissedQuery, ...]:
    """The first `N_MISSED` of them as the page draws them."""
    chosen = missed[:N_MISSED]
    wanted = {item_id for miss in chosen for item_id in miss.expected[:N_SHOWN]} | hit_ids(m.answer for m in chosen)
    places = items.select("item_id").with_row_index("row").filter(pl.col("item_id").is_in(list(wanted)))
    rows = dict(places.select("item_id", "row").iter_rows())
    return tuple(
        MissedQuery(
            query=miss.query,
            expected=tuple(item_picture(items, rows[name]) for name in miss.expected[:N_SHOWN] if name in rows),
            hits=tuple(
                item_picture(items, rows[hit.item_id], hit.score, right)
                for hit, right in zip(miss.answer.hits[:N_SHOWN], miss.answer.found(contents), strict=False)
                if hit.item_id in rows
            ),
            note=miss.note,
        )
        for miss in chosen
    )
