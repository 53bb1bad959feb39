"""An SQS queue that S3, or SNS for it, writes notifications to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from retrieval_core.errors import BadConfig, StoreUnavailable

WAIT_S = 20  # for a message; the longest that SQS allows
BATCH = 10  # the most that it hands out at once


class Message(NamedTuple):
    """`receipt` is what it is deleted by."""

    body: str
    receipt: str


class Queue:
    """The queue at `url`; who may read it, and in which region, is what boto3 finds. Raises `BadConfig`."""

    def __init__(self, url: str, endpoint_url: str | None = None) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        self.url = url
        try:
            self._client: Any = boto3.client("sqs", endpoint_url=endpoint_url)
        except (BotoCoreError, ValueError) as error:
            raise BadConfig(f"cannot read the queue {url}: {error}") from error

    def receive(self, wait_s: int = WAIT_S) -> list[Message]:
        """Up to ten messages, or none after `wait_s`. What is not deleted comes again. Raises `StoreUnavailable`."""
        answer = self._call("receive_message", MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait_s)
        return [Message(found["Body"], found["ReceiptHandle"]) for found in answer.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Take messages that were dealt with from the queue. Raises `StoreUnavailable`."""
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": message.receipt} for n, message in enumerate(messages)]
            self._call("delete_message_batch", Entries=entries)

    def _call(self, operation: str, **arguments: object) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._client, operation)(QueueUrl=self.url, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(f"the queue {self.url} does not answer: {error}") from error
        return answer
