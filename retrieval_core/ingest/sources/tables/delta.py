"""A table that lists only what changed: `?mode=delta`, with the rows that a column marks as deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from retrieval_core.errors import BadConfig
from retrieval_core.item_ids.normal_form import normal_name

OPTIONS = ("mode", "deleted")
KEPT = ("", "0", "0.0", "false", "f", "no", "n", "none", "null")
DELETED = ("1", "1.0", "true", "t", "yes", "y", "x", "deleted")
DATE = re.compile(r"\d{4}-\d\d-\d\d([ t].*)?")  # when a row was deleted, as many shops mark it


class Named(NamedTuple):
    """The ids that a table names in a row or as a product, and those of them that it says are deleted; normal form.

    `has_further_pictures` says that an id may have more pictures, which are the items `ID/2`, `ID/3`….
    """

    ids: frozenset[str]
    deleted: frozenset[str]
    has_further_pictures: bool

    @classmethod
    def of(cls, ids: Iterable[str], deleted: Iterable[str], has_further_pictures: bool) -> Named:
        gone = frozenset(map(normal_name, deleted))
        return cls(gone.union(map(normal_name, ids)), gone, has_further_pictures)


def is_delta(mode: str, spec: str) -> bool:
    """Return whether a source of this mode lists only what changed. Raises `BadConfig` for an unknown mode."""
    if mode not in ("", "delta"):
        raise BadConfig(
            f"{spec}: mode is {mode!r}; expected delta, or none if it lists everything; a web server's own parameter "
            "stands before a #: https://host/export?mode=full#"
        )
    return mode == "delta"


def marks_deleted(cell: str | None) -> bool:
    """Return whether a cell marks its row as deleted. Raises `ValueError` for a text that says neither."""
    text = (cell or "").strip().casefold()
    if text in DELETED or DATE.fullmatch(text):
        return True
    if text not in KEPT:
        raise ValueError(f"{cell!r} marks a row neither as deleted (1, true, yes, a date) nor as kept (0, false, no)")
    return False


def items_named(named: Named, items: pl.DataFrame) -> pl.DataFrame:
    """Return those `items` (item_id, product_id) that a table names, with the column is_deleted.

    With further pictures, `ID/2` is named with `ID` where both are of one product.
    """
    bases = items.select(base="item_id", base_product="product_id")
    further = pl.col("item_id").str.extract(r"^(.+)/(?:[2-9]|[1-9]\d+)$", 1)
    own = items.select("item_id", "product_id", base=further).join(bases, on="base", how="left")
    is_further = pl.lit(named.has_further_pictures) & (pl.col("product_id") == pl.col("base_product"))
    row_id = pl.when(pl.col("item_id").is_in(list(named.ids))).then("item_id").when(is_further).then("base")
    return (
        own.with_columns(row=row_id)
        .filter(pl.col("row").is_in(list(named.ids)))
        .select("item_id", is_deleted=pl.col("row").is_in(list(named.deleted)))
        .sort("item_id")
    )
