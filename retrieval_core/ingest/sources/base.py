"""The contract of a catalogue source, and the check that the rows of every source pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA, SPLITS, VERSION_SCHEMA
from retrieval_core.artifacts.mapped_rows import first_with_key, in_batches, mapped, rows_at, sorted_by
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.item_ids.normal_form import NORMAL_COLUMNS, normal_names

NAME_COLUMNS = ("item_id", "image_uri", "mask_uri")
MAX_ITEM_ID_BYTES = 1024  # the limit that S3 sets for a key
_GIVEN_ID = "given_id"  # as it is spelled in the source
# Control characters, line and paragraph separators, and characters that turn the direction of text: with one of them, a
# name in a log or on a page can look like another name.
DECEPTIVE = r"[\p{Cc}\u{61C}\u{200E}\u{200F}\u{2028}-\u{202E}\u{2066}-\u{2069}]"


class Source(Protocol):
    """A list of pictures and what is known about them. A source reads no pictures, only masks."""

    spec: str  # KIND:URI
    notes: tuple[str, ...]  # how the source was read and what was passed over, each a line for a person
    n_passed_over: int  # files or products of the source that are no rows of the catalogue

    def rows(self) -> pl.DataFrame:
        """Return one row per picture in `SOURCE_SCHEMA`, sorted by unique item_id; its lists are never null.

        The rows may have columns of `VERSION_SCHEMA` too.

        Raises `CatalogInvalid` when the source is malformed, `SourceMissing` when it is empty.
        """
        ...

    def read_mask(self, mask_uri: str) -> Bool:
        """Return the (h, w) bool mask at a `mask_uri` of the rows, True on the product. Raises `NotFound`."""
        ...


class Maskless:
    """Base class of the sources that have no masks."""

    spec: str
    notes: tuple[str, ...] = ()
    n_passed_over: int = 0

    def read_mask(self, mask_uri: str) -> Bool:
        raise NotFound(f"{self.spec} has no masks, so none at {mask_uri}; a table: source can name them")


def conform(frame: pl.DataFrame, spec: str) -> pl.DataFrame:
    """Return the rows of the source `spec` in `SOURCE_SCHEMA`, checked and sorted by item_id, mapped.

    Columns that `frame` lacks become null, lists empty; "" becomes null; columns but those of `VERSION_SCHEMA` are
    dropped.
    `NORMAL_COLUMNS` get their normal form. Raises `SourceMissing` when there are no rows; `CatalogInvalid` for an
    empty, repeated or too long item_id, an empty image_uri, a name with a `DECEPTIVE` character, or an unknown split.
    """
    if frame.is_empty():
        raise SourceMissing(f"{spec} is empty; expected at least one picture")
    return conform_batches(in_batches(frame), spec)


def conform_batches(frames: Iterable[pl.DataFrame], spec: str) -> pl.DataFrame:
    """Return what `conform` does of the rows of several frames, given one after the other."""
    rows = mapped(map(_in_schema, frames))
    _check(rows.drop(_GIVEN_ID), spec, rows[_GIVEN_ID])
    return sorted_by(rows.drop(_GIVEN_ID), "item_id")


def _in_schema(frame: pl.DataFrame) -> pl.DataFrame:
    columns = [
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SOURCE_SCHEMA.items()
    ] + [pl.col(name).cast(dtype) for name, dtype in VERSION_SCHEMA.items() if name in frame.columns]
    given = frame.select(columns)
    normal = given.with_columns(normal_names(given[name]) for name in NORMAL_COLUMNS)
    return normal.with_columns(
        given["item_id"].alias(_GIVEN_ID),
        pl.col(pl.String).replace("", None),
        *(pl.col(name).fill_null(pl.lit([], SOURCE_SCHEMA[name])) for name in ("labels", "attributes", "fields")),
    )


def _check(rows: pl.DataFrame, spec: str, given_ids: pl.Series) -> None:
    for name in ("item_id", "image_uri"):
        if n_empty := rows[name].null_count():
            first = rows[name].is_null().arg_max()
            raise CatalogInvalid(
                f"{spec}: {n_empty} rows have an empty {name}, the first after {first} others; every row needs one"
            )
    for name in NAME_COLUMNS:
        deceptive = rows.filter(pl.col(name).str.contains(DECEPTIVE))[name]
        if len(deceptive):
            raise CatalogInvalid(
                f"{spec}: {name} {deceptive[0][:80]!r} has a control character, or one that turns the direction of "
                "text; rename it"
            )
    too_long = rows.filter(pl.col("item_id").str.len_bytes() > MAX_ITEM_ID_BYTES)["item_id"]
    if len(too_long):
        raise CatalogInvalid(
            f"{spec}: item_id {too_long[0][:80]!r}… has {len(too_long[0].encode())} bytes; expected at most "
            f"{MAX_ITEM_ID_BYTES}"
        )
    ids = rows.select("item_id")
    earlier = first_with_key(ids)
    repeated = rows_at(ids, np.flatnonzero(earlier != np.arange(len(ids))))["item_id"].unique().sort()
    if len(repeated):
        spelled = given_ids.filter(rows["item_id"] == repeated[0]).unique().sort().to_list()
        twins = f", spelled {' and '.join(ascii(text[:80]) for text in spelled)}; rename one" * (len(spelled) > 1)
        raise CatalogInvalid(f"{spec}: {len(repeated)} item_ids occur more than once, e.g. {repeated[0][:80]!r}{twins}")
    unknown = rows.filter(~pl.col("split").is_in(SPLITS))
    if len(unknown):
        item_id, split = unknown.select("item_id", "split").row(0)
        raise CatalogInvalid(f"{spec}: item {item_id!r} has split {split!r}; expected {', '.join(SPLITS)} or none")
