"""A queue of S3 notifications, on a server of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.triggers import queue as trigger_queue
from deployments.triggers.queue import Message, Queue
from deployments.triggers.server import make_app
from deployments.triggers.spool import Spool
from deployments.triggers.updates import Updates
from retrieval_core.errors import StoreUnavailable
from retrieval_core.ingest.change import Change
from tests.deployments.conftest import Prefect, notification, record, wrapped


def reading(folder: Path, updates: Updates, queue: Any) -> TestClient:
    return TestClient(make_app("a-long-random-text", Spool(folder), updates, 0.0, queue))


def test_a_queue_is_read_until_it_is_empty_and_bad_messages_are_seen(
    s3_endpoint: str, aws_environment: None, tmp_path: Path
) -> None:
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

    with reading(tmp_path, prefect, Watched(url, s3_endpoint)):
        assert done.wait(120)
    assert {name for update in prefect.updates.values() for name in update.changed} == {"s3://shop/a.jpg"}
    assert {name for update in prefect.updates.values() for name in update.removed} == {"s3://shop/b.jpg"}
    assert [event["payload"]["excerpt"] for event in prefect.events] == ["rubbish"]
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (left["ApproximateNumberOfMessages"], left["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")


POISON = {
    "half a character in a key": notification(record("ObjectCreated:Put", "\ud800.jpg")),
    "half a character, escaped": notification(record("ObjectCreated:Put", "%ED%A0%80\udfff.jpg")),
    "half a character in a bucket": notification(record("ObjectRemoved:Delete", "a.jpg", bucket="\udc80")),
    "half a character in a table": json.dumps({"manifest_uri": "s3://shop/\ud800.csv"}),
    "half a character in plain text": "rubbish \ud800",
    "NUL": notification(record("ObjectCreated:Put", "\0.jpg")),
    "no record": json.dumps({"Records": [None]}),
    "a number for a key": json.dumps({"Records": [{"eventName": 3, "s3": {"object": {"key": 3}}}]}),
    "deep": "[" * 100_000,
}


class Strict(Prefect):
    """Refuses what cannot be sent, as a client of Prefect does."""

    async def start(self, change: Change, key: str) -> None:
        try:
            json.dumps(change.model_dump(), ensure_ascii=False).encode()
        except UnicodeError as error:
            raise StoreUnavailable("not sent") from error
        await super().start(change, key)


@pytest.mark.parametrize("poison", POISON.values(), ids=list(POISON))
def test_a_poison_message_is_set_aside_and_the_others_of_its_batch_arrive(poison: str, tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(9)]
    bodies = [*(notification(record("ObjectCreated:Put", name)) for name in names[:4]), poison]
    bodies += [notification(record("ObjectCreated:Put", name)) for name in names[4:]]
    messages = [Message(body, str(n)) for n, body in enumerate(bodies)]
    done = threading.Event()

    class Batch:
        url = "queue"

        def receive(self) -> list[Message]:
            if not messages:
                done.wait(20)
            return list(messages)

        def delete(self, deleted: Sequence[Message]) -> None:
            for message in deleted:
                messages.remove(message)
            done.set()

    prefect = Strict()
    with reading(tmp_path, prefect, Batch()):
        assert done.wait(20)
    assert messages == []
    assert {uri for update in prefect.updates.values() for uri in update.changed} == {f"s3://shop/{n}" for n in names}
    (refusal,) = prefect.events
    assert refusal["payload"]["reason"]


def test_a_message_stays_until_it_is_delivered_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trigger_queue, "RETRY_AFTER_S", 0.01)
    messages = [Message(notification(record("ObjectCreated:Put", "a.jpg")), "0")]
    prefect, done = Prefect(), threading.Event()
    prefect.is_down = True

    class Shaky:
        url, n_calls = "queue", 0

        def receive(self) -> list[Message]:
            self.n_calls += 1
            if self.n_calls == 1:
                raise RuntimeError("an error of no known kind")
            prefect.is_down = self.n_calls == 2
            if not messages:
                done.wait(20)
            return list(messages)

        def delete(self, deleted: Sequence[Message]) -> None:
            for message in deleted:
                messages.remove(message)
            if not messages:
                done.set()

    with reading(tmp_path, prefect, Shaky()):
        assert done.wait(20)
    assert [update.changed for update in prefect.updates.values()] == [("s3://shop/a.jpg",)]
