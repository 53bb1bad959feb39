"""The history of an item: in which releases it was added, changed or removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import COMPARED_COLUMNS
from retrieval_core.artifacts.manifests import Catalog, Ref, Release, Value
from retrieval_core.artifacts.parts import read_rows
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.release_diff import column_words, value_text
from retrieval_core.item_ids.normal_form import with_normal_names
from retrieval_core.store.base import Store


class CatalogRow(Value):
    """An item as a catalogue holds it; what is read from its picture is None if that is in quarantine."""

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


class ItemEvent(Value):
    """A release in which an item was added, changed or removed; `detail` says what differs from the release before."""

    release: str
    created: str
    gate: str
    what: Literal["came", "changed", "left"]
    detail: str = ""


class History(Value):
    """The `events` in `n_releases`, the oldest first; `n_gone` of the releases have no catalogue any more."""

    events: tuple[ItemEvent, ...] = ()
    n_releases: int = 0
    n_gone: int = 0


class ItemHistory(NamedTuple):
    """An item's history, and its row in the last catalogue that holds it."""

    history: History
    last: CatalogRow | None


def find_row(store: Store, catalog: Ref, names: Sequence[str]) -> CatalogRow | None:
    """Return an item's row in a sealed catalogue, None if it has none; `names` are the `spellings` of its id.

    Raises `NotFound` if there is no such catalogue, `ShardCorrupt`.
    """
    columns = _find(store, catalog, names)
    return as_row(columns) if columns else None


def as_row(columns: dict[str, Any]) -> CatalogRow:
    """Return a row from a mapping of a catalogue's columns."""
    return CatalogRow(**{name: columns[name] for name in CatalogRow.model_fields})


def find_history(store: Store, names: Sequence[str]) -> ItemHistory:
    """Compare the rows of the item `names` in all sealed releases, the oldest first. Raises `ShardCorrupt`."""
    events: list[ItemEvent] = []
    before: dict[str, Any] | None = None
    last, n_gone, sealed = None, 0, releases.list_releases(store)
    for release in sealed:
        try:
            now = _find(store, release.catalog, names)
        except NotFound:  # a vacuum removed the catalogue
            n_gone += 1
            continue
        event = _event(release, before, now)
        events += [event] if event else []
        before, last = now, now or last
    history = History(events=tuple(events), n_releases=len(sealed), n_gone=n_gone)
    return ItemHistory(history, as_row(last) if last else None)


def _find(store: Store, catalog: Ref, names: Sequence[str]) -> dict[str, Any] | None:
    parts, is_item = Catalog.open(store, catalog).item_parts, pl.col("item_id").is_in(names)
    rows = with_normal_names(pl.concat([read_rows(store, part, is_item) for part in parts]))
    return min(rows.iter_rows(named=True), key=lambda row: names.index(row["item_id"]), default=None)


def _event(release: Release, before: dict[str, Any] | None, now: dict[str, Any] | None) -> ItemEvent | None:
    origin = {"release": release.fingerprint, "created": release.created, "gate": release.gate}
    if before is None:
        state = "in quarantine" if now and now["status"] != "ok" else ""
        return ItemEvent(**origin, what="came", detail=state) if now else None
    if now is None:
        return ItemEvent(**origin, what="left")
    differing = [name for name in COMPARED_COLUMNS if before[name] != now[name]]
    details = [
        f"{column_words(name)} {value_text(name, before[name])} → {value_text(name, now[name])}" for name in differing
    ]
    return ItemEvent(**origin, what="changed", detail="; ".join(details)) if details else None
