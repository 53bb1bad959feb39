"""The format of what a store holds: a number in `store.json`, which is written before the first sealed document.

A version reads its own format and older ones, and writes its own only. So a store never holds documents of two formats,
except while `vitrine migrate` rewrites it.
"""

from __future__ import annotations

import json

from retrieval_core.errors import NeedsMigration, NotFound, ShardCorrupt, TooNew
from retrieval_core.store.base import Store

FORMAT = 2
FIRST_FORMAT = 1  # its stores have no `store.json`
MARKER = "store.json"

# An unmarked store that holds one of these was written by the first format.
_SEALED_BY_FIRST_FORMAT = ("aliases/", "catalogs/", "backbones/", "releases/")


def read_format(store: Store) -> int | None:
    """Return the format of a store, None while nothing is sealed in it. Raises `ShardCorrupt` if it cannot be read."""
    try:
        data = store.get(MARKER)
    except NotFound:
        return FIRST_FORMAT if any(_holds_sealed(store, prefix) for prefix in _SEALED_BY_FIRST_FORMAT) else None
    try:
        number = json.loads(data)["format"]
        if type(number) is not int or number <= FIRST_FORMAT:
            raise ValueError(f"format {number!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ShardCorrupt(f"{store.url}/{MARKER} cannot be read ({error}); expected {_marker().decode()}") from error
    return number


def check_readable(store: Store) -> None:
    """Raise `TooNew` for a store of a newer format, `ShardCorrupt` for one whose format cannot be read."""
    number = read_format(store)
    if number is not None and number > FORMAT:
        raise TooNew(
            f"{store.url} has format {number}, this version of Vitrine reads up to {FORMAT}: update Vitrine; nothing "
            "was changed"
        )


def require_current(store: Store, mark: bool = True) -> None:
    """Refuse a store of another format, which must not be written to; `mark` an empty one with this version's format.

    Raises `TooNew`, `NeedsMigration` for an older format, and `ShardCorrupt` where the format cannot be read.
    """
    if store.has_current_format:
        return
    check_readable(store)
    number = read_format(store)
    if number is None and not mark:
        return
    if number is None:
        store.put_if_absent(MARKER, _marker())
        return require_current(store)
    if number < FORMAT:
        raise NeedsMigration(
            f"{store.url} has format {number}, this version of Vitrine writes {FORMAT}: `vitrine migrate` says what "
            "it would rewrite, `vitrine migrate --apply` does it; until then the store can only be read"
        )
    store.has_current_format = True


def mark_current(store: Store) -> None:
    """Say that everything in a store has this version's format now."""
    store.put(MARKER, _marker())


def _marker() -> bytes:
    return json.dumps({"format": FORMAT}).encode()


def _holds_sealed(store: Store, prefix: str) -> bool:
    return any(prefix == "aliases/" or key.endswith("/manifest.json") for key in store.list(prefix))
