"""Grades say how relevant hits are, whatever their positions were, and nothing where there is little evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.arrays import Int64
from retrieval_core.feedback.grades import Evidence, Judged, find_impressions, grade, split_questions
from retrieval_core.feedback.log import SCHEMAS, Choice, Event, FeedbackLog, Search
from retrieval_core.feedback.propensity import PositionBias, estimate_bias
from tests.core.feedback.drawn_log import event, search
from tests.core.feedback.simulated_shoppers import Catalogue, choose, draw_catalogue, joined, rank

ALWAYS_SEEN = PositionBias(0.0)


def log_of(searches: list[Search], events: list[Event]) -> FeedbackLog:
    return FeedbackLog(
        pl.DataFrame(searches, SCHEMAS["searches"], orient="row"), pl.DataFrame(events, SCHEMAS["events"], orient="row")
    )


def planted(catalogue: Catalogue, judged: list[Judged]) -> Int64:
    """(n, 2) given and planted grades."""
    pairs = [
        (given, catalogue.grades[int(each.question[1:]), int(item_id.partition("-d")[2])])
        for each in judged
        for item_id, given in each.grades.items()
    ]
    return np.array(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_corrected_grades_recover_what_was_planted_better_than_uncorrected_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue = draw_catalogue(30, 25, rng)
    logs = [choose(catalogue, rank(catalogue, 0.7, rng), 120, 1.0, rng, name=name) for name in "ab"]
    impressions = find_impressions(joined(*logs))
    corrected = planted(catalogue, grade(impressions, estimate_bias(impressions), Evidence()))
    uncorrected = planted(catalogue, grade(impressions, ALWAYS_SEEN, Evidence()))
    assert len(corrected) > 200
    agreement = [float((pairs[:, 0] == pairs[:, 1]).mean()) for pairs in (corrected, uncorrected)]
    assert agreement[0] > 0.8
    assert agreement[0] > agreement[1] + 0.1
    assert np.corrcoef(corrected.T)[0, 1] > np.corrcoef(uncorrected.T)[0, 1] + 0.03


def asked(n: int, chosen: dict[str, list[Choice]], **values: Any) -> FeedbackLog:
    """`n` searches for item `a` that show b, c and d; in each, what is chosen of them."""
    names = [str(number) for number in range(n)]
    events = [event(name, item_id, kind) for name in names for item_id, kinds in chosen.items() for kind in kinds]
    return log_of([search(name, "bcd", **values) for name in names], events)


def grades_of(log: FeedbackLog) -> dict[str, dict[str, int]]:
    return {each.question: each.grades for each in grade(find_impressions(log), ALWAYS_SEEN, Evidence())}


def test_a_purchase_is_worth_more_than_a_click_and_a_wrong_hit_nothing() -> None:
    chosen: dict[str, list[Choice]] = {"b": ["click"], "c": ["click", "purchase"], "d": ["click", "not_what_i_meant"]}
    assert grades_of(asked(50, chosen)) == {"a": {"b": 2, "c": 3, "d": 0}}


def test_a_filter_something_unlike_or_a_mixture_is_no_question() -> None:
    for values in ({"where": "price < 3"}, {"is_unlike": True}, {"item_ids": ("a", "b")}, {"texts": ("red",)},
                   {"n_pictures": 1}):  # fmt: skip
        assert not grades_of(asked(50, {"b": ["click"]}, **values))
    words: dict[str, Any] = {"item_ids": (), "texts": ("red",)}
    assert grades_of(asked(50, {"b": ["click"]}, **words)) == {"text:red": {"b": 3, "c": 0, "d": 0}}
    picture: dict[str, Any] = {"item_ids": (), "n_pictures": 1, "pictures": ("f" * 64,)}
    assert grades_of(asked(50, {"b": ["click"]}, **picture)) == {"f" * 64: {"b": 3, "c": 0, "d": 0}}


def test_little_evidence_gives_no_grade() -> None:
    chosen: dict[str, list[Choice]] = {"b": ["click"]}
    assert grades_of(asked(9, chosen)) == {}
    assert grades_of(asked(10, chosen)) == {"a": {"b": 3, "c": 0, "d": 0}}
    once = asked(30, chosen)
    strange = pl.DataFrame([event("0", "c")], SCHEMAS["events"], orient="row")
    assert grades_of(once._replace(events=pl.concat([once.events, strange]))) == {"a": {"b": 3, "d": 0}}
    assert grades_of(asked(30, {})) == {}
    assert grades_of(asked(30, {"b": ["click"], "c": ["click"], "d": ["click"]})) == {}, "any order is as good"


def test_events_of_unknown_searches_and_of_hits_that_were_not_shown_do_not_count() -> None:
    log = asked(30, {"b": ["click"]})
    forged = [event("unknown", "c", "purchase"), *(event(str(number), "z", "purchase") for number in range(30))]
    more = pl.concat([log.events, pl.DataFrame(forged, SCHEMAS["events"], orient="row")])
    assert grades_of(log._replace(events=more)) == grades_of(log)


def test_positions_count_on_from_page_to_page_and_clients_may_correct_them() -> None:
    log = log_of([search("1", "bc", n_before=10)], [event("1", "c", position=3)])
    rows = find_impressions(log).select("item_id", "position", "value", "is_chosen").rows()
    assert sorted(rows) == [("b", 11, 0.0, False), ("c", 3, 1.0, True)]


def test_half_of_the_questions_train_always_the_same_ones() -> None:
    questions = [Judged(f"q{number}", {"b": 1, "c": 0}, 20) for number in range(400)]
    judging, training = split_questions(questions)
    assert len(judging) + len(training) == 400
    assert 150 < len(training) < 250
    assert split_questions(questions[::-1])[1] == training[::-1]
