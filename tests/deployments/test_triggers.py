"""What comes from outside becomes the right event, once; what cannot become one is seen."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.testclient import TestClient

from deployments.change_events import MAX_BODY_BYTES, MAX_EVENT_BYTES, read_changes, split_change
from deployments.trigger_queue import Queue
from deployments.trigger_server import make_app
from deployments.triggers import main
from retrieval_core.errors import BadConfig, StoreUnavailable
from retrieval_core.ingest.change import Change, merge_changes

TOKEN = "a-long-random-text"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def record(event: str, key: str, bucket: str = "shop") -> dict[str, Any]:
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}}


def notification(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


def wrapped(body: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": body})


class TestReading:
    def test_a_plain_payload(self) -> None:
        body = b'{"added": ["a"], "removed": ["b"], "manifest_uri": "s3://shop/changes.csv"}'
        assert read_changes(body) == (Change(added=("a",), removed=("b",), manifest_uri="s3://shop/changes.csv"),)

    def test_an_s3_notification_plain_or_wrapped(self) -> None:
        body = notification(
            record("ObjectCreated:Put", "photos/red+dress%2B1%C3%A9.JPG"),
            record("s3:ObjectRemoved:DeleteMarkerCreated", "photos/old.png"),
            record("ObjectCreated:CompleteMultipartUpload", "tables/changes.csv"),
            record("ObjectTagging:Put", "photos/tagged.png"),
            record("ObjectCreated:Put", "photos/_SUCCESS"),
            record("ObjectRemoved:Delete", "tables/changes.csv"),
        )
        expected = (
            Change(changed=("s3://shop/photos/red dress+1é.JPG",)),
            Change(removed=("s3://shop/photos/old.png",)),
            Change(manifest_uri="s3://shop/tables/changes.csv"),
        )
        assert read_changes(body) == expected
        assert read_changes(wrapped(body)) == expected
        assert read_changes('{"Service": "Amazon S3", "Event": "s3:TestEvent"}') == ()

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"added=a", "not JSON"),
            (b"\xff\xfe", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'["a"]', "JSON list"),
            (b"{}", "names no item"),
            (b'{"added": "a"}', "payload.added"),
            (b'{"added": [1]}', "payload.added.0"),
            (b'{"added": [""]}', "no name"),
            (b'{"added": ["\\ud800"]}', "no name"),
            (json.dumps({"added": ["a" * 2_000]}).encode(), "no name"),
            (b'{"ids": ["a"]}', "unknown config key payload.ids"),
            (b'{"Records": 3}', "lacks"),
            (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', "lacks 's3'"),
            (wrapped(wrapped(wrapped(wrapped("{}")))).encode(), "more than 3 times"),
            (
                b'{"Type": "SubscriptionConfirmation", "Message": "x", "SubscribeURL": "https://sns/?t=1"}',
                r"open https://sns/\?t=1",
            ),
        ],
    )
    def test_anything_else_is_refused_with_the_reason(self, body: bytes, message: str) -> None:
        with pytest.raises(BadConfig, match=message):
            read_changes(body)

    @given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
    def test_no_message_breaks_it(self, body: bytes | str) -> None:
        with contextlib.suppress(BadConfig):
            read_changes(body)


names = st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
changes = st.lists(
    st.builds(Change, added=names, changed=names, removed=names, manifest_uri=st.sampled_from(("", "m.csv", "n.csv"))),
    max_size=6,
)


class TestMerging:
    def test_the_last_word_counts(self) -> None:
        burst = [Change(added=("a", "b")), Change(removed=("a",)), Change(removed=("c",)), Change(added=("c",))]
        assert merge_changes(burst) == (Change(added=("b", "c"), removed=("a",)),)

    @given(changes)
    def test_every_name_is_kept_once_and_under_its_last_word(self, burst: list[Change]) -> None:
        last_word = {}
        for change in burst:
            for word in ("added", "changed", "removed"):
                for name in getattr(change, word):
                    last_word[name] = word
        merged = merge_changes(burst)
        said = [
            (name, word)
            for change in merged
            for word in ("added", "changed", "removed")
            for name in getattr(change, word)
        ]
        assert sorted(said) == sorted(last_word.items())
        assert {change.manifest_uri for change in merged} - {""} == {change.manifest_uri for change in burst} - {""}
        assert not any(change.is_empty for change in merged)

    @given(changes, changes)
    def test_in_two_steps_as_in_one(self, first: list[Change], second: list[Change]) -> None:
        assert merge_changes([*merge_changes(first), *merge_changes(second)]) == merge_changes([*first, *second])

    @given(changes, st.integers(1, 40))
    def test_pieces_are_small_and_together_the_whole(self, burst: list[Change], max_bytes: int) -> None:
        for change in merge_changes(burst):
            pieces = list(split_change(change, max_bytes))
            assert merge_changes(pieces) == (change,)
            for piece in pieces:
                n_names = len(piece.added) + len(piece.changed) + len(piece.removed)
                assert n_names <= 1 or len(json.dumps([*piece.added, *piece.changed, *piece.removed])) <= max_bytes + 2

    def test_a_hundred_thousand_names_fit_into_events(self) -> None:
        pieces = list(split_change(Change(added=tuple(f"stück-{n:06d}" for n in range(100_000)))))
        assert sum(len(piece.added) for piece in pieces) == 100_000
        assert max(len(json.dumps(piece.model_dump())) for piece in pieces) < MAX_EVENT_BYTES + 1_000


class Prefect:
    """Stands where Prefect's server would: keeps events, or refuses them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.is_down = False

    async def emit(self, events: Sequence[dict[str, Any]]) -> None:
        if self.is_down:
            raise StoreUnavailable("down")
        self.events += events


class TestServing:
    @pytest.fixture
    def prefect(self) -> Prefect:
        return Prefect()

    def test_a_call_with_the_token_becomes_the_event(self, prefect: Prefect) -> None:
        basic = {"Authorization": "Basic " + base64.b64encode(f"sns:{TOKEN}".encode()).decode()}
        with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
            for headers in (BEARER, basic):
                answer = client.post("/catalog", content='{"added": ["a"]}', headers=headers)
                assert (answer.status_code, answer.json()) == (200, {"changes": 1})
            assert client.get("/health").status_code == 200
        assert [event["event"] for event in prefect.events] == ["catalog.updated"] * 2
        payload = {"added": ["a"], "changed": [], "removed": [], "manifest_uri": ""}
        assert prefect.events[0]["payload"] == payload

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic !", "Bearer \xe9"]
    )
    def test_without_the_token_nothing_is_read(self, prefect: Prefect, header: str) -> None:
        with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
            answer = client.post("/catalog", content="{}", headers={"Authorization": header.encode("latin-1")})
        assert answer.status_code == 401
        assert prefect.events == []

    def test_without_a_token_or_a_server_it_does_not_start(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("VITRINE_TRIGGER_TOKEN", raising=False)
        for url, missing in ((None, "PREFECT_API_URL"), ("http://127.0.0.1:9/api", "VITRINE_TRIGGER_TOKEN")):
            with temporary_settings({PREFECT_API_URL: url}):
                assert main([]) == 2
            assert missing in capsys.readouterr().err

    def test_a_bad_payload_is_refused_and_seen(self, prefect: Prefect) -> None:
        with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
            answer = client.post("/catalog", content='{"addedd": ["a"]}', headers=BEARER)
            assert (answer.status_code, "addedd" in answer.json()["error"]) == (422, True)
            assert client.post("/catalog", content=b" " * (MAX_BODY_BYTES + 1), headers=BEARER).status_code == 413
        refused, large = prefect.events
        assert refused["event"] == "catalog.update.refused"
        assert refused["payload"]["excerpt"] == '{"addedd": ["a"]}'
        assert len(large["payload"]["excerpt"]) < 1_000

    def test_a_caller_is_told_when_prefect_does_not_answer(self, prefect: Prefect) -> None:
        prefect.is_down = True
        with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
            answer = client.post("/catalog", content='{"added": ["a"]}', headers=BEARER)
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            assert client.post("/catalog", content="no", headers=BEARER).status_code == 422
            prefect.is_down = False
            assert client.post("/catalog", content='{"added": ["a"]}', headers=BEARER).status_code == 200
        assert len(prefect.events) == 1

    def test_a_burst_is_one_event(self, prefect: Prefect, in_threads: Any) -> None:
        with TestClient(make_app(TOKEN, prefect.emit, window_s=1)) as client:
            bodies = [json.dumps({"added": [f"item-{n}"]}) for n in range(8)]
            answers = in_threads(8, lambda n: client.post("/catalog", content=bodies[n], headers=BEARER).status_code)
        assert answers == [200] * 8
        (event,) = prefect.events
        assert event["payload"]["added"] == [f"item-{n}" for n in range(8)]


def test_a_queue_is_read_until_it_is_empty_and_bad_messages_are_seen(s3_endpoint: str, aws_environment: None) -> None:
    import boto3

    client: Any = boto3.client("sqs", endpoint_url=s3_endpoint)
    url = client.create_queue(QueueName="catalog")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody=notification(record("ObjectCreated:Put", "a.jpg")))
    client.send_message(QueueUrl=url, MessageBody=wrapped(notification(record("ObjectRemoved:Delete", "b.jpg"))))
    client.send_message(QueueUrl=url, MessageBody="rubbish")
    prefect, done = Prefect(), threading.Event()

    class Watched(Queue):
        def receive(self, wait_s: int = 0) -> Any:
            messages = super().receive(wait_s)
            if not messages:
                done.set()
            return messages

    with TestClient(make_app(TOKEN, prefect.emit, window_s=0, queue=Watched(url, s3_endpoint))):
        assert done.wait(120)
    payloads = [event["payload"] for event in prefect.events if event["event"] == "catalog.updated"]
    assert {name for payload in payloads for name in payload["changed"]} == {"s3://shop/a.jpg"}
    assert {name for payload in payloads for name in payload["removed"]} == {"s3://shop/b.jpg"}
    assert [event["payload"]["excerpt"] for event in prefect.events if "refused" in event["event"]] == ["rubbish"]
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (left["ApproximateNumberOfMessages"], left["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")
