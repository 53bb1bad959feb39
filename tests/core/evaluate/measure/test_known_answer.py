"""Queries with known answers: scores against a naive loop, and what the report shows of the missed ones."""

from __future__ import annotations

from operator import mul

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.evaluate.measure.known_answer import (
    MAX_PROBLEM_CHARS,
    MAX_PROBLEMS,
    N_MISSED,
    N_SHOWN,
    Answer,
    Missed,
    contents_of,
    first_problems,
    hit_ids,
    show_missed,
)
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.search.hits import Hit

PICTURES = st.sampled_from(["p0", "p1", "p2", "p3", "p4"])
ITEM_IDS = st.sampled_from([f"item-{n:05}" for n in range(12)])


def answer(hits: list[str], expected: set[str], k: int = 10, name: str = "query") -> Answer:
    found = (Hit(item_id=item_id, score=1 - rank / 100, image_uri="") for rank, item_id in enumerate(hits))
    return Answer(name, frozenset(expected), tuple(found), k)


@given(
    hits=st.lists(ITEM_IDS, max_size=12, unique=True),
    expected=st.sets(PICTURES, min_size=1),
    k=st.integers(1, 12),
    contents=st.dictionaries(ITEM_IDS, PICTURES),
)
def test_scores_are_those_of_a_naive_loop(hits, expected, k, contents):
    """Items may show the same picture, and a hit may have left the catalogue."""
    right, seen, first_rank = [], [], 0
    for rank, item_id in enumerate(hits, start=1):
        if rank > k:
            break
        is_right = item_id in contents and contents[item_id] in expected
        right.append(is_right)
        if is_right and not first_rank:
            first_rank = rank
        if is_right and contents[item_id] not in seen:
            seen.append(contents[item_id])
    scored = answer(hits, expected, k)
    assert scored.correct(contents) == right
    assert scored.hit(contents) == (1.0 if first_rank == 1 else 0.0)
    assert scored.reciprocal_rank(contents) == (1 / first_rank if first_rank else 0.0)
    assert scored.recall(contents) == len(seen) / (len(expected) if len(expected) < k else k)


def test_two_items_with_the_same_picture_are_both_right_and_count_once():
    contents = {"a": "shirt", "copy of a": "shirt", "b": "shoe"}
    for first, second in (("a", "copy of a"), ("copy of a", "a")):
        found = answer([first, second, "b"], {"shirt"})
        assert found.correct(contents) == [True, True, False]
        assert found.hit(contents) == found.recall(contents) == found.reciprocal_rank(contents) == 1.0
    assert answer(["a", "copy of a"], {"shirt", "shoe"}).recall(contents) == 0.5


def test_a_query_that_expects_more_than_its_k_can_still_be_perfect():
    contents = {"a": "shirt", "b": "shoe", "c": "hat"}
    assert answer(["a", "b", "c"], {"shirt", "shoe", "hat"}, k=2).recall(contents) == 1.0
    assert answer(["c", "b", "a"], {"shirt"}, k=2).reciprocal_rank(contents) == 0.0


def test_a_query_without_hits_scores_nothing():
    nothing = answer([], {"shirt"})
    assert nothing.hit({}) == nothing.recall({}) == nothing.reciprocal_rank({}) == 0.0


def test_content_ids_are_those_of_the_items_that_the_catalogue_has(catalog_items):
    items = catalog_items(5)
    contents = contents_of(items, ["item-00003", "removed", "item-00001", "item-00003"])
    assert contents == {"item-00001": f"{1:032x}", "item-00003": f"{3:032x}"}
    assert contents_of(items, []) == {}


def test_the_ids_of_all_hits_are_collected_once():
    answers = [answer(["a", "b"], {"x"}), answer(["b", "c"], {"x"}, k=1), answer([], {"x"})]
    assert hit_ids(iter(answers)) == {"a", "b", "c"}


@given(st.lists(st.builds(mul, st.text(max_size=8), st.sampled_from([1, 30, 80])), max_size=MAX_PROBLEMS + 2))
def test_problems_are_short_lines_and_few_of_them(problems):
    lines = first_problems(problems)
    assert len(lines) == min(len(problems), MAX_PROBLEMS)
    for line, problem in zip(lines, problems, strict=False):
        assert len(line.splitlines()) <= 1
        assert len(line) <= MAX_PROBLEM_CHARS
        whole = " ".join(problem.split())
        assert line == whole if len(whole) <= MAX_PROBLEM_CHARS else whole.startswith(line.removesuffix("…"))


@pytest.mark.parametrize(("n_chars", "is_cut"), [(MAX_PROBLEM_CHARS, False), (MAX_PROBLEM_CHARS + 1, True)])
def test_a_line_that_is_too_long_ends_in_an_ellipsis(n_chars, is_cut):
    (line,) = first_problems(["x" * n_chars])
    assert len(line) == MAX_PROBLEM_CHARS
    assert line.endswith("…") is is_cut


@pytest.fixture
def items(catalog_items) -> pl.DataFrame:
    """Twelve items whose pictures are gone; the first and the last show the same one."""
    return catalog_items(12, content_id=[f"p{n % 11}" for n in range(12)], category=[f"c{n}" for n in range(12)])


def missed(items: pl.DataFrame, expected: list[int], hits: list[int], note: str = "", k: int = 10) -> Missed:
    ids = items["item_id"].to_list()
    pictures = {items["content_id"][number] for number in expected}
    query = Thumbnail(item_id=f"query {note}", caption="", jpeg="")
    return Missed(query, [ids[n] for n in expected], answer([ids[n] for n in hits], pictures, k), note)


def test_a_missed_query_shows_what_was_expected_and_which_hits_are_right(items):
    contents = contents_of(items, items["item_id"])
    (shown,) = show_missed(items, [missed(items, [0], [4, 11, 0, 2], "flip")], contents)
    assert (shown.query.item_id, shown.note) == ("query flip", "flip")
    assert [(picture.item_id, picture.caption) for picture in shown.expected] == [("item-00000", "c0")]
    assert [hit.item_id for hit in shown.hits] == ["item-00004", "item-00011", "item-00000", "item-00002"]
    assert [hit.mark for hit in shown.hits] == [False, True, True, False]
    assert [hit.score for hit in shown.hits] == [1.0, 0.99, 0.98, 0.97]


def test_the_first_missed_queries_are_shown_with_few_pictures_each(items):
    contents = contents_of(items, items["item_id"])
    everything = list(range(12))
    shown = show_missed(items, [missed(items, everything, everything, str(n)) for n in range(N_MISSED + 3)], contents)
    assert [miss.note for miss in shown] == [str(n) for n in range(N_MISSED)]
    ids = items["item_id"].to_list()[:N_SHOWN]
    for miss in shown:
        assert [picture.item_id for picture in miss.expected] == ids
        assert [picture.item_id for picture in miss.hits] == ids


def test_hits_beyond_the_k_of_a_query_are_not_shown(items):
    (shown,) = show_missed(items, [missed(items, [0], [1, 2, 3], k=2)], contents_of(items, items["item_id"]))
    assert [hit.item_id for hit in shown.hits] == ["item-00001", "item-00002"]


def test_items_that_left_the_catalogue_are_not_shown(items):
    kept = items.filter(~pl.col("item_id").is_in(["item-00000", "item-00004"]))
    (shown,) = show_missed(kept, [missed(items, [0, 1], [4, 1, 2])], contents_of(kept, items["item_id"]))
    assert [picture.item_id for picture in shown.expected] == ["item-00001"]
    assert [(hit.item_id, hit.mark) for hit in shown.hits] == [("item-00001", True), ("item-00002", False)]
    assert show_missed(kept, [], {}) == ()
