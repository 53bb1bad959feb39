"""Parse labels and attributes as sources write them into one form."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypedDict

UUID_BYTES = 16
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")  # text has none; numbers in binary have many


class Attribute(TypedDict):
    """A property of an item that has one value, e.g. colour = red."""

    name: str
    value: str


def normalise_labels(labels: Iterable[str]) -> list[str]:
    """Return the labels trimmed, sorted and without duplicates or empty ones."""
    return sorted({label.strip() for label in labels} - {""})


def parse_labels(cell: str | None) -> list[str]:
    """Parse the labels in a table's cell: `coat|hat` or a JSON list of strings. Raises `ValueError` with the reason."""
    text = (cell or "").strip()
    if not text.startswith("["):
        return normalise_labels(text.split("|"))
    labels = _parse_json(text)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("expected a JSON list of strings")
    return normalise_labels(labels)


def parse_attributes(cell: str | None) -> list[Attribute]:
    """Parse the attributes in a table's cell, a JSON object of single values. Raises `ValueError` with the reason."""
    text = (cell or "").strip()
    values = _parse_json(text) if text else {}
    if not isinstance(values, dict):
        raise ValueError('expected a JSON object such as {"colour": "red"}')
    return attributes_of(values)


def attributes_of(values: dict[Any, Any]) -> list[Attribute]:
    """Return the attributes of a mapping from names to single values, sorted by name, without empty ones.

    Raises `ValueError` for a value that is a list or a mapping with anything in it.
    """
    texts: dict[str, str] = {}
    for name, value in values.items():
        if not isinstance(value, dict | list):
            texts[value_text(name)] = value_text(value)
        elif value:
            raise ValueError(f"attribute {name!r} has several values; several values are labels")
    return [Attribute(name=name, value=text) for name, text in sorted(texts.items()) if name and text]


def value_text(value: Any) -> str:
    """Return a single value as trimmed text: "" for None and NaN, `true` or `false` for a bool, 38 for 38.0.

    Bytes are UTF-8 text, which some writers do not mark, otherwise a UUID; raises `ValueError` for other bytes.
    """
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, bytes):
        return bytes_text([value])[0].strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    return (f"{value:f}" if isinstance(value, Decimal) else str(value)).strip()


def bytes_text(values: Sequence[bytes]) -> list[str]:
    """Return bytes as UTF-8 text, which some writers do not mark, or else as UUIDs if all have 16 bytes.

    Raises `ValueError` for other bytes.
    """
    with suppress(UnicodeDecodeError):
        texts = [value.decode() for value in values]
        if not any(map(CONTROL.search, texts)):
            return texts
    if any(len(value) != UUID_BYTES for value in values):
        raise ValueError("bytes that are neither UTF-8 text nor UUIDs")
    return [str(uuid.UUID(bytes=value)) for value in values]


def _parse_json(text: str) -> Any:
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair stands alone") from error
    return values
