"""Some of a catalogue's items: those a filter passes, a list names, or that came or changed between two dates.

The dates are those of the snapshots sealed in the store, in UTC. A snapshot is dated when it is first sealed, and one
that a vacuum removed dates nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import COMPARED_COLUMNS
from retrieval_core.artifacts.manifests import MANIFEST, Catalog, Ref, Value
from retrieval_core.artifacts.parts import read_table
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.filters import parse_where
from retrieval_core.ingest.change import MAX_LISTED
from retrieval_core.ingest.diff import diff_catalogs
from retrieval_core.store.base import Store

WHOLE = "catalog"  # the parent of a catalogue that holds a part of another, which is no snapshot of the source


class Choice(Value):
    """Which items to take: those that meet everything that is said here; what is left empty leaves none out.

    `since` and `until` are ISO dates or times, UTC where they name no zone; a date is its whole day.
    """

    where: str = ""
    item_ids: tuple[str, ...] = ()
    since: str = ""
    until: str = ""

    @property
    def takes_all(self) -> bool:
        return self == Choice()

    def period(self) -> Period:
        """From `since` until `until`. Raises `BadConfig` for what is no date, or a range that ends before it begins."""
        start = _moment("since", self.since, time.min) if self.since else None
        end = _moment("until", self.until, time.max) if self.until else None
        if start and end and end < start:
            raise BadConfig(f"until {self.until} is before since {self.since}; expected a later date, or none")
        return Period(start, end)

    def __str__(self) -> str:
        said = [f"where {self.where}"] * bool(self.where) + [f"{len(self.item_ids)} listed"] * bool(self.item_ids)
        dates = [f"{name} {value}" for name, value in (("since", self.since), ("until", self.until)) if value]
        return ", ".join(said + dates) or "all items"


class Period(NamedTuple):
    """Between two moments, both included; None is open."""

    since: datetime | None
    until: datetime | None


class Snapshots(NamedTuple):
    """The last snapshot before a period, if there was one, and those sealed within it, the oldest first."""

    before: str | None
    within: tuple[str, ...]


def snapshots_of(store: Store) -> dict[str, datetime]:
    """Fingerprint of every snapshot of the source that is sealed in a store, and when it was."""
    ending = f"/{MANIFEST}"
    keys = [key for key in store.list(f"{Catalog.folder}/") if key.endswith(ending)]
    sealed = [Catalog.open(store, Ref(kind=Catalog.__name__, key=key.removesuffix(ending))) for key in keys]
    return {one.fingerprint: _in_utc(datetime.fromisoformat(one.created)) for one in sealed if WHOLE not in one.parents}


def snapshots_within(sealed: Mapping[str, datetime], period: Period) -> Snapshots:
    """The snapshots of a period, given when each was sealed. Raises `NotFound` where there is none."""
    ordered = sorted(sealed, key=lambda name: (sealed[name], name))
    early = [name for name in ordered if period.since and sealed[name] < period.since]
    within = [name for name in ordered[len(early) :] if period.until is None or sealed[name] <= period.until]
    if not within:
        dates = f"they are of {sealed[ordered[0]]} to {sealed[ordered[-1]]}" if ordered else "there is none"
        raise NotFound(f"no snapshot of the catalogue was sealed {_between(period)}; {dates}")
    return Snapshots(early[-1] if early else None, tuple(within))


def items_moved(before: pl.DataFrame | None, within: Iterable[pl.DataFrame]) -> set[str]:
    """Ids of the items that any table of `within` has and `before` has not, or has otherwise (`COMPARED_COLUMNS`)."""
    moved: set[str] = set()
    for items in within:
        diff = diff_catalogs(before, items)
        moved |= {*diff.added_ids, *diff.changed_ids}
    return moved


def items_moved_in(store: Store, period: Period) -> set[str]:
    """Ids of the items that came or changed in the snapshots of a period, against the last one before it.

    Raises `NotFound` where no snapshot was sealed in it.
    """
    before, within = snapshots_within(snapshots_of(store), period)

    def read(name: str) -> pl.DataFrame:
        sealed = Catalog.open(store, Ref(kind=Catalog.__name__, key=f"{Catalog.folder}/{name}"))
        return read_table(store, sealed.part("items.parquet"), list(COMPARED_COLUMNS))

    return items_moved(read(before) if before else None, map(read, within))


def choose(items: pl.DataFrame, choice: Choice, moved: set[str] | None = None) -> pl.DataFrame:
    """The rows of a catalogue's items that are chosen, of those `moved` in the period asked for, None for all.

    Raises `BadConfig` for a filter that cannot be read, `NotFound` for a listed item that is not there, or where no
    item is left.
    """
    if absent := sorted(set(choice.item_ids).difference(items["item_id"])):
        examples = ", ".join(map(repr, absent[:MAX_LISTED]))
        raise NotFound(f"{len(absent)} of the items listed are not in the catalogue: {examples}")
    chosen = items.filter(parse_where(choice.where).mask(items)) if choice.where else items
    if choice.item_ids:
        chosen = _among(chosen, choice.item_ids)
    if moved is not None:
        chosen = _among(chosen, sorted(moved))
    if chosen.is_empty():
        raise NotFound(f"no item of the catalogue is chosen by: {choice}")
    return chosen


def _among(items: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    return items.filter(pl.col("item_id").is_in(list(ids)))


def _moment(name: str, text: str, of_day: time) -> datetime:
    """The moment a text names; `of_day` fills in what a date leaves open."""
    try:
        return datetime.combine(date.fromisoformat(text), of_day, UTC)
    except ValueError:
        pass
    try:
        return _in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise BadConfig(f"{name} is {text!r}; expected an ISO date or time, for example 2026-03-01") from error


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _between(period: Period) -> str:
    said = [f"since {period.since}"] * bool(period.since) + [f"until {period.until}"] * bool(period.until)
    return " ".join(said) or "yet"
