"""The weekly judgement: questions with graded hits from the log, as golden queries that judge releases.

Half of the questions judge, the other half train: a backbone that had learned the pairs of a question would only show
that it remembers them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import MANIFEST, JudgementSet, Ref, Value, fingerprint
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.errors import BadConfig, ShardCorrupt
from retrieval_core.feedback.grades import Evidence, Judged, find_impressions, grade, split_questions
from retrieval_core.feedback.log import kept_pictures, merge_parts, read_log
from retrieval_core.feedback.propensity import estimate_bias
from retrieval_core.store.base import Store

GOLDEN_FILE, TRAINING_FILE = "golden.csv", "training.csv"
ALIKE_GRADE = 2
CHOSEN_SCHEMA = {"item_id": pl.String, "chosen": pl.String}
COLUMNS = ("query", "expected", "grades", "note")


class JudgedFeedback(Value):
    """What a judgement was made of, and what it gave.

    `n_uncounted` events are of no known search or of no hit that it showed. `eta` says how fast attention falls with
    the position, learned from `eta_choices` choices, 0 where it is the default.
    """

    judgements: str
    n_searches: int
    n_events: int
    n_uncounted: int
    eta: float
    eta_choices: int
    n_golden: int
    n_training: int
    n_merged: int


class ChosenGroups(NamedTuple):
    """Items that shoppers chose for each other, a table of item_id and `chosen`, the group; and its fingerprint."""

    table: pl.DataFrame
    fingerprint: str


def judge_feedback(store: Store, evidence: Evidence, now: datetime) -> JudgedFeedback:
    """Judge the feedback of the last `evidence.days`, seal the judgements, and merge the small parts of the log.

    Raises `StoreUnavailable`, `StoreNotWritable`, and `TooNew` or `NeedsMigration` for a store of another format.
    """
    n_merged = merge_parts(store, now)
    log = read_log(store, now - timedelta(days=evidence.days))
    impressions = find_impressions(log)
    bias = estimate_bias(impressions)
    judging, training = split_questions(grade(impressions, bias, evidence))
    addresses = {sha256: f"{store.url}/{key}" for sha256, key in kept_pictures(store).items()}
    files = {
        GOLDEN_FILE: _csv(judging[: evidence.max_queries], addresses),
        TRAINING_FILE: _csv(training, addresses),
    }
    known = log.events.join(
        log.searches.explode("shown"), left_on=["query_id", "item_id"], right_on=["query_id", "shown"]
    )
    config = {"evidence": evidence.model_dump(), "until": now.isoformat(), "eta": bias.eta, "n_choices": bias.n_choices}
    name = fingerprint("judge", STAGE_VERSIONS["judge"], config, [])
    sealed = JudgementSet(
        fingerprint=name,
        config=config,
        parts=put_parts(store, f"{JudgementSet.folder}/{name}", files),
        counts={"golden": min(len(judging), evidence.max_queries), "training": len(training)},
    ).seal(store)
    return JudgedFeedback(
        judgements=sealed.fingerprint,
        n_searches=len(log.searches),
        n_events=len(log.events),
        n_uncounted=len(log.events) - len(known),
        eta=bias.eta,
        eta_choices=bias.n_choices,
        n_golden=sealed.counts["golden"],
        n_training=sealed.counts["training"],
        n_merged=n_merged,
    )


def last_judgements(store: Store) -> JudgementSet | None:
    """Return the judgements that were made last, None where there are none; damaged ones are passed over."""
    made = []
    for key in store.list(f"{JudgementSet.folder}/"):
        if key.endswith(f"/{MANIFEST}"):
            try:
                made.append(JudgementSet.open(store, Ref(kind="JudgementSet", key=key.removesuffix(f"/{MANIFEST}"))))
            except ShardCorrupt:  # `vitrine verify --all` finds it
                continue
    return max(made, key=lambda each: str(each.config["until"]), default=None)


def chosen_groups(store: Store) -> ChosenGroups:
    """Return which items shoppers chose for each other, from the questions that are to train on.

    A question about an item and its hits of grade `ALIKE_GRADE` or more are a group. An item belongs to the group of
    the question that was asked most often, so that groups do not grow together. Raises `BadConfig` without judgements.
    """
    judgements = last_judgements(store)
    if judgements is None:
        raise BadConfig(f"{store.url} does not say what shoppers chose; `vitrine feedback` judges what was recorded")
    part = judgements.part(TRAINING_FILE)
    lines = store.local_path(part.key, part.sha256).read_text(encoding="utf-8").splitlines()
    group_of: dict[str, str] = {}
    for row in csv.DictReader(lines):
        pairs = zip(row["expected"].split("|"), row["grades"].split("|"), strict=True)
        chosen = [item_id for item_id, given in pairs if int(given) >= ALIKE_GRADE and item_id not in group_of]
        if chosen and row["query"] not in group_of:
            group_of |= dict.fromkeys([row["query"], *chosen], row["query"])
    return ChosenGroups(pl.DataFrame(list(group_of.items()), CHOSEN_SCHEMA, orient="row"), part.sha256[:32])


def _csv(questions: Iterable[Judged], addresses: dict[str, str]) -> bytes:
    """Return questions as a file of golden queries; a picture is named by its address while it is kept."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in questions:
        expected, grades = "|".join(each.grades), "|".join(map(str, each.grades.values()))
        writer.writerow(
            (addresses.get(each.question, each.question), expected, grades, f"asked {each.n_searches} times")
        )
    return out.getvalue().encode()
