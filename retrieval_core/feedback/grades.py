"""Turn the log of feedback into graded judgements: how relevant a hit is to a question, from 0 to 3.

A click counts 1, a basket 2, a purchase 3; of one showing of a hit only the strongest counts, and "not what I meant"
counts -1 whatever else was done. The rate of an item is what it earned for each time that somebody looked at it:

    rate = (sum of values + m * PRIOR_LOOKS) / (sum of propensities + PRIOR_LOOKS)

that is, its values weighted by the inverse propensity of their positions in ratio form, drawn towards the mean rate m
of all hits where there was little to see. A grade then says the rate as nDCG counts it: the gain of a grade, 2^grade -
1, is in proportion to the rate, and the rate of the best hit of a question, averaged over questions, is worth a 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from retrieval_core.artifacts.manifests import Value
from retrieval_core.feedback.log import FeedbackLog
from retrieval_core.feedback.propensity import PositionBias

MAX_GRADE = 3
PRIOR_LOOKS = 2.0
VALUES = {"click": 1.0, "add_to_basket": 2.0, "purchase": 3.0, "not_what_i_meant": -1.0}
TEXT_QUERY = "text:"  # begins a golden query of words


class Evidence(Value):
    """What a judgement needs at least, and how many questions are judged."""

    days: float = Field(90.0, gt=0, description="Feedback of so many days counts.")
    min_searches: int = Field(10, ge=1, description="Questions that were asked less often are not judged.")
    min_looks: float = Field(5.0, gt=0, description="Hits that were probably looked at less often are not judged.")
    min_choices: int = Field(
        2, ge=1, description="Hits that were chosen in fewer searches, but in some, are not judged."
    )
    max_queries: int = Field(500, ge=1, description="The most frequent questions that become golden queries.")


class Judged(NamedTuple):
    """A question and the grades of hits by item id; both 0 and higher grades are among them."""

    question: str
    grades: dict[str, int]
    n_searches: int


def find_impressions(log: FeedbackLog) -> pl.DataFrame:
    """Return a row for each hit that a search without a filter showed: question, query_id, item_id, position, value.

    `value` is 0 where the hit was not chosen, and `is_chosen` says whether it is above. A question is an item id, words
    after `TEXT_QUERY`, or the sha256 of a kept picture; searches for several of these, or away from something, are left
    out, as no golden query can ask for that.
    """
    asked = log.searches.filter((pl.col("where") == "") & ~pl.col("is_unlike")).with_columns(question=_question())
    shown = (
        asked.filter(pl.col("question").is_not_null())
        .with_columns(position=pl.int_ranges(1, pl.col("shown").list.len() + 1))
        .explode("shown", "position")
        .drop_nulls("shown")
        .select("question", "query_id", item_id="shown", position=pl.col("position") + pl.col("n_before"))
    )
    value = pl.col("event").replace_strict(VALUES, return_dtype=pl.Float64)
    worth = pl.when((value < 0).any()).then(value.min()).otherwise(value.max())
    chosen = log.events.group_by("query_id", "item_id").agg(value=worth, moved=pl.col("position").max())
    rows = shown.join(chosen, on=["query_id", "item_id"], how="left")
    return rows.with_columns(
        pl.col("value").fill_null(0.0), position=pl.coalesce("moved", "position"), is_chosen=pl.col("value") > 0
    ).select("question", "query_id", "item_id", "position", "value", pl.col("is_chosen").fill_null(value=False))


def grade(impressions: pl.DataFrame, bias: PositionBias, evidence: Evidence) -> list[Judged]:
    """Return the judged questions, those asked most often first; left out are hits with too little evidence.

    So are questions whose hits all have one grade: every order of them is as good.
    """
    looks = pl.Series(bias.propensity(impressions["position"].to_numpy()))
    rated = (
        impressions.with_columns(looks=looks, n_searches=pl.col("query_id").n_unique().over("question"))
        .group_by("question", "item_id")
        .agg(pl.col("value", "looks", "is_chosen").sum(), pl.col("n_searches").first())
    )
    if not (rated["value"] > 0).any():
        return []
    mean = max(float(rated["value"].sum()) / float(rated["looks"].sum()), 0.0)
    rated = rated.with_columns(
        rate=((pl.col("value") + mean * PRIOR_LOOKS) / (pl.col("looks") + PRIOR_LOOKS)).clip(lower_bound=0.0)
    )
    is_certain = (pl.col("value") <= 0) | (pl.col("is_chosen") >= evidence.min_choices)
    has_evidence = (pl.col("looks") >= evidence.min_looks) & (pl.col("n_searches") >= evidence.min_searches)
    judged = rated.filter(has_evidence & is_certain)
    best = judged.filter(pl.col("value") > 0).group_by("question").agg(pl.col("rate").max())["rate"].mean()
    if best is None:
        return []
    share = (judged["rate"] / best).clip(0.0, 1.0).to_numpy()
    grades = np.rint(np.log2(1 + (2**MAX_GRADE - 1) * share)).astype(np.int64)
    # Without a single choice an item is worth nothing, however little it was looked at.
    judged = judged.with_columns(grade=pl.when(pl.col("value") > 0).then(pl.Series(grades)).otherwise(0))
    questions = [
        Judged(str(name), dict(rows.sort("item_id").select("item_id", "grade").iter_rows()), int(rows["n_searches"][0]))
        for (name,), rows in judged.group_by("question")
    ]
    told = [question for question in questions if len(set(question.grades.values())) > 1]
    return sorted(told, key=lambda question: (-question.n_searches, question.question))


def split_questions(questions: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Return the questions that judge releases, and the others, of which backbones may learn; by hash, half of each."""
    is_training = [hashlib.sha256(each.question.encode()).digest()[0] % 2 == 1 for each in questions]
    pairs = list(zip(questions, is_training, strict=True))
    return [each for each, trains in pairs if not trains], [each for each, trains in pairs if trains]


def _question() -> pl.Expr:
    n_items, n_texts, n_kept = (pl.col(name).list.len() for name in ("item_ids", "texts", "pictures"))
    is_item = (n_items == 1) & (n_texts == 0) & (pl.col("n_pictures") == 0)
    is_text = (n_items == 0) & (n_texts == 1) & (pl.col("n_pictures") == 0)
    is_picture = (n_items == 0) & (n_texts == 0) & (pl.col("n_pictures") == 1) & (n_kept == 1)
    return (
        pl.when(is_item)
        .then(pl.col("item_ids").list.first())
        .when(is_text)
        .then(pl.lit(TEXT_QUERY) + pl.col("texts").list.first())
        .when(is_picture)
        .then(pl.col("pictures").list.first())
    )
