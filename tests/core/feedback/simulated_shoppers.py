"""Shoppers who look at hits by position and choose by relevance, over releases that rank as drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.feedback.log import SCHEMAS, Event, FeedbackLog, Search
from tests.core.feedback.drawn_log import NOW, query_id

N_SHOWN = 10


class Catalogue(NamedTuple):
    """The (q, d) grades of d items for q questions, 0 to 3."""

    grades: Int64

    def item(self, question: int, item: int) -> str:
        return f"q{question}-d{item}"

    def question(self, number: int) -> str:
        return f"q{number}"


def draw_catalogue(n_questions: int, n_items: int, rng: np.random.Generator) -> Catalogue:
    """A few relevant items for each question: one in twenty of each grade, at least one of the highest."""
    grades = rng.choice(4, (n_questions, n_items), p=[0.7, 0.15, 0.1, 0.05])
    grades[np.arange(n_questions), rng.integers(0, n_items, n_questions)] = 3
    return Catalogue(grades)


def rank(catalogue: Catalogue, quality: float, rng: np.random.Generator) -> Int64:
    """Return (q, d) items in the order of a release: by their grade as far as its quality goes, else at random."""
    scores = quality * catalogue.grades + rng.normal(size=catalogue.grades.shape)
    return np.argsort(-scores, axis=1)


def choose(
    catalogue: Catalogue,
    ranking: Int64,
    n_searches: int,
    eta: float,
    rng: np.random.Generator,
    noise: bool = False,
    name: str = "a",
) -> FeedbackLog:
    """Let each question be asked so often; `noise`: what shoppers look at they choose whatever it is."""
    searches: list[Search] = []
    events: list[Event] = []
    looks = np.arange(1, N_SHOWN + 1) ** -eta
    for question, order in enumerate(ranking[:, :N_SHOWN]):
        grades = catalogue.grades[question, order]
        chances = np.full(N_SHOWN, 0.25) if noise else 0.02 + 0.7 * (2.0**grades - 1) / 7
        chosen = rng.random((n_searches, N_SHOWN)) < looks * chances
        shown = tuple(catalogue.item(question, item) for item in order.tolist())
        for number in range(n_searches):
            query = query_id(f"{name}{question}-{number}")
            searches.append(Search(query, NOW, name, (catalogue.question(question),), (), 0, (), False, "", 0, shown))
            events += [Event(query, NOW, shown[place], "click") for place in np.flatnonzero(chosen[number])]
    return FeedbackLog(
        pl.DataFrame(searches, SCHEMAS["searches"], orient="row"), pl.DataFrame(events, SCHEMAS["events"], orient="row")
    )


def joined(*logs: FeedbackLog) -> FeedbackLog:
    return FeedbackLog(pl.concat([log.searches for log in logs]), pl.concat([log.events for log in logs]))
