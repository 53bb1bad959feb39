"""A queue of S3 notifications, on a server of its own."""

from __future__ import annotations

import threading
from typing import Any

from starlette.testclient import TestClient

from deployments.trigger_queue import Queue
from deployments.triggers import make_app
from tests.deployments.conftest import Prefect, notification, record, wrapped


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

    with TestClient(make_app("a-long-random-text", prefect.emit, window_s=0, queue=Watched(url, s3_endpoint))):
        assert done.wait(120)
    payloads = [event["payload"] for event in prefect.events if event["event"] == "catalog.updated"]
    assert {name for payload in payloads for name in payload["changed"]} == {"s3://shop/a.jpg"}
    assert {name for payload in payloads for name in payload["removed"]} == {"s3://shop/b.jpg"}
    assert [event["payload"]["excerpt"] for event in prefect.events if "refused" in event["event"]] == ["rubbish"]
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (left["ApproximateNumberOfMessages"], left["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")
