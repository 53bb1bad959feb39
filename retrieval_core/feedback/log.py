"""The log of what was asked, what was shown, and what shoppers chose of it: immutable parts under `feedback/`.

A row says nothing of a person: a search has its query id, its question and the items that it showed, an event its query
id, an item and what was done with it. Parts are named after the moment of writing and their own checksum; a picture of
a query after the day until which it is kept. So a backup and `vitrine verify --all` check them by their names, and a
vacuum knows from its name what to remove.

A day's parts are merged by `merge_parts`. A row that is in two parts, as after a merge that was killed, counts once.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import polars as pl

from retrieval_core.artifacts.growing_sets import made_of, named_sha256, parts_prefix, put_growing_part
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.store.base import Entry, Store
from retrieval_core.store.format import require_current

log = logging.getLogger(__name__)

FOLDER = "feedback"
PICTURES = "pictures"
KEPT_DAYS = 365.0  # searches and events, as the documents of runs
READ_THREADS = 8  # they wait for the network

Kind = Literal["searches", "events"]
Choice = Literal["click", "add_to_basket", "purchase", "not_what_i_meant"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

_MOMENT = pl.Datetime("us", "UTC")
_TEXTS = pl.List(pl.String)
SCHEMAS: dict[Kind, dict[str, pl.DataType]] = {
    "searches": {
        "query_id": pl.String(),
        "at": _MOMENT,
        "release": pl.String(),
        "item_ids": _TEXTS,
        "texts": _TEXTS,
        "n_pictures": pl.Int64(),
        "pictures": _TEXTS,
        "is_unlike": pl.Boolean(),
        "where": pl.String(),
        "n_before": pl.Int64(),
        "shown": _TEXTS,
    },
    "events": {
        "query_id": pl.String(),
        "at": _MOMENT,
        "item_id": pl.String(),
        "event": pl.String(),
        "position": pl.Int64(),
    },
}
_SAME: dict[Kind, list[str]] = {"searches": ["query_id"], "events": ["query_id", "item_id", "event"]}
_NAME_FORMAT, _DAY_FORMAT = "%Y%m%dT%H%M%S%f", "%Y%m%d"
_PART = re.compile(rf"{FOLDER}/\w+/parts/\d{{8}}[T\d]*-[0-9a-f]{{64}}\.(?:parquet|jpg)")


class Search(NamedTuple):
    """A search that was answered.

    `item_ids`, `texts` and `n_pictures` are what it was for, `pictures` the sha256 of the pictures that were kept;
    `is_unlike` says that it moved away from something, and `where` is its filter. `shown` are the items of its hits in
    their order, after the `n_before` hits of the pages before.
    """

    query_id: str
    at: datetime
    release: str
    item_ids: tuple[str, ...]
    texts: tuple[str, ...]
    n_pictures: int
    pictures: tuple[str, ...]
    is_unlike: bool
    where: str
    n_before: int
    shown: tuple[str, ...]


class Event(NamedTuple):
    """What a shopper did with a hit; `position`, from 1, is where the client says that it was shown."""

    query_id: str
    at: datetime
    item_id: str
    event: Choice
    position: int | None = None


class FeedbackLog(NamedTuple):
    """The rows of a time, with the columns of `SCHEMAS`: a search has one row, the same event of a search as well."""

    searches: pl.DataFrame
    events: pl.DataFrame


def put_searches(store: Store, searches: Sequence[Search]) -> None:
    """Append searches to the log as one part. Raises what `put_events` raises."""
    _put(store, "searches", pl.DataFrame(searches, SCHEMAS["searches"], orient="row"))


def put_events(store: Store, events: Sequence[Event]) -> None:
    """Append events to the log as one part.

    Raises `StoreUnavailable`, `StoreNotWritable`, and `TooNew` or `NeedsMigration` for a store of another format.
    """
    _put(store, "events", pl.DataFrame(events, SCHEMAS["events"], orient="row"))


def put_picture(store: Store, jpeg: bytes, days: float, now: datetime) -> str:
    """Keep the picture of a query for so many days, rounded up to whole ones, and return its sha256 (hex)."""
    require_current(store)
    sha256, until = hashlib.sha256(jpeg).hexdigest(), now + timedelta(days=days + 1)
    put_part(store, f"{parts_prefix(FOLDER, PICTURES)}{until:{_DAY_FORMAT}}-{sha256}.jpg", jpeg, 0)
    return sha256


def kept_pictures(store: Store) -> dict[str, str]:
    """Return the keys of the pictures of queries that are kept, by their sha256; of copies, the one kept longest."""
    return {named_sha256(key) or "": key for key in store.list(parts_prefix(FOLDER, PICTURES)) if _PART.fullmatch(key)}


def read_log(store: Store, since: datetime) -> FeedbackLog:
    """Return what was logged since then; a damaged part is left out with a warning."""
    return FeedbackLog(_read(store, "searches", since), _read(store, "events", since))


def merge_parts(store: Store, now: datetime) -> int:
    """Merge the parts of every day before today's into one of each kind; return how many there are less.

    The merged part is written before the others are deleted, and a damaged one stays. Raises what `put_events` raises.
    """
    n_merged = 0
    for kind in SCHEMAS:
        for day, keys in groupby(list(_keys(store, kind)), lambda key: made_of(key)[:8]):
            tables = _tables(store, kind, list(keys))
            if len(tables) > 1 and day < f"{now:{_DAY_FORMAT}}":
                merged = _put(store, kind, _joined(kind, tables.values()))
                for key in tables.keys() - {merged}:
                    store.delete(key)
                n_merged += len(tables) - 1
    return n_merged


def expired_parts(store: Store, now: datetime) -> list[Entry]:
    """Return the parts that a vacuum removes: pictures after their last day, and what is older than `KEPT_DAYS`."""
    oldest = f"{now - timedelta(days=KEPT_DAYS):{_NAME_FORMAT}}"
    today = f"{now:{_DAY_FORMAT}}"
    entries = (entry for entry in store.entries(f"{FOLDER}/") if _PART.fullmatch(entry.key))
    return [entry for entry in entries if made_of(entry.key) < (today if is_picture(entry.key) else oldest)]


def is_picture(key: str) -> bool:
    """Return whether an object is the picture of a query."""
    return key.startswith(parts_prefix(FOLDER, PICTURES))


def _put(store: Store, kind: Kind, table: pl.DataFrame) -> str:
    """Store a table as a part that is named after its first row, and return the key."""
    require_current(store)
    name = min(table["at"].to_list()).strftime(_NAME_FORMAT)
    return put_growing_part(store, FOLDER, kind, name, table_bytes(table), len(table)).key


def _read(store: Store, kind: Kind, since: datetime) -> pl.DataFrame:
    # A part is named after its first row, and a merged one holds a day.
    first = f"{since - timedelta(days=1):{_NAME_FORMAT}}"
    keys = [key for key in _keys(store, kind) if made_of(key) >= first]
    return _joined(kind, _tables(store, kind, keys).values()).filter(pl.col("at") >= since)


def _joined(kind: Kind, tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of parts in the order of time, each once."""
    rows = pl.concat([pl.DataFrame(schema=SCHEMAS[kind]), *tables])
    return rows.sort("at", *_SAME[kind]).unique(_SAME[kind], keep="first", maintain_order=True)


def _tables(store: Store, kind: Kind, keys: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the parts that can be read, by key."""

    def read(key: str) -> pl.DataFrame | None:
        try:
            return pl.read_parquet(store.local_path(key, named_sha256(key))).select(SCHEMAS[kind].keys())
        except NotFound:  # merged by another process meanwhile
            return None
        except (ShardCorrupt, pl.exceptions.PolarsError, OSError) as error:
            log.warning("%s is left out of the feedback: %s", key, error)
            return None

    with ThreadPoolExecutor(READ_THREADS) as pool:
        tables = zip(keys, pool.map(read, keys), strict=True)
        return {key: table for key, table in tables if table is not None}


def _keys(store: Store, kind: Kind) -> Iterator[str]:
    """Yield the keys of the parts of a kind, the oldest first."""
    return (key for key in store.list(parts_prefix(FOLDER, kind)) if _PART.fullmatch(key))
