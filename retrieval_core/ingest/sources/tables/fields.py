"""The fields of a table's rows (title, price, link): which columns they are, and what is told about their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import polars as pl

from retrieval_core.artifacts.catalog_rows import NAMED_VALUES
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


def checked_fields(fields: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    """Return the fields of rows, each value one line of at most `MAX_CHARS`, and notes on how values are read.

    A longer text is cut, a longer web address left out, as a part of it leads elsewhere. Raises `ValueError` for more
    than `MAX_FIELDS`.
    """
    row = pl.int_range(len(fields), dtype=pl.UInt32, eager=True)
    pairs = pl.DataFrame({"row": row, "pair": fields}).filter(pl.col("pair").list.len() > 0).explode("pair")
    pairs = pairs.unnest("pair").with_columns(pl.col("value").str.replace_all(r"[\p{Cc}\s]+", " ").str.strip_chars())
    if (n_names := pairs["name"].n_unique()) > MAX_FIELDS:
        raise ValueError(f"{n_names} fields; expected at most {MAX_FIELDS}, so name fewer")
    is_long = pl.col("value").str.len_chars() > MAX_CHARS
    long, is_address = pairs.filter(is_long), pl.col("value").str.contains(ADDRESS)
    cut = pl.when(is_long).then(pl.col("value").str.head(MAX_CHARS - 1) + "…").otherwise("value")
    kept = pairs.filter(pl.col("value") != "", ~(is_long & is_address)).with_columns(value=cut)
    notes = [
        *_long_notes(long.filter(~is_address), f"cut to {MAX_CHARS:,} characters"),
        *_long_notes(long.filter(is_address), f"of more than {MAX_CHARS:,} characters left out"),
    ]
    kinds = [
        _kinds(str(name), group["value"]) for (name,), group in kept.sort("name").group_by("name", maintain_order=True)
    ]
    lists = as_lists(kept["row"], kept.select("name", "value").to_struct(), len(fields)).cast(NAMED_VALUES)
    return lists.alias("fields"), (*([f"fields: {'; '.join(kinds)}"] if kinds else []), *notes)


def _long_notes(long: pl.DataFrame, fate: str) -> Iterator[str]:
    for name, n_values in long.group_by("name").len().sort("name").rows():
        yield f"field {name}: {counted(n_values, 'value')} {fate}"


def _kinds(name: str, values: pl.Series) -> str:
    """Return how the values of a field are read: "price: 98 in EUR, 2 as text such as 'on request'"."""
    if name in TEXT_FIELDS:
        return f"{name}: {len(values):,} {TEXT}"
    counts, example = Counter[str](), ""
    distinct = values.rename("text").value_counts(name="n").sort("n", "text", descending=[True, False])
    for text, n_values in distinct.rows():
        kind = _kind(parse_value(text))
        counts[kind] += n_values
        example = example or (text[:40] if kind == TEXT else "")
    told = [f"{n:,} {kind}" + f" such as {example!r}" * (kind == TEXT) for kind, n in counts.items()]
    return f"{name}: {', '.join(told)}"


def _kind(value: FieldValue) -> str:
    if value.currency:
        return f"in {value.currency}"
    if value.number is not None:
        return "as numbers"
    return "as dates" if value.moment else TEXT
