"""The fields of a source's rows, as tests compare them."""

from __future__ import annotations

import polars as pl


def fields_of(rows: pl.DataFrame) -> dict[str, dict[str, str]]:
    """Return the fields of each item by their names."""
    return {item: {pair["name"]: pair["value"] for pair in pairs} for item, pairs in rows["item_id", "fields"].rows()}
