"""A change of the catalogue that somebody tells of: which items of a source it names."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.table import parse_table
from retrieval_core.store.uris import read_uri

TABLE_SUFFIXES = (".csv", ".parquet", ".pq")
MAX_LISTED = 5  # of the names in a message

_NAMES = ("item_id", "image_uri", "mask_uri")


class Change(Value):
    """The payload of the event `catalog.updated`: names of items, and a table that names more of them.

    A name is an item_id, or the URI of a picture or a mask. What became of an item is read from the source; the three
    lists say what to expect of it, so that an added item the source lacks is told from a removed one.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    manifest_uri: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed or self.manifest_uri)


class Named(Value):
    """The items a change is about, and the names that neither the source nor the last snapshot knows; both ordered."""

    item_ids: tuple[str, ...]
    unknown: tuple[str, ...]


def merge_changes(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The changes of a burst as one, and one more for each further manifest; of an item the last word counts.

    Within one change removed comes last. One that says nothing makes no change; names are ordered.
    """
    last_word: dict[str, str] = {}
    manifests: dict[str, None] = {}
    for change in changes:
        for word in ("added", "changed", "removed"):
            last_word |= dict.fromkeys(getattr(change, word), word)
        manifests |= dict.fromkeys([change.manifest_uri] * bool(change.manifest_uri))
    names: dict[str, tuple[str, ...]] = {
        word: tuple(sorted(name for name, said in last_word.items() if said == word))
        for word in ("added", "changed", "removed")
    }
    first, *others = [*manifests] or [""]
    merged = Change(**names, manifest_uri=first)
    return (*[merged] * (not merged.is_empty), *(Change(manifest_uri=uri) for uri in others))


def name_items(change: Change, rows: pl.DataFrame, last: pl.DataFrame) -> Named:
    """The items named by `change`, given the source's `rows` now and the items of the `last` snapshot.

    What was to be removed and is gone already is not unknown: an event may come twice. Raises `BadConfig` for an empty
    change, `NotFound` when it names none but unknown items, and what `read_names` raises.
    """
    if change.is_empty:
        raise BadConfig("the change names no item: give added, changed or removed ids, or a manifest_uri")
    expected = {*change.added, *change.changed}
    if change.manifest_uri:
        expected.update(read_names(change.manifest_uri))
    asked = pl.Series("name", sorted(expected | {*change.removed}), pl.String)
    known = pl.concat([table.select(_NAMES) for table in (rows, last)]).unique()
    met = {column: known.filter(pl.col(column).is_in(asked.implode())) for column in _NAMES}
    item_ids = pl.concat([items["item_id"] for items in met.values()]).unique().sort()
    found = set().union(*(items[column] for column, items in met.items()))
    unknown = sorted(expected - found)
    if unknown and not len(item_ids):
        raise NotFound(
            f"none of the {len(asked)} items named is in the source or in the last snapshot, e.g. "
            f"{', '.join(map(repr, unknown[:MAX_LISTED]))}; expected an item_id, or the URI of a picture"
        )
    return Named(item_ids=tuple(item_ids), unknown=tuple(unknown))


def read_names(manifest_uri: str) -> list[str]:
    """The ids in column item_id of a table of changes, in CSV or Parquet, local or `s3://`.

    Raises `SourceMissing` without the file or without rows, `CatalogInvalid` for anything but such a table.
    """
    if not manifest_uri.lower().endswith(TABLE_SUFFIXES):
        raise CatalogInvalid(f"manifest {manifest_uri} is neither .csv nor .parquet; save the table as one of them")
    try:
        table = parse_table(read_uri(manifest_uri), manifest_uri, f"manifest {manifest_uri}")
    except NotFound as error:
        raise SourceMissing(f"there is no manifest {manifest_uri}; check the path") from error
    if "item_id" not in table.columns:
        raise CatalogInvalid(f"manifest {manifest_uri} lacks column item_id; it has {', '.join(table.columns)}")
    ids = table["item_id"].cast(pl.String).str.strip_chars().drop_nulls().to_list()
    if not ids:
        raise SourceMissing(f"manifest {manifest_uri} names no item; expected at least one row")
    return ids
