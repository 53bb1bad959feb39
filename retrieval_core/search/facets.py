"""Count the values that a filter can name, among the items of a catalogue."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.filters import ATTRIBUTES, COLUMNS, FIELD, LABEL, attribute_names, unknown_name
from retrieval_core.index.shard_files import positions_of

VALUE_COLUMNS = ["category", "split", "labels", ATTRIBUTES]  # that `count_values` reads, beside fields
SHOWN_FIELDS = ("title", "link")  # nearly every item has another one
MAX_VALUES = 50  # counted for one name
EMPTY = pl.DataFrame(schema={"row": pl.get_index_type(), "value": pl.String})

Counts = dict[str, dict[str, int]]  # the commonest values of each name, each with its number of items


def count_facets(items: Items, row_ids: Int64, names: Sequence[str] = ()) -> Counts:
    """Count the values that these rows (n,), ascending, have of these names, or of all that a filter can use.

    Raises `BadConfig` for a name that no item has.
    """
    fields = [name for name in items.field_names if name not in SHOWN_FIELDS and name in (names or (name,))]
    table = items.columns(["row_id", *VALUE_COLUMNS], fields)
    known = list(dict.fromkeys([*COLUMNS, LABEL, *attribute_names(table), *items.field_names]))
    for name in names:
        if name not in known:
            raise unknown_name(name, known)
    is_counted = positions_of(row_ids, table["row_id"].to_numpy())[1]
    return count_values(table.filter(pl.Series(is_counted)), names or known)


def count_values(items: pl.DataFrame, names: Collection[str]) -> Counts:
    """Return the most frequent values of these names, the most frequent first, with the number of items that have each.

    `items` have the `VALUE_COLUMNS`, and `field.NAME` for the fields to count. Of fields only texts are counted. For
    ids, titles and links, which are different for nearly every item, no values are listed.
    """
    numbered = items.with_row_index("row")
    return {name: _count(pl.concat([EMPTY, *_values(name, numbered)])) for name in names}


def _count(values: pl.DataFrame) -> dict[str, int]:
    counted = values.drop_nulls().unique()["value"].value_counts(name="n")  # an item counts once for a value
    return dict(counted.sort("n", "value", descending=[True, False]).head(MAX_VALUES).iter_rows())


def _values(name: str, items: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield tables of the row of an item and a value that it has, in which an item may have several rows, or none."""
    if name in ("category", "split"):
        yield items.select("row", value=name)
    elif name == LABEL:
        yield _flat(items.select("row", value="labels"))
    elif name not in (*COLUMNS, *SHOWN_FIELDS):
        attribute = _flat(items.select("row", pair=ATTRIBUTES)).unnest("pair")
        yield attribute.filter(pl.col("name") == name).select("row", "value")
        if FIELD + name in items.columns:
            part = pl.col(FIELD + name).struct.field
            is_text = part("number").is_null() & part("moment").is_null()
            yield items.filter(is_text).select("row", value=part("text"))


def _flat(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.explode(lists.columns[1], empty_as_null=False, keep_nulls=False)
