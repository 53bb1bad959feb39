"""A weekly judgement: golden queries in the store, found by the next run, and whole in a backup."""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import MANIFEST
from retrieval_core.errors import BadConfig
from retrieval_core.feedback.grades import Evidence
from retrieval_core.feedback.judgements import (
    GOLDEN_FILE,
    TRAINING_FILE,
    chosen_groups,
    judge_feedback,
    last_judgements,
)
from retrieval_core.feedback.log import Event, Search, put_events, put_picture, put_searches
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.store.base import Store
from tests.core.damage import flip
from tests.core.feedback.drawn_log import NOW, days_ago, event, search
from tests.core.feedback.simulated_shoppers import choose, draw_catalogue, rank


def rows(store: Store, name: str) -> list[dict[str, str]]:
    judgements = last_judgements(store)
    assert judgements is not None
    return list(csv.DictReader(store.get(judgements.part(name).key).decode().splitlines()))


def test_questions_become_golden_queries_and_others_are_to_train_on(store: Store) -> None:
    rng = np.random.default_rng(0)
    catalogue = draw_catalogue(20, 15, rng)
    log = choose(catalogue, rank(catalogue, 0.7, rng), 60, 1.0, rng)
    put_searches(store, [Search(*row) for row in log.searches.rows()])
    put_events(store, [event("unknown", "x"), *(Event(*row) for row in log.events.rows())])
    judged = judge_feedback(store, Evidence(max_queries=4), NOW + timedelta(minutes=1))
    assert (judged.n_searches, judged.n_events, judged.n_uncounted) == (1200, len(log.events) + 1, 1)
    assert judged.n_golden == 4
    golden, training = rows(store, GOLDEN_FILE), rows(store, TRAINING_FILE)
    assert (len(golden), len(training)) == (judged.n_golden, judged.n_training)
    assert not {row["query"] for row in golden} & {row["query"] for row in training}
    for row in golden:
        assert len(row["expected"].split("|")) == len(row["grades"].split("|")) > 1
        assert row["note"] == "asked 60 times"
    assert verify_all(store).ok


def test_the_last_judgements_count_and_what_is_older_than_its_days_does_not(store: Store) -> None:
    assert last_judgements(store) is None
    names = [str(number) for number in range(20)]
    put_searches(store, [search(name, at=days_ago(100)) for name in names])
    put_events(store, [event(name, "b", at=days_ago(100)) for name in names])
    judge_feedback(store, Evidence(days=200), NOW - timedelta(days=1))
    first = last_judgements(store)
    assert first is not None
    assert sum(first.counts.values()) == 1
    last = judge_feedback(store, Evidence(days=90), NOW)
    assert (last.n_searches, last.n_golden, last.n_training) == (0, 0, 0)
    found = last_judgements(store)
    assert found is not None
    assert found.fingerprint == last.judgements
    flip(store, f"{found.key}/{MANIFEST}")
    assert last_judgements(store) == first


def test_a_picture_is_named_by_its_address_while_it_is_kept(store: Store) -> None:
    sha256 = put_picture(store, b"jpeg", 30, NOW)
    names = [str(number) for number in range(20)]
    put_searches(store, [search(name, item_ids=(), n_pictures=1, pictures=(sha256,)) for name in names])
    put_events(store, [event(name, "b") for name in names])
    judge_feedback(store, Evidence(), NOW + timedelta(minutes=1))
    (row,) = rows(store, GOLDEN_FILE) + rows(store, TRAINING_FILE)
    assert Path(row["query"]).read_bytes() == b"jpeg"


def test_items_that_shoppers_chose_for_each_other_are_groups_that_do_not_grow_together(store: Store) -> None:
    with pytest.raises(BadConfig, match="vitrine feedback"):
        chosen_groups(store)
    chosen = {f"q{number}": f"d{number // 2}" for number in range(40)}  # two questions choose the same item
    for query, item_id in chosen.items():
        names = [f"{query}/{number}" for number in range(20)]
        put_searches(store, [search(name, (item_id, "other"), item_ids=(query,)) for name in names])
        put_events(store, [event(name, item_id) for name in names])
    judged = judge_feedback(store, Evidence(), NOW + timedelta(minutes=1))
    groups = dict(chosen_groups(store).table.rows())
    trained = {row["query"]: row["expected"].split("|")[0] for row in rows(store, TRAINING_FILE)}
    assert judged.n_training == len(trained) > 5
    assert set(groups.values()) == {min(q for q, d in trained.items() if d == item_id) for item_id in trained.values()}
    assert all(groups[trained[query]] == query for query in set(groups.values()))
    assert "other" not in groups
