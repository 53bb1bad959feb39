"""An SQS queue to which S3 writes notifications, directly or through SNS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from retrieval_core.errors import BadConfig, StoreUnavailable

WAIT_S = 20  # for a message; SQS allows no longer
BATCH = 10  # messages at once; SQS gives no more


class Message(NamedTuple):
    """A message, and the receipt by which it is deleted."""

    body: str
    receipt: str


class Queue:
    """The queue at `url`, with the credentials and the region that boto3 finds. Raises `BadConfig` without a region."""

    def __init__(self, url: str, endpoint_url: str | None = None) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        self.url = url
        try:
            self._client: Any = boto3.client("sqs", endpoint_url=endpoint_url)
        except (BotoCoreError, ValueError) as error:
            raise BadConfig(f"cannot read the queue {url}: {error}") from error

    def receive(self, wait_s: int = WAIT_S) -> list[Message]:
        """Return up to ten messages, or none after `wait_s`; those that are not deleted are received again.

        Raises `StoreUnavailable`.
        """
        response = self._call("receive_message", MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait_s)
        return [Message(message["Body"], message["ReceiptHandle"]) for message in response.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages that were dealt with. Raises `StoreUnavailable`."""
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": message.receipt} for n, message in enumerate(messages)]
            self._call("delete_message_batch", Entries=entries)

    def _call(self, operation: str, **arguments: object) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            response: dict[str, Any] = getattr(self._client, operation)(QueueUrl=self.url, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(f"the queue {self.url} does not answer: {error}") from error
        return response
