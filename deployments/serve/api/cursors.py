"""Cursors: what a client sends back to get the next page of the same search in the same release.

A cursor holds the rows that were on the pages before. So no page repeats an item, also where a deeper search of an
approximate index finds what a shallower one had missed, and a cursor gives the same page whenever it is sent.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from deployments.serve.api.problems import Refused
from deployments.serve.api.requests import SearchRequest

MAX_SEEN = 1_000  # hits that can be paged through
PER_PAGE = {"k", "cursor", "facets", "fields", "images", "unlike"}  # may change between pages, or are hashed as bytes
_HEAD = struct.Struct("<QB")  # the search and the length of the release's name


class Cursor(NamedTuple):
    """Where a page begins: after these rows of a release."""

    release: str
    seen: tuple[int, ...] = ()


def write_cursor(request: SearchRequest, cursor: Cursor) -> str | None:
    """Return the cursor of a search as text, None where no further page may be asked for."""
    if len(cursor.seen) > MAX_SEEN:
        return None
    name = cursor.release.encode()
    data = _HEAD.pack(_digest(request), len(name)) + name + np.array(cursor.seen, "<i8").tobytes()
    return base64.urlsafe_b64encode(data).decode()


def read_cursor(request: SearchRequest) -> Cursor:
    """Return the cursor of a request. Raises `Refused` where it is damaged or that of another search."""
    try:
        data = base64.b64decode(request.cursor, altchars=b"-_", validate=True)
        digest, length = _HEAD.unpack_from(data)
        name, rows = data[_HEAD.size :][:length], data[_HEAD.size + length :]
        cursor = Cursor(name.decode("ascii"), tuple(np.frombuffer(rows, "<i8").tolist()))
    except (binascii.Error, struct.error, ValueError) as error:
        raise Refused(400, "cursor: it is damaged; send next_cursor as it was received") from error
    if digest != _digest(request):
        raise Refused(400, "cursor: it belongs to another search; send it with the parameters of the page before")
    return cursor


def _digest(request: SearchRequest) -> int:
    digest = xxhash.xxh3_64(request.model_dump_json(exclude=PER_PAGE).encode())
    _add(digest, request.images)
    _add(digest, [text.encode() for text in (*request.unlike.texts, *request.unlike.image_urls)])
    _add(digest, request.unlike.images)
    return digest.intdigest()


def _add(digest: xxhash.xxh3_64, values: Sequence[bytes]) -> None:
    for value in values:
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)
    digest.update(b"end of values")
