"""Events of the catalogue: a call or an S3 notification read as changes, split to fit into Prefect's events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

from pydantic import ConfigDict, Field, ValidationError

from deployments.shop import shop_name
from retrieval_core.artifacts.manifests import Value
from retrieval_core.config import first_line
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.change import Change
from retrieval_core.ingest.sources.tables.table import TABLE_SUFFIXES
from retrieval_core.picture_files.formats import SUFFIXES

UPDATED, REFUSED = "catalog.updated", "catalog.update.refused"
MAX_BODY_BYTES = 2**20
MAX_EVENT_BYTES = 2**18  # Prefect accepts runs with parameters of half a MiB
MAX_NAME_CHARS = 1_024  # as long as an S3 key may be
MAX_EXCERPT_CHARS = 500
MAX_SHOWN_CHARS = 40  # of a bad name, in a message
MAX_WRAPPERS = 3  # SQS around SNS around S3
CREATED, REMOVED = "ObjectCreated:", ("ObjectRemoved:", "LifecycleExpiration:")

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # half a character, or a NUL, which PostgreSQL cannot hold


class Payload(Value):
    """The body of a plain call; it must name something."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    manifest_uri: str = Field("", max_length=MAX_NAME_CHARS)


def read_changes(body: bytes | str) -> tuple[Change, ...]:
    """Read a plain payload or an S3 notification, alone or wrapped by SNS, as changes.

    A notification about something else than catalogue files (a test, a tag, a text file) gives no change. Raises
    `BadConfig` for every other message.
    """
    return _read_document(_parse(body), MAX_WRAPPERS)


def split_change(change: Change, max_bytes: int = MAX_EVENT_BYTES) -> Iterator[Change]:
    """Yield the change in pieces whose names take at most `max_bytes` as JSON, each with at least one name."""
    piece: dict[str, list[str]] = {}
    manifest_uri = change.manifest_uri
    size = len(json.dumps(manifest_uri))
    for kind in ("added", "changed", "removed"):
        for name in getattr(change, kind):
            n_bytes = len(json.dumps(name)) + 2
            if piece and size + n_bytes > max_bytes:
                yield Change(**piece, manifest_uri=manifest_uri)
                piece, size, manifest_uri = {}, 0, ""
            piece.setdefault(kind, []).append(name)
            size += n_bytes
    if piece or manifest_uri:
        yield Change(**piece, manifest_uri=manifest_uri)


def catalog_id(shop: str) -> str:
    """Return the id of the resource that a shop's events are about."""
    return f"{shop}.catalog"


def updated_event(change: Change) -> dict[str, Any]:
    """Return the event that starts a catalog-update of this process's shop."""
    return {"event": UPDATED, "resource": _catalog(), "payload": change.model_dump(mode="json")}


def refused_event(reason: str, body: bytes | str, sender: str) -> dict[str, Any]:
    """Return the event that reports a refused message: the reason, the sender, its size and its beginning."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    texts = {"reason": reason, "sender": sender, "excerpt": text[:MAX_EXCERPT_CHARS]}
    payload = {"size": len(body)} | {name: _UNSTORABLE.sub("\ufffd", value) for name, value in texts.items()}
    return {"event": REFUSED, "resource": _catalog(), "payload": payload}


def _catalog() -> dict[str, str]:
    return {"prefect.resource.id": catalog_id(shop_name()), "prefect.resource.name": "the catalogue"}


def _parse(body: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"the message is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadConfig(f"the message is a JSON {type(document).__name__}; expected an object")
    return document


def _read_document(document: dict[str, Any], n_wrappers: int) -> tuple[Change, ...]:
    if "Message" in document:
        if n_wrappers == 0:
            raise BadConfig(f"the message is wrapped more than {MAX_WRAPPERS} times")
        if document.get("Type") == "SubscriptionConfirmation":
            url = str(document.get("SubscribeURL"))[:MAX_NAME_CHARS]
            raise BadConfig(f"SNS asks to confirm a subscription; open {url} to do so")
        return _read_document(_parse(str(document["Message"])), n_wrappers - 1)
    if document.get("Event") == "s3:TestEvent":
        return ()
    if "Records" in document:
        return _read_records(document["Records"])
    return (_read_payload(document),)


def _read_payload(document: dict[str, Any]) -> Change:
    try:
        payload = Payload.model_validate(document)
    except ValidationError as error:
        raise BadConfig(first_line(error, "payload")) from error
    change = Change(**payload.model_dump())
    if change.is_empty:
        raise BadConfig("the payload names no item: give added, changed or removed ids, or a manifest_uri")
    for name in (*payload.added, *payload.changed, *payload.removed):
        _check_name(name)
    if change.manifest_uri:
        _check_name(change.manifest_uri)
    return change


def _check_name(name: str, max_chars: int = MAX_NAME_CHARS) -> None:
    if not 0 < len(name) <= max_chars or _UNSTORABLE.search(name):
        raise BadConfig(f"{name[:MAX_SHOWN_CHARS]!r} is no name; expected 1 to {max_chars:,} characters of text")


def _read_records(records: object) -> tuple[Change, ...]:
    """Return one change for each record that concerns the catalogue, in their order."""
    try:
        changes = [_read_record(record) for record in records]  # type: ignore[attr-defined]
    except (TypeError, KeyError, AttributeError) as error:
        raise BadConfig(
            f"a record of the S3 notification lacks {error}; expected eventName, s3.bucket.name and s3.object.key"
        ) from error
    return tuple(change for change in changes if not change.is_empty)


def _read_record(record: dict[str, Any]) -> Change:
    event = record["eventName"].removeprefix("s3:")
    key = unquote_plus(record["s3"]["object"]["key"])
    uri = f"s3://{record['s3']['bucket']['name']}/{key}"
    _check_name(uri, 2 * MAX_NAME_CHARS)
    if event.startswith(REMOVED) and key.lower().endswith(SUFFIXES):
        return Change(removed=(uri,))
    if event.startswith(CREATED) and key.lower().endswith(SUFFIXES):
        return Change(changed=(uri,))
    if event.startswith(CREATED) and key.lower().endswith(TABLE_SUFFIXES):
        return Change(manifest_uri=uri)
    return Change()
