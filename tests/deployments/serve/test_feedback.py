"""Searches and events reach the store: at the end of the service, in time, and once the store answers again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from deployments.serve import feedback as feedback_module
from deployments.serve.api.answers import SearchAnswer
from deployments.serve.api.problems import Refused, TooBusy
from deployments.serve.api.requests import SearchRequest, Unlike
from deployments.serve.feedback import Recorder
from deployments.serve.metrics import Measurements
from retrieval_core.errors import StoreNotWritable, StoreUnavailable
from retrieval_core.feedback.log import Event, FeedbackLog, kept_pictures, read_log
from retrieval_core.images import decode
from retrieval_core.search.hits import Hit
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.faults.servers import until

A_WEEK_AGO = datetime.now(UTC) - timedelta(days=7)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def recorder(store: Store) -> Iterator[Callable[..., Recorder]]:
    """`recorder()` is a new one, closed at the end of the test."""
    made: list[Recorder] = []

    def new(**options: Any) -> Recorder:
        made.append(Recorder(store, Measurements(CollectorRegistry()), **options))
        return made[-1]

    yield new
    for each in made:
        each.close()


def hit(item_id: str) -> Hit:
    fields: dict[str, Any] = {"product_id": None, "category": None, "labels": [], "fields": {}}
    return Hit(item_id=item_id, score=1.0, confidence=None, image_uri="", **fields)


def answer(query_id: str, *item_ids: str) -> SearchAnswer:
    return SearchAnswer(query_id=query_id, release="r1", hits=[hit(item_id) for item_id in item_ids])


def add(recorder: Recorder, name: str = "1", n_before: int = 0, files: tuple[bytes, ...] = (), **asked: Any) -> None:
    recorder.add_search(SearchRequest(**asked), answer(name, "b", "c"), "price < 3", n_before, files)


def click(name: str = "1", item_id: str = "b") -> Event:
    return Event(name, datetime.now(UTC), item_id, "click")


def recorded(store: Store) -> FeedbackLog:
    return read_log(store, A_WEEK_AGO)


def test_all_that_waits_is_written_when_the_service_ends(store: Store, recorder: Callable[..., Recorder]) -> None:
    recording = recorder()
    add(recording, item_ids=("a",), texts=("red",), unlike=Unlike(texts=("blue",)), n_before=10)
    recording.add_events([click(), click(item_id="c")])
    assert recorded(store).searches.is_empty(), "it waits for more"
    recording.close()
    (row,) = recorded(store).searches.drop("at").to_dicts()
    assert row == {
        "query_id": "1", "release": "r1", "item_ids": ["a"], "texts": ["red"], "n_pictures": 0, "pictures": [],
        "is_unlike": True, "where": "price < 3", "n_before": 10, "shown": ["b", "c"],
    }  # fmt: skip
    assert recorded(store).events["item_id"].to_list() == ["b", "c"]


def test_a_part_is_written_in_time_and_sooner_where_much_waits(
    store: Store, recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(feedback_module, "FLUSH_S", 0.05)
        recording = recorder()
        recording.add_events([click()])
        until(lambda: len(recorded(store).events) == 1, "the first part")
    monkeypatch.setattr(feedback_module, "FLUSH_S", 600.0)
    monkeypatch.setattr(feedback_module, "FLUSH_ROWS", 3)
    patient = recorder()
    for name in "345":
        patient.add_events([click(name)])
    until(lambda: len(recorded(store).events) == 4, "the part of three rows")


def test_what_a_store_without_an_answer_did_not_take_is_written_later_and_once(
    store: Store, recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "FLUSH_S", 0.02)
    monkeypatch.setattr(feedback_module, "RETRY_S", 0.02)
    tried: list[int] = []

    def away(*_: object) -> None:
        tried.append(1)
        raise StoreUnavailable("no answer")

    recording = recorder()
    with monkeypatch.context() as patched:
        patched.setattr(feedback_module, "put_events", away)
        recording.add_events([click("1")])
        until(lambda: len(tried) > 2, "some tries")
        recording.add_events([click("2")])
        add(recording, "3")
    until(lambda: len(recorded(store).events) == 2, "the store's answer")
    recording.close()
    assert recorded(store).searches["query_id"].to_list() == ["3"]
    assert len(recorded(store).events) == 2


def test_a_store_that_takes_nothing_stops_the_recording_and_not_the_searches(
    store: Store, recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object) -> None:
        raise StoreNotWritable("read only")

    monkeypatch.setattr(feedback_module, "put_searches", read_only)
    monkeypatch.setattr(feedback_module, "FLUSH_S", 0.02)
    recording = recorder()
    add(recording)
    until(lambda: "no longer recorded: read only" in caplog.text, "the first write")
    add(recording)
    with pytest.raises(Refused, match="cannot be recorded") as refused:
        recording.add_events([click()])
    assert refused.value.status == 503


def test_more_than_may_wait_is_refused_or_left_out(
    store: Store, recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "MAX_ROWS", 2)
    recording = recorder()
    for name in "123":
        add(recording, name)
    with pytest.raises(TooBusy):
        recording.add_events([click()] * 3)
    recording.close()
    assert recorded(store).searches["query_id"].to_list() == ["1", "2"]


def photo() -> bytes:
    """A picture of 1200 px that says where it was taken."""
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 14.0)}
    out = io.BytesIO()
    Image.new("RGB", (1200, 900), (200, 30, 30)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_pictures_are_kept_only_where_asked_for_small_and_without_what_cameras_add(
    store: Store, recorder: Callable[..., Recorder]
) -> None:
    assert b"Exif" in photo()
    for days, name in ((0, "1"), (3, "2")):
        recording = recorder(picture_days=days)
        add(recording, name, files=(photo(), b"no picture"), images=(photo(), b"no picture"))
        recording.close()
    pictures = kept_pictures(store)
    assert recorded(store).searches["pictures"].to_list() == [[], list(pictures)]
    assert recorded(store).searches["n_pictures"].to_list() == [2, 2]
    (key,) = pictures.values()
    assert decode(store.get(key)).shape == (480, 640, 3)
    assert b"Exif" not in store.get(key)


def test_pictures_that_wait_take_bounded_memory(
    store: Store, recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "MAX_PICTURES_BYTES", len(photo()))
    recording = recorder(picture_days=1)
    for name in "12":
        add(recording, name, files=(photo(),))
    recording.close()
    assert [len(names) for names in recorded(store).searches["pictures"].to_list()] == [1, 0]
