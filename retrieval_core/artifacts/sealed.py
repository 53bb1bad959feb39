"""Sealed documents: JSON that states its format and its own checksum, so that a single changed bit is noticed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieval_core.errors import ShardCorrupt, TooNew
from retrieval_core.store.format import FIRST_FORMAT, FORMAT

_HEAD = re.compile(rb'\{\s*"format": (\d+),\s*"sha256": "([0-9a-f]{64})"')
_NO_SHA256 = "0" * 64  # stands in the place of the checksum while that is computed


class Sealed(BaseModel):
    """Base of the documents that a store keeps; `sha256` (hex) is of the whole file, "" before it is sealed.

    Documents of the first format have no checksum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    sha256: str = ""

    def to_sealed(self) -> tuple[Self, bytes]:
        """Return the document with its checksum, and the file that holds it."""
        blank = self.model_copy(update={"format": FORMAT, "sha256": _NO_SHA256})
        data = blank.model_dump_json(indent=1).encode()
        sha256 = hashlib.sha256(data).hexdigest()
        return blank.model_copy(update={"sha256": sha256}), data.replace(_NO_SHA256.encode(), sha256.encode(), 1)

    @classmethod
    def from_sealed(cls, data: bytes, name: str) -> Self:
        """Return the document in a file called `name`.

        Raises `ShardCorrupt` for a damaged file, and `TooNew` for one that a newer version of Vitrine wrote, which
        shows in its format or in fields that this version does not know.
        """
        head = _HEAD.match(data)
        if head is not None and int(head[1]) > FORMAT:
            raise TooNew(f"{name} has format {int(head[1])}, this version of Vitrine reads up to {FORMAT}: update it")
        try:
            fields = json.loads(data) if head else _first_format(data)
            document = cls.model_validate(fields)
        except ValidationError as error:
            if (head is not None and _is_whole(data, head)) or cls._has_more_fields(error, fields):
                raise TooNew(
                    f"{name} was written by a newer version of Vitrine, update this one: {_first_error(error)}"
                ) from error
            raise ShardCorrupt(
                f"{name} cannot be read as {cls.__name__} ({_first_error(error)}); `vitrine repair`"
            ) from error
        except ValueError as error:
            raise ShardCorrupt(f"{name} cannot be read as {cls.__name__} ({error}); `vitrine repair`") from error
        if head is not None and not _is_whole(data, head):
            raise ShardCorrupt(f"{name} is not what was written: its checksum differs; `vitrine repair`")
        return document

    @classmethod
    def _has_more_fields(cls, error: ValidationError, fields: dict[str, object]) -> bool:
        """Return whether a document lacks none of the known fields and has others: damage would have changed a name."""
        return fields.keys() > cls.model_fields.keys() and all(e["type"] == "extra_forbidden" for e in error.errors())


def _first_format(data: bytes) -> dict[str, object]:
    """Return the fields of a document that has neither a format nor a checksum. Raises `ValueError`."""
    fields = json.loads(data)
    if not isinstance(fields, dict) or not fields.keys().isdisjoint(("format", "sha256")):
        raise ValueError("its head is damaged")
    return {**fields, "format": FIRST_FORMAT}


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _is_whole(data: bytes, head: re.Match[bytes]) -> bool:
    digest = hashlib.sha256(data[: head.start(2)])
    digest.update(_NO_SHA256.encode())
    digest.update(data[head.end(2) :])
    return digest.hexdigest().encode() == head[2]
