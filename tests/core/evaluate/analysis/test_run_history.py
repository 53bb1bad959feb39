"""The nights before are read from the runs' documents: the latest ones, no more, and none that is damaged."""

import json

import pytest

from retrieval_core.evaluate.analysis.run_history import N_NIGHTS, n_held_in_a_row, past_nights
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path))


def run(store: Store, day: int, gate: str = "published", **more) -> None:
    document = {
        "release": f"r{day}",
        "gate": gate,
        "metrics": {"recall@1": day / 100},
        "seconds": {"embed": 2.0},
    } | more
    store.put(f"runs/2026-11-{day:02}T031000.000+0000.json", json.dumps(document).encode())


def test_the_last_nights_are_read_in_their_order_and_no_more(store, monkeypatch):
    for month_day in range(1, 31):
        run(store, month_day)
    run(store, 31)
    read = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda key: read.append(key) or get(key))
    nights = past_nights(store)
    assert len(nights) == len(read) == N_NIGHTS
    assert (nights[0].release, nights[-1].release) == ("r2", "r31")
    assert nights[-1].ended == "2026-11-31T03:10:00+00:00"
    assert nights[-1].metrics == {"recall@1": 0.31}


def test_a_night_measured_again_sees_only_those_before_it(store):
    for day in (1, 2, 3):
        run(store, day)
    assert [night.release for night in past_nights(store, "2026-11-02T12:00:00+00:00")] == ["r1", "r2"]


def test_damaged_documents_and_other_files_are_passed_over(store):
    run(store, 1)
    store.put("runs/2026-11-02T031000.000+0000.json", b"{")
    store.put("runs/2026-11-03T031000.000+0000.json", b'{"release": "r"}')
    store.put("runs/2026-11-04T031000.000+0000.json", b"[]")
    store.put("runs/going/now.json", b"{}")
    assert [night.release for night in past_nights(store)] == ["r1"]


def test_an_empty_store_has_no_nights(store):
    assert past_nights(store) == ()
    assert n_held_in_a_row(()) == 0


def test_held_nights_are_counted_back_to_the_last_published_one(store):
    for day, gate in enumerate(("held", "published", "held", "held"), start=1):
        run(store, day, gate)
    assert n_held_in_a_row(past_nights(store)) == 2
