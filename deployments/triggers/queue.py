"""An SQS queue to which S3 writes notifications, directly or through SNS; a message stays until its update started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from deployments.triggers.change_events import read_changes, refused_event
from deployments.triggers.updates import Updates, start_updates
from retrieval_core.errors import BadConfig, StoreUnavailable, VitrineError
from retrieval_core.ingest.change import Change

RETRY_AFTER_S = 10
log = logging.getLogger("vitrine.triggers")

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


class Burst:
    """Collects changes for `window_s` after the first one, then starts as few updates as possible."""

    def __init__(self, updates: Updates, window_s: float) -> None:
        self._updates, self._window_s = updates, window_s
        self._changes: list[Change] = []
        self._sending: asyncio.Task[None] | None = None

    async def add(self, changes: Sequence[Change]) -> None:
        """Return when the updates have been started. Raises `StoreUnavailable` if they have not."""
        if not changes:
            return
        self._changes.extend(changes)
        if self._sending is None:
            self._sending = asyncio.create_task(self._start_after_window())
        await asyncio.shield(self._sending)  # the end of one message does not cancel the changes of others

    async def _start_after_window(self) -> None:
        await asyncio.sleep(self._window_s)
        changes, self._changes, self._sending = self._changes, [], None
        await start_updates(self._updates, changes, uuid4().hex)
        log.info("updates started for %d changes of the queue", len(changes))


async def poll(queue: Queue, updates: Updates, window_s: float) -> None:
    """Read the queue until cancelled; a message is deleted once its update has started, or its refusal is reported."""
    burst = Burst(updates, window_s)
    while True:
        try:
            await _read_batch(queue, burst, updates)
        except Exception as error:
            unexpected = None if isinstance(error, VitrineError) else error
            log.error("%s; trying again in %d s", error, RETRY_AFTER_S, exc_info=unexpected)
            await asyncio.sleep(RETRY_AFTER_S)


async def _read_batch(queue: Queue, burst: Burst, updates: Updates) -> None:
    messages = await asyncio.to_thread(queue.receive)
    results = await asyncio.gather(
        *(_forward(message, queue, burst, updates) for message in messages), return_exceptions=True
    )
    delivered = [message for message, result in zip(messages, results, strict=True) if result is None]
    await asyncio.to_thread(queue.delete, delivered)
    for result in results:
        if result is not None:
            raise result


async def _forward(message: Message, queue: Queue, burst: Burst, updates: Updates) -> None:
    """Start the update of a message, or report why it is refused."""
    try:
        await burst.add(read_changes(message.body))
    except StoreUnavailable:
        raise
    except Exception as error:  # a message that fails in any way must not block the others
        log.warning("refused a message of the queue: %s", error)
        await updates.report(refused_event(str(error), message.body, queue.url))
