"""Which columns of a shop's table are what: `FILE?item_id=sku&image_uri=image_url&image_uri=back_url`.

At a web address, the columns may stand after `#`, and all of its query is the server's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

import polars as pl

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.config.text import nearest
from retrieval_core.errors import BadConfig, CatalogInvalid
from retrieval_core.ingest.sources.tables.fields import FIELD_PREFIX, field_of
from retrieval_core.store.uris import is_http, label_of

ATTRIBUTE_PREFIXES = ("attr_", "attributes.")
ROW_VERSION = "version"  # changes whenever the row does, such as a date; its picture is not asked for until then
REQUIRED = ("item_id", "image_uri")
FEEDS = {  # columns by which a table is known to be a feed, by the kind of source that reads it
    "shopify": ("Handle", "Image Src"),
    "woocommerce": ("ID", "Type", "Images"),
    "merchant": ("id", "image_link"),
}
SUGGESTIONS = {"item_id": r"(?i)\b(id|sku|handle|article)\b|_(id|sku)$", "image_uri": r"(?i)image|img|picture|photo"}


class Columns(NamedTuple):
    """The table's column for each column that is read, except image_uri, and the columns of a row's pictures.

    Without them a table has the names that are read. `options` are the other keys of the source, such as `mode`.
    """

    of: dict[str, str]
    pictures: tuple[str, ...]
    options: Mapping[str, str] = {}

    @property
    def picture(self) -> str:
        """Return the table's column of the first picture."""
        return self.pictures[0] if self.pictures else "image_uri"

    @property
    def deleted(self) -> str:
        """Return the table's column that marks deleted rows, "" without one."""
        return self.options.get("deleted", "")

    def is_used(self, name: str) -> bool:
        """Return whether the table's column of this name is read."""
        mapped = (*self.of.values(), *self.pictures, self.deleted)
        field = field_of(name)
        is_own = (is_mapped(name) and name not in self.of) or (bool(field) and FIELD_PREFIX + field not in self.of)
        return (bool(name) and name in mapped) or is_own

    def names(self, headers: Sequence[str]) -> list[str]:
        """Return the names that headers stand for. Raises `ValueError` when two used columns have one name."""
        names = header_names(headers)
        used = [name for name in names if self.is_used(name) and not field_of(name)]
        if repeated := sorted({name for name in used if used.count(name) > 1}):
            raise ValueError(f"the header names column {repeated[0]} more than once")
        return names

    def apply(self, table: pl.DataFrame, spec: str) -> pl.DataFrame:
        """Return the table with its columns under the names that Vitrine reads, the first picture as `image_uri`.

        Raises `CatalogInvalid` for a column that is absent.
        """
        for column in filter(None, (*self.of.values(), *self.pictures, self.deleted)):
            if column not in table.columns:
                raise CatalogInvalid(f"{spec}: there is no column {column}{nearest(column, table.columns)}")
        renamed = {**self.of, **({"image_uri": self.picture} if self.pictures else {})}
        mapped = table.with_columns(pl.col(column).alias(name) for name, column in renamed.items())
        if missing := [name for name in REQUIRED if name not in mapped.columns]:
            raise CatalogInvalid(_lacks(missing, table.columns, spec))
        return mapped

    def notes(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return a line that says what the table's columns are used as, and one of those that are not used."""
        pairs = [*self.of.items(), *(("image_uri", column) for column in self.pictures)]
        pairs += [("deleted", self.deleted)] if self.deleted else []
        named = {column for _, column in pairs}
        own = [name for name in columns if name not in named and self.is_used(name)]
        return column_notes([*pairs, *((field_of(name) or name, name) for name in own)], columns)


UNNAMED = Columns({}, ())


def split_columns(uri: str, spec: str, options: Collection[str] = (), maps_columns: bool = True) -> tuple[str, Columns]:
    """Split `FILE?NAME=COLUMN&OPTION=VALUE` into the file and its columns. Raises `BadConfig` for an unknown name.

    An unknown name in a web address is a part of the address. After `#`, no name is, and before it all are.
    """

    def is_ours(name: str) -> bool:
        return (
            name in options
            or name.startswith(FIELD_PREFIX)
            or (maps_columns and (is_mapped(name) or name == ROW_VERSION))
        )

    file, query = _split_query(uri, is_ours)
    # Keep a plus sign, which parse_qsl reads as a space.
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    names = [name for name, _ in pairs if name != "image_uri"]
    for name, column in pairs:
        if not is_ours(name):
            expected = [*([*SOURCE_SCHEMA, ROW_VERSION, "attr_NAME"] if maps_columns else ()), "field.NAME", *options]
            raise BadConfig(
                f"{spec}: {name} is no column that is read; expected {', '.join(expected)}, as in "
                f"{label_of(file)}?{'item_id=sku' if maps_columns else 'mode=delta'}"
            )
        if not column or names.count(name) > 1:
            raise BadConfig(f"{spec}: {name} names no column, or several; only image_uri may be in several")
    return file, Columns(
        {name: column for name, column in pairs if name != "image_uri" and name not in options},
        tuple(column for name, column in pairs if name == "image_uri"),
        {name: value for name, value in pairs if name in options},
    )


def with_columns(spec: str, columns: Mapping[str, Any]) -> str:
    """Return a source's `KIND:URI` whose query also names the columns of a table `[columns]`.

    A value is a column, or a list of columns of pictures. Raises `BadConfig` for another name or value, and for one
    that the source names itself.
    """
    pairs = [*_flattened(columns)]
    file, query = _split_query(spec.partition(":")[2], _is_column)
    named = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    for name, column in pairs:
        if not _is_column(name) or not isinstance(column, str) or not column:
            raise BadConfig(
                f"[columns] {name} = {column!r}: expected the name of a column, for {', '.join(SOURCE_SCHEMA)}, "
                "version, deleted, attr_NAME or field.NAME"
            )
        if name in named:
            raise BadConfig(f"both [columns] and the source name {name}; name it in one of them")
    joint = "&" if query else ("#" if is_http(file) else "?")
    return spec + (joint if pairs and not spec.endswith("#") else "") + urlencode(pairs, quote_via=quote)


def _is_column(name: str) -> bool:
    return is_mapped(name) or name in (ROW_VERSION, "deleted")


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names with each of their values; `field.season` is a table within a table in TOML."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield from ((prefix + name, each) for each in (value if isinstance(value, list) else [value]))


def _split_query(uri: str, is_ours: Callable[[str], bool]) -> tuple[str, str]:
    """Return a file and the query that says how to read it; a web address keeps its own parameters."""
    if not is_http(uri):
        file, mark, query = uri.rpartition("?")
        return (file, query) if mark and "=" in query else (uri, "")  # a question mark of the file's name
    address, mark, query = uri.partition("#")
    if mark:
        return address, query
    file, _, query = uri.partition("?")
    parts = list(filter(None, query.split("&")))
    parameters = [part for part in parts if not is_ours(unquote(part.partition("=")[0]))]
    own = "&".join(part for part in parts if part not in parameters)
    return (f"{file}?{'&'.join(parameters)}" if parameters else file), own


def column_notes(pairs: Iterable[tuple[str, str]], columns: Iterable[str]) -> tuple[str, ...]:
    """Return a line of what columns are used as, given pairs of use and column, and one of the unused columns."""
    by_use: dict[str, list[str]] = {}
    for use, column in pairs:
        by_use.setdefault(use, []).append(column)
    used = [use if names == [use] else f"{use} from {' and '.join(names)}" for use, names in by_use.items()]
    named = {name for names in by_use.values() for name in names}
    unused = [name for name in columns if name not in named]
    lines = (f"columns: {', '.join(used)}" * bool(used), f"not used: {', '.join(unused)}" * bool(unused))
    return tuple(filter(None, lines))


def is_mapped(name: str) -> bool:
    """Return whether a source's query can say which column this is. A plain `title` is that of a web address."""
    return name in SOURCE_SCHEMA or name.startswith((*ATTRIBUTE_PREFIXES, FIELD_PREFIX))


def header_names(headers: Sequence[str]) -> list[str]:
    """Return the names that headers in any case, with spaces around and inside, stand for."""
    return [_name_of(header) for header in headers]


def _name_of(header: str) -> str:
    header = header.strip().strip("\ufeff\u200b").strip()
    name = re.sub(r"[\s-]+", "_", header).casefold()
    if name in SOURCE_SCHEMA:
        return name
    prefix = next((prefix for prefix in (*ATTRIBUTE_PREFIXES, FIELD_PREFIX) if name.startswith(prefix)), "")
    return prefix + header[len(prefix) :]


def _lacks(missing: Sequence[str], columns: Sequence[str], spec: str) -> str:
    guesses = {
        name: next((each for each in columns if re.search(SUGGESTIONS[name], each)), "COLUMN") for name in missing
    }
    joint = "&" if "?" in spec else "?"
    plain = [column.strip().removeprefix("g:") for column in columns]
    kind = next((kind for kind, names in FEEDS.items() if {*names} <= {*plain}), "")
    hint = f". It looks like a feed that {kind}:{spec.partition(':')[2].partition('?')[0]} reads" * bool(kind)
    return (
        f"{spec} lacks column {' and '.join(missing)}; it has {', '.join(columns)}. If another column has it, name it: "
        f"{spec}{joint}{urlencode(guesses)}{hint}"
    )


def one_row_a_picture(rows: pl.DataFrame, others: Sequence[pl.Series]) -> pl.DataFrame:
    """Return rows of text with a row for each picture: the n-th of `ID` is the item `ID/n` of the same product.

    `others` are the addresses of further pictures, null or "" where there are none. Masks are those of the first.
    """
    product = (
        pl.coalesce(pl.col("product_id").replace("", None), "item_id") if "product_id" in rows.columns else "item_id"
    )
    shared = rows.with_columns(product_id=product)
    pictures = [shared["image_uri"], *others]
    is_blank = [(picture.fill_null("") == "").alias(str(position)) for position, picture in enumerate(pictures)]
    has_none = pl.DataFrame(is_blank).select(pl.all_horizontal(pl.all())).to_series()
    parts = [shared.filter(~is_blank[0] | has_none)]
    for position, picture in enumerate(others, 2):
        part = shared.with_columns(pl.col("item_id") + f"/{position}", picture.alias("image_uri"))
        if "mask_uri" in part.columns:
            part = part.with_columns(pl.lit(None, pl.String).alias("mask_uri"))
        parts.append(part.filter(~is_blank[position - 1]))
    return pl.concat(parts)
