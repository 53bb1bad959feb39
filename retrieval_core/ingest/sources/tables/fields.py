"""The fields of a table's rows (title, price, link): which columns they are, and what is told about their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import polars as pl

from retrieval_core.artifacts.catalog_rows import NAMED_VALUES, field_pairs
from retrieval_core.artifacts.mapped_rows import batches_at, in_batches, mapped
from retrieval_core.fields.values import FIELDS, TEXT_FIELDS, FieldValue, parse_value
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.cells import as_lists

FIELD_PREFIX = "field."  # begins the name of a column that is a field, or is mapped to one
MAX_FIELDS = 50
MAX_CHARS = 2_000  # of a value
TEXT = "as text"
ADDRESS = r"(?i)^https?://"


def field_of(header: str) -> str:
    """Return the one of `FIELDS` that a header in any case means, such as `Sale Price`; "" for another one."""
    name = re.sub(r"[\s-]+", "_", header.strip()).casefold()
    return name if name in FIELDS else ""


def field_columns(columns: Sequence[str], mapped: Collection[str]) -> dict[str, str]:
    """Return the names of fields by the table's columns; of two with one name the later counts, so a `mapped` one."""
    plain = {name: field for name in columns if (field := field_of(name)) and FIELD_PREFIX + field not in mapped}
    return plain | {name: name.removeprefix(FIELD_PREFIX) for name in columns if name.startswith(FIELD_PREFIX)}


def checked_fields(batches: Iterable[pl.Series]) -> tuple[pl.Series, tuple[str, ...]]:
    """Return the fields of rows, given in batches, mapped; and notes on how their values are read.

    A value is one line of at most `MAX_CHARS`. A longer text is cut, a longer web address left out, as a part of it
    leads elsewhere. Raises `ValueError` for more than `MAX_FIELDS`.
    """
    names, n_values, n_long = set[str](), Counter[str](), Counter[tuple[bool, str]]()

    def checked(batch: pl.Series) -> pl.DataFrame:
        pairs = field_pairs(batch.to_frame("fields").with_row_index("row")).with_columns(
            pl.col("value").str.replace_all(r"[\p{Cc}\s]+", " ").str.strip_chars()
        )
        is_long, is_address = pl.col("value").str.len_chars() > MAX_CHARS, pl.col("value").str.contains(ADDRESS)
        cut = pl.when(is_long).then(pl.col("value").str.head(MAX_CHARS - 1) + "…").otherwise("value")
        kept = pairs.filter(pl.col("value") != "", ~(is_long & is_address)).with_columns(value=cut)
        names.update(pairs["name"])
        n_values.update(dict(kept["name"].value_counts().iter_rows()))
        n_long.update(pairs.filter(is_long).select(is_address, "name").iter_rows())
        lists = as_lists(kept["row"], kept.select("name", "value").to_struct(), len(batch)).cast(NAMED_VALUES)
        return lists.to_frame("fields")

    lists = mapped(map(checked, batches))
    if len(names) > MAX_FIELDS:
        raise ValueError(f"{len(names)} fields; expected at most {MAX_FIELDS}, so name fewer")
    fates = {False: f"cut to {MAX_CHARS:,} characters", True: f"of more than {MAX_CHARS:,} characters left out"}
    long = [
        f"field {name}: {counted(n, 'value')} {fates[is_address]}" for (is_address, name), n in sorted(n_long.items())
    ]
    kinds = [f"{name}: {_kinds(lists, name, n_values[name])}" for name in sorted(n_values)]
    return lists.to_series(), (*([f"fields: {'; '.join(kinds)}"] if kinds else []), *long)


def _kinds(fields: pl.DataFrame, name: str, n_values: int) -> str:
    """Return how the values of a field are read: "98 in EUR, 2 as text such as 'on request'"."""
    if name in TEXT_FIELDS:
        return f"{n_values:,} {TEXT}"
    values = mapped(field_pairs(batch).filter(name=name).select("value") for batch in in_batches(fields))
    hashes = np.concatenate([batch["value"].hash().to_numpy() for batch in in_batches(values)])
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    n_of_kind, commonest = Counter[str](), dict[str, tuple[int, str]]()
    distinct = (text for batch in batches_at(values, first) for text in batch["value"])
    for text, n in zip(distinct, counts.tolist(), strict=True):
        kind = _kind(parse_value(text))
        n_of_kind[kind] += n
        commonest[kind] = min(commonest.get(kind, (-n, text)), (-n, text))
    told = [
        f"{n_of_kind[kind]:,} {kind}" + f" such as {commonest[kind][1][:40]!r}" * (kind == TEXT)
        for kind in sorted(commonest, key=commonest.__getitem__)
    ]
    return ", ".join(told)


def _kind(value: FieldValue) -> str:
    if value.currency:
        return f"in {value.currency}"
    if value.number is not None:
        return "as numbers"
    return "as dates" if value.moment else TEXT
