"""The log of feedback: what is written is read once, survives merging and damage, and ends when it should."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import StoreUnavailable
from retrieval_core.feedback.log import (
    CHOICES,
    expired_parts,
    kept_pictures,
    merge_parts,
    put_events,
    put_picture,
    put_searches,
    read_log,
)
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.store.base import Store
from retrieval_core.store.local import LocalStore
from retrieval_core.store.uris import open_store
from tests.core.damage import flip
from tests.core.feedback.drawn_log import NOW, days_ago, event, search


def keys(store: Store) -> list[str]:
    return list(store.list("feedback/"))


def test_what_was_written_is_read_in_the_order_of_time(store: Store) -> None:
    late = search("2", ("x",), texts=("red",), item_ids=(), where="price < 3", n_before=10, pictures=("0" * 64,))
    put_searches(store, [late])
    put_searches(store, [search("1", at=days_ago(1))])
    put_searches(store, [search("0", at=days_ago(40))])
    put_events(store, [event("1", "b", at=days_ago(1)), event("2", "x", "purchase", position=11)])
    log = read_log(store, days_ago(30))
    assert log.searches.to_dicts()[1] == late._asdict() | {
        "item_ids": [], "texts": ["red"], "pictures": ["0" * 64], "shown": ["x"]
    }  # fmt: skip
    assert log.searches["shown"].to_list() == [["b", "c"], ["x"]]
    assert log.events.select("item_id", "event", "position").rows() == [("b", "click", None), ("x", "purchase", 11)]
    assert read_log(store, days_ago(100)).searches.height == 3


@settings(max_examples=20)
@given(
    events=st.lists(
        st.tuples(st.sampled_from("12"), st.sampled_from("bc"), st.sampled_from(CHOICES), st.integers(0, 3)),
        min_size=1,
        max_size=9,
    )
)
def test_the_same_event_of_a_search_counts_once_before_and_after_merging(
    events: list[tuple[str, str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    for name, item_id, kind, day in events:
        put_events(store, [event(name, item_id, kind, days_ago(day))])  # type: ignore[arg-type]
    before = read_log(store, days_ago(30)).events
    assert before.height == len({each[:3] for each in events})
    n_parts = len(keys(store))
    n_merged = merge_parts(store, NOW)
    assert len(keys(store)) == n_parts - n_merged
    days = [key.split("/")[-1][:8] for key in keys(store)]
    assert all(days.count(day) == 1 for day in days if day != "20261129"), "today's parts are left"
    assert read_log(store, days_ago(30)).events.equals(before)
    assert merge_parts(store, NOW) == 0


def test_a_merge_that_is_killed_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "123":
        put_searches(store, [search(name, at=days_ago(2))])
    before = read_log(store, days_ago(30)).searches

    def away(key: str) -> None:
        raise StoreUnavailable(key)

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", away)
        with pytest.raises(StoreUnavailable):
            merge_parts(store, NOW)
    assert len(keys(store)) == 4
    assert read_log(store, days_ago(30)).searches.equals(before)
    assert merge_parts(store, NOW) == 3
    assert read_log(store, days_ago(30)).searches.equals(before)


def test_a_damaged_part_is_left_out_found_by_verify_and_not_merged_away(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "123":
        put_searches(store, [search(name, at=days_ago(2))])
    damaged = keys(store)[0]
    flip(store, damaged)
    assert read_log(store, days_ago(30)).searches.height == 2
    assert damaged in caplog.text
    merge_parts(store, NOW)
    assert damaged in keys(store)
    assert [check.name for check in verify_all(store).checks if not check.ok] == ["objects", damaged]


def test_pictures_are_kept_until_their_day_and_rows_for_a_year(store: Store) -> None:
    sha256 = put_picture(store, b"jpeg", 2, NOW)
    assert put_picture(store, b"jpeg", 2, NOW) == sha256, "one copy a day"
    assert put_picture(store, b"jpeg", 5, NOW) == sha256
    put_searches(store, [search("1"), search("2", at=days_ago(3))])
    _, last, rows = keys(store)
    assert kept_pictures(store) == {sha256: last}
    assert [entry.key for entry in expired_parts(store, days_ago(-2))] == []
    assert {entry.key for entry in expired_parts(store, days_ago(-7))} == set(keys(store)) - {rows}
    assert rows in [entry.key for entry in expired_parts(store, days_ago(-400))]


def test_other_files_in_the_folder_are_no_parts(store: Store) -> None:
    assert isinstance(store, LocalStore)
    store.put("feedback/searches/parts/notes.txt", b"")
    store.put("feedback/notes", b"")
    assert read_log(store, days_ago(30)).searches.is_empty()
    assert (merge_parts(store, NOW), expired_parts(store, days_ago(-9999))) == (0, [])
