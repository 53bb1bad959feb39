"""Select items of a catalogue: by filter, by list, or by the dates between which they were added or changed.

The dates are those at which snapshots were first sealed in the store, in UTC. A snapshot that a vacuum removed is no
longer taken into account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import COMPARED_COLUMNS, field_table, read_items
from retrieval_core.artifacts.manifests import MANIFEST, Catalog, Ref, Value
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.filters import FIELD, parse_where
from retrieval_core.ingest.change import MAX_LISTED
from retrieval_core.ingest.diff import differing_items
from retrieval_core.item_ids.normal_form import Names
from retrieval_core.item_ids.suggestions import did_you_mean
from retrieval_core.store.base import Store

WHOLE_CATALOG = "catalog"  # the parent of a catalogue of selected items: the catalogue they were selected from


class ItemSelection(Value):
    """Which items to take: those that meet every condition given; an empty condition excludes nothing.

    `since` and `until` are ISO dates or times, in UTC unless they name a zone; a date means its whole day.
    """

    where: str = ""
    item_ids: Names = ()
    since: str = ""
    until: str = ""

    @property
    def selects_all(self) -> bool:
        return self == ItemSelection()

    def period(self) -> Period:
        """Return the period from `since` to `until`. Raises `BadConfig` for another text, or a reversed order."""
        start = _moment("since", self.since, time.min) if self.since else None
        end = _moment("until", self.until, time.max) if self.until else None
        if start and end and end < start:
            raise BadConfig(f"until {self.until} is before since {self.since}; expected a later date, or none")
        return Period(start, end)

    def __str__(self) -> str:
        conditions = [f"where {self.where}"] * bool(self.where)
        conditions += [f"{len(self.item_ids)} listed"] * bool(self.item_ids)
        conditions += [f"{name} {value}" for name, value in (("since", self.since), ("until", self.until)) if value]
        return ", ".join(conditions) or "all items"


class Period(NamedTuple):
    """The time between two moments, both included; None leaves that end open."""

    since: datetime | None
    until: datetime | None

    def __str__(self) -> str:
        ends = [f"since {self.since}"] * bool(self.since) + [f"until {self.until}"] * bool(self.until)
        return " ".join(ends) or "yet"


class PeriodSnapshots(NamedTuple):
    """Fingerprints of the last snapshot before a period, if any, and of those sealed within it, the oldest first."""

    before: str | None
    within: tuple[str, ...]


def sealed_snapshots(store: Store) -> dict[str, datetime]:
    """Return when each snapshot of the source was sealed, by fingerprint."""
    suffix = f"/{MANIFEST}"
    keys = [key for key in store.list(f"{Catalog.folder}/") if key.endswith(suffix)]
    catalogs = [Catalog.open(store, Ref(kind=Catalog.__name__, key=key.removesuffix(suffix))) for key in keys]
    return {
        catalog.fingerprint: _in_utc(datetime.fromisoformat(catalog.created))
        for catalog in catalogs
        if WHOLE_CATALOG not in catalog.parents
    }


def snapshots_within(sealed: Mapping[str, datetime], period: Period) -> PeriodSnapshots:
    """Return the snapshots of a period, given when each was sealed. Raises `NotFound` when there are none."""
    ordered = sorted(sealed, key=lambda name: (sealed[name], name))
    early = [name for name in ordered if period.since and sealed[name] < period.since]
    within = [name for name in ordered[len(early) :] if period.until is None or sealed[name] <= period.until]
    if not within:
        dates = f"they are of {sealed[ordered[0]]} to {sealed[ordered[-1]]}" if ordered else "there is none"
        raise NotFound(f"no snapshot of the catalogue was sealed {period}; {dates}")
    return PeriodSnapshots(early[-1] if early else None, tuple(within))


def items_changed(before: pl.DataFrame | None, within: Iterable[pl.DataFrame]) -> set[str]:
    """Return the ids of the items that a table of `within` added to `before` or changed (`COMPARED_COLUMNS`)."""
    changed: set[str] = set()
    for items in within:
        changed |= {*differing_items(before, items).filter(pl.col("fate") != "removed")["item_id"]}
    return changed


def items_changed_in(store: Store, period: Period) -> set[str]:
    """Return the ids of the items that the snapshots of a period added or changed since the last one before it.

    Raises `NotFound` when no snapshot was sealed in the period.
    """
    before, within = snapshots_within(sealed_snapshots(store), period)

    def read(name: str) -> pl.DataFrame:
        sealed = Catalog.open(store, Ref(kind=Catalog.__name__, key=f"{Catalog.folder}/{name}"))
        return read_items(store, sealed, list(COMPARED_COLUMNS))

    return items_changed(read(before) if before else None, map(read, within))


def select_items(items: pl.DataFrame, selection: ItemSelection, changed: set[str] | None = None) -> pl.DataFrame:
    """Return the selected rows of a catalogue's items; `changed` are the ids changed in its period, None for all.

    Raises `BadConfig` for a filter that cannot be parsed, `NotFound` for a listed item that the catalogue lacks, or
    when no item is left.
    """
    if absent := sorted(set(selection.item_ids).difference(items["item_id"])):
        examples = ", ".join(map(repr, absent[:MAX_LISTED]))
        hint = did_you_mean(absent[0], items["item_id"])
        raise NotFound(f"{len(absent)} of the items listed are not in the catalogue: {examples}{hint}")
    selected = items.filter(_matches(items, selection.where)) if selection.where else items
    if selection.item_ids:
        selected = _among(selected, selection.item_ids)
    if changed is not None:
        selected = _among(selected, sorted(changed))
    if selected.is_empty():
        raise NotFound(f"no item of the catalogue is chosen by: {selection}")
    return selected


def _matches(items: pl.DataFrame, where: str) -> pl.Series:
    values = field_table(items)
    names = [name.removeprefix(FIELD) for name in values.columns if name.startswith(FIELD)]
    return parse_where(where).mask(items.join(values, on="row_id", how="left", maintain_order="left"), names)


def _among(items: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    return items.filter(pl.col("item_id").is_in(list(ids)))


def _moment(name: str, text: str, time_of_day: time) -> datetime:
    """Parse an ISO date or time; a date gets the `time_of_day`."""
    try:
        return datetime.combine(date.fromisoformat(text), time_of_day, UTC)
    except ValueError:
        pass
    try:
        return _in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise BadConfig(f"{name} is {text!r}; expected an ISO date or time, for example 2026-03-01") from error


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
