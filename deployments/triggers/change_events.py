"""Events of the catalogue: a call or an S3 notification read as changes, split to fit into Prefect's events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

from deployments.shop import shop_name
from retrieval_core.config.text import nearest
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

_LISTS, _TABLE = ("added", "changed", "removed"), "manifest_uri"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # half a character, or a NUL, which PostgreSQL cannot hold


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
    except RecursionError as error:
        raise BadConfig("the message is not JSON: it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise BadConfig("the message is not JSON: it is not in UTF-8") from error
    except ValueError as error:
        raise BadConfig(f"the message is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadConfig(f"the message is {_kind(document)}; expected an object")
    return document


def _read_document(document: dict[str, Any], n_wrappers: int) -> tuple[Change, ...]:
    if "Message" in document:
        if n_wrappers == 0:
            raise BadConfig(f"the message is wrapped more than {MAX_WRAPPERS} times")
        if document.get("Type") == "SubscriptionConfirmation":
            url = str(document.get("SubscribeURL"))[:MAX_NAME_CHARS]
            raise BadConfig(f"SNS asks to confirm a subscription; open {url} to do so")
        return _read_document(_parse(_text_at(document, "the message", "Message")), n_wrappers - 1)
    if document.get("Event") == "s3:TestEvent":
        return ()
    if "Records" in document:
        return _read_records(document["Records"])
    return (_read_payload(document),)


def _read_payload(document: dict[str, Any]) -> Change:
    for field in sorted(document.keys() - {*_LISTS, _TABLE}):
        raise BadConfig(f"{_shown(field)} is not known{nearest(field, [*_LISTS, _TABLE])}")
    for field in _LISTS:
        names = document.get(field, [])
        if not isinstance(names, list):
            raise BadConfig(f"{field} is {_kind(names)}; expected a list of names")
        for position, name in enumerate(names):
            _check_name(name, f"{field}[{position}]")
    if document.get(_TABLE, "") != "":
        _check_name(document[_TABLE], _TABLE)
    change = Change(**document)
    if change.is_empty:
        raise BadConfig(f"it names no item; expected names in {', '.join(_LISTS)}, or a {_TABLE}")
    return change


def _check_name(name: object, where: str, max_chars: int = MAX_NAME_CHARS) -> None:
    """Raise `BadConfig` unless the name, which stands at `where` in the message, can be that of an item."""
    if not isinstance(name, str):
        raise BadConfig(f"{where} is {_kind(name)}; expected text")
    if not 0 < len(name) <= max_chars or _UNSTORABLE.search(name):
        raise BadConfig(f"{where} is {_shown(name)}; expected 1 to {max_chars:,} characters of text")


def _shown(text: str) -> str:
    return repr(text[:MAX_SHOWN_CHARS] + "…" * (len(text) > MAX_SHOWN_CHARS))


def _kind(value: object) -> str:
    """Return what a value is called in JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {type(None): "null", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _read_records(records: object) -> tuple[Change, ...]:
    """Return one change for each record that concerns the catalogue, in their order."""
    if not isinstance(records, list):
        raise BadConfig(f"Records is {_kind(records)}; expected a list")
    changes = [_read_record(record, f"Records[{position}]") for position, record in enumerate(records)]
    return tuple(change for change in changes if not change.is_empty)


def _read_record(record: object, where: str) -> Change:
    event = _text_at(record, where, "eventName").removeprefix("s3:")
    bucket, key = _text_at(record, where, "s3", "bucket", "name"), _text_at(record, where, "s3", "object", "key")
    uri = f"s3://{bucket}/{unquote_plus(key)}"
    _check_name(uri, f"{where}, its bucket and key,", 2 * MAX_NAME_CHARS)
    if event.startswith(REMOVED) and uri.lower().endswith(SUFFIXES):
        return Change(removed=(uri,))
    if event.startswith(CREATED) and uri.lower().endswith(SUFFIXES):
        return Change(changed=(uri,))
    if event.startswith(CREATED) and uri.lower().endswith(TABLE_SUFFIXES):
        return Change(manifest_uri=uri)
    return Change()


def _text_at(value: object, where: str, *path: str) -> str:
    """Return the text at a path of keys below `value`. Raises `BadConfig` if there is none."""
    for key in path:
        if not isinstance(value, dict):
            raise BadConfig(f"{where} is {_kind(value)}; expected an object with {key}")
        if key not in value:
            raise BadConfig(f"{where} lacks {key}")
        value, where = value[key], f"{where}.{key}"
    if not isinstance(value, str):
        raise BadConfig(f"{where} is {_kind(value)}; expected text")
    return value
