"""Earlier runs are read from their documents: the latest ones, no more, and none that is damaged."""

import json

from retrieval_core.evaluate.analysis.run_history import N_RUNS, n_held_in_a_row, past_runs
from retrieval_core.store.base import Store


def run(store: Store, day: int, gate: str = "published", **more) -> None:
    document = {
        "release": f"r{day}",
        "gate": gate,
        "metrics": {"recall@1": day / 100},
        "seconds": {"embed": 2.0},
    } | more
    store.put(f"runs/2026-11-{day:02}T031000.000+0000.json", json.dumps(document).encode())


def test_the_last_runs_are_read_in_their_order_and_no_more(local_store, monkeypatch):
    for month_day in range(1, 31):
        run(local_store, month_day)
    run(local_store, 31)
    read = []
    get = local_store.get
    monkeypatch.setattr(local_store, "get", lambda key: read.append(key) or get(key))
    runs = past_runs(local_store)
    assert len(runs) == len(read) == N_RUNS
    assert (runs[0].release, runs[-1].release) == ("r2", "r31")
    assert runs[-1].ended == "2026-11-31T03:10:00+00:00"
    assert runs[-1].metrics == {"recall@1": 0.31}


def test_a_run_measured_again_sees_only_the_runs_before_it(local_store):
    for day in (1, 2, 3):
        run(local_store, day)
    assert [run.release for run in past_runs(local_store, "2026-11-02T12:00:00+00:00")] == ["r1", "r2"]


def test_damaged_documents_and_other_files_are_skipped(local_store):
    run(local_store, 1)
    local_store.put("runs/2026-11-02T031000.000+0000.json", b"{")
    local_store.put("runs/2026-11-03T031000.000+0000.json", b'{"release": "r"}')
    local_store.put("runs/2026-11-04T031000.000+0000.json", b"[]")
    local_store.put("runs/going/now.json", b"{}")
    assert [run.release for run in past_runs(local_store)] == ["r1"]


def test_an_empty_store_has_no_runs(local_store):
    assert past_runs(local_store) == ()
    assert n_held_in_a_row(()) == 0


def test_held_runs_are_counted_back_to_the_last_published_one(local_store):
    for day, gate in enumerate(("held", "published", "held", "held"), start=1):
        run(local_store, day, gate)
    assert n_held_in_a_row(past_runs(local_store)) == 2
