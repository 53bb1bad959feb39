"""What became of an item: what each release's catalogue says of it that the one before did not."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import COMPARED_COLUMNS, ITEMS_FILE
from retrieval_core.artifacts.manifests import Catalog, Ref, Release, Value
from retrieval_core.artifacts.parts import read_rows
from retrieval_core.errors import NotFound
from retrieval_core.store.base import Store

NAMES = {"content_id": "picture", "mask_id": "mask", "product_id": "product", "image_uri": "address"}
SHORT = 12  # digits of a content id


class Row(Value):
    """An item as a catalogue has it; what comes of its picture is None where that is in quarantine."""

    item_id: str
    image_uri: str
    product_id: str | None
    category: str | None
    split: str | None
    labels: tuple[str, ...]
    attributes: tuple[dict[str, str | None], ...]
    content_id: str | None
    size_bytes: int | None
    height: int | None
    width: int | None
    status: str


class Event(Value):
    """A release that says something new of an item; `detail` says what differs from the release before."""

    release: str
    created: str
    gate: str
    what: Literal["came", "changed", "left"]
    detail: str = ""


class History(Value):
    """`events`, the oldest first, of `n_releases`; the catalogues of `n_gone` of them are gone from the store."""

    events: tuple[Event, ...] = ()
    n_releases: int = 0
    n_gone: int = 0


class Lived(NamedTuple):
    """An item's history, and its row in the last catalogue that had it."""

    history: History
    last: Row | None


def find_row(store: Store, catalog: Ref, item_id: str) -> Row | None:
    """An item's row in a sealed catalogue, None where it has none. Raises `NotFound` without it, `ShardCorrupt`."""
    found = _find(store, catalog, item_id)
    return as_row(found) if found else None


def as_row(columns: dict[str, Any]) -> Row:
    """A row of a table with the columns of a catalogue."""
    return Row(**{name: columns[name] for name in Row.model_fields})


def find_history(store: Store, item_id: str) -> Lived:
    """Read the item's row off every sealed release, the oldest first. Raises `ShardCorrupt`."""
    events: list[Event] = []
    before: dict[str, Any] | None = None
    last, n_gone, known = None, 0, releases.list_releases(store)
    for release in known:
        try:
            now = _find(store, release.catalog, item_id)
        except NotFound:  # a vacuum took the catalogue
            n_gone += 1
            continue
        event = _event(release, before, now)
        events += [event] if event else []
        before, last = now, now or last
    history = History(events=tuple(events), n_releases=len(known), n_gone=n_gone)
    return Lived(history, as_row(last) if last else None)


def _find(store: Store, catalog: Ref, item_id: str) -> dict[str, Any] | None:
    part = Catalog.open(store, catalog).part(ITEMS_FILE)
    return next(read_rows(store, part, pl.col("item_id") == item_id).iter_rows(named=True), None)


def _event(release: Release, before: dict[str, Any] | None, now: dict[str, Any] | None) -> Event | None:
    said = {"release": release.fingerprint, "created": release.created, "gate": release.gate}
    if before is None:
        state = "in quarantine" if now and now["status"] != "ok" else ""
        return Event(**said, what="came", detail=state) if now else None
    if now is None:
        return Event(**said, what="left")
    differing = [name for name in COMPARED_COLUMNS if before[name] != now[name]]
    details = [f"{NAMES.get(name, name)} {_shown(name, before)} → {_shown(name, now)}" for name in differing]
    return Event(**said, what="changed", detail="; ".join(details)) if details else None


def _shown(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name in ("content_id", "mask_id"):
        value = value and value[:SHORT]
    elif name == "attributes":
        value = ", ".join(f"{one['name']} {one['value']}" for one in value or ())
    elif name == "labels":
        value = ", ".join(value or ())
    return str(value or "none")
