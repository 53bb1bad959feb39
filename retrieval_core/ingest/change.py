"""A reported change of the catalogue, and the items of a source that it names."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import NAME_COLUMNS
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.cells import text_column
from retrieval_core.ingest.sources.tables.columns import split_columns
from retrieval_core.ingest.sources.tables.table import read_table
from retrieval_core.item_ids.normal_form import Names, normal_name, normal_names
from retrieval_core.item_ids.suggestions import did_you_mean
from retrieval_core.store.uris import label_of

MAX_LISTED = 5  # names in a message

_LISTS = ("added", "changed", "removed")
_NAMING = (*NAME_COLUMNS, "product_id")


class Change(Value):
    """The payload of the event `catalog.updated`: names of items, and the URI of a table with more item ids.

    A name is an item_id, a product_id, which stands for all items of the product, or the URI of a picture or a mask.
    The table may be `FILE?item_id=sku`. The source decides what became of an item. The lists only say what to expect:
    an added item that the source lacks is unknown, a removed one is not.
    """

    added: Names = ()
    changed: Names = ()
    removed: Names = ()
    manifest_uri: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed or self.manifest_uri)


class NamedItems(Value):
    """The items that a change names, and the names found in neither the source nor the last snapshot; all sorted.

    `hint` names items like the first unknown one. `removed` are the items of the last snapshot that the change lists as
    removed and the source lacks.
    """

    item_ids: tuple[str, ...]
    unknown: tuple[str, ...]
    hint: str = ""
    removed: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the names."""
        if not self.unknown:
            return ()
        names = ", ".join(map(repr, self.unknown[:MAX_LISTED]))
        n_names = counted(len(self.unknown), "name")
        return (f"{n_names} found in neither the source nor the catalogue: {names}{self.hint}",)


def merge_changes(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Merge changes into one, and one more for each further manifest. Empty changes are dropped; names are sorted.

    A name is in the list that it was last in; within one change, removed comes last.
    """
    last_list: dict[str, str] = {}
    manifests: dict[str, None] = {}
    for change in changes:
        for field in _LISTS:
            last_list |= dict.fromkeys(getattr(change, field), field)
        if change.manifest_uri:
            manifests[change.manifest_uri] = None
    names: dict[str, tuple[str, ...]] = {
        field: tuple(sorted(name for name, last in last_list.items() if last == field)) for field in _LISTS
    }
    first, *others = [*manifests] or [""]
    merged = Change(**names, manifest_uri=first)
    return tuple(change for change in (merged, *(Change(manifest_uri=uri) for uri in others)) if not change.is_empty)


def resolve_change(change: Change, rows: pl.DataFrame, last: pl.DataFrame) -> NamedItems:
    """Return the items that `change` names, given the source's current `rows` and the items of the `last` snapshot.

    A removed item found in neither is not unknown, because an event may arrive twice. Raises what `read_item_ids`
    raises.
    """
    expected = {*change.added, *change.changed}
    if change.manifest_uri:
        expected.update(read_item_ids(change.manifest_uri))
    names = pl.Series("name", sorted(expected | {*change.removed}), pl.String)
    rows, last = (_normal(table) for table in (rows, last))
    existing = pl.concat([rows, last]).unique()
    matches = {column: existing.filter(pl.col(column).is_in(names.implode())) for column in _NAMING}
    item_ids = pl.concat([items["item_id"] for items in matches.values()]).unique().sort()
    unknown = sorted(expected.difference(*(items[column] for column, items in matches.items())))
    is_listed = pl.any_horizontal(pl.col(column).is_in(list(change.removed)) for column in _NAMING)
    removed = last.filter(is_listed).join(rows, on="item_id", how="anti")["item_id"].sort()
    hint = did_you_mean(unknown[0], existing["item_id"]) if unknown else ""
    return NamedItems(item_ids=tuple(item_ids), unknown=tuple(unknown), hint=hint, removed=tuple(removed))


def _normal(items: pl.DataFrame) -> pl.DataFrame:
    """Return the names of items, addresses too, in the form that the names of a change have."""
    return items.select(normal_names(items[name]) for name in _NAMING)


def read_item_ids(manifest_uri: str) -> list[str]:
    """Return the column item_id, or the one named so, of a table of changes in CSV or Parquet, at any URI.

    Raises `SourceMissing` when the file is missing or has no rows, `CatalogInvalid` when it is not such a table.
    """
    spec = f"manifest {label_of(manifest_uri)}"
    file, columns = split_columns(manifest_uri, spec)
    try:
        table = read_table(file, spec, columns).frame
    except NotFound as error:
        raise SourceMissing(f"there is no manifest {label_of(file)}; check the path") from error
    column = columns.of.get("item_id", "item_id")
    if column not in table.columns:
        raise CatalogInvalid(f"{spec} lacks column {column}; it has {', '.join(table.columns)}")
    try:
        ids = [normal_name(text) for text in text_column(table[column]).drop_nulls()]
    except ValueError as error:
        raise CatalogInvalid(f"{spec}: column {column} is {error}; expected text") from error
    if not ids:
        raise SourceMissing(f"{spec} names no item; expected at least one row")
    return ids
