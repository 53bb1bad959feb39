"""What a catalogue comes from: `KIND:URI`, and the one table every kind of source yields."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA, SPLITS
from retrieval_core.errors import CatalogInvalid, SourceMissing

NAMES = ("item_id", "image_uri", "mask_uri")
MAX_ITEM_ID_BYTES = 1024  # as of an S3 key
# Control characters, line and paragraph separators, and what turns the direction of text: in a log or on a page a name
# with one of them can pass for another.
DECEPTIVE = r"[\p{Cc}\u{61C}\u{200E}\u{200F}\u{2028}-\u{202E}\u{2066}-\u{2069}]"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Source(Protocol):
    """A place that names pictures; nothing is decoded here."""

    spec: str

    def rows(self) -> pl.DataFrame:
        """One row per picture in `SOURCE_SCHEMA`, ordered by item_id, ids unique; labels and attributes never null.

        Raises `CatalogInvalid` when the source breaks its contract, `SourceMissing` when it is empty.
        """
        ...

    def read_mask(self, mask_uri: str) -> Bool:
        """(h, w) bool, True on the product, of a `mask_uri` from the rows. Raises `NotFound`."""
        ...


def conform(frame: pl.DataFrame, spec: str) -> pl.DataFrame:
    """A source's columns as `SOURCE_SCHEMA`: absent ones null or empty, "" read as null, ordered by item_id, checked.

    Raises `SourceMissing` without rows; `CatalogInvalid` for an empty, repeated or overlong item_id, an empty
    image_uri, a name with a `DECEPTIVE` character, or a split nobody knows.
    """
    if frame.is_empty():
        raise SourceMissing(f"{spec} is empty; expected at least one picture")
    columns = [
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SOURCE_SCHEMA.items()
    ]
    rows = frame.select(columns).with_columns(
        pl.col(pl.String).replace("", None),
        pl.col("labels").fill_null(pl.lit([], SOURCE_SCHEMA["labels"])),
        pl.col("attributes").fill_null(pl.lit([], SOURCE_SCHEMA["attributes"])),
    )
    _check(rows, spec)
    return rows.sort("item_id")


def _check(rows: pl.DataFrame, spec: str) -> None:
    for name in ("item_id", "image_uri"):
        if n_empty := rows[name].null_count():
            first = rows[name].is_null().arg_max()
            raise CatalogInvalid(
                f"{spec}: {n_empty} rows have an empty {name}, the first after {first} others; every row needs one"
            )
    for name in NAMES:
        deceptive = rows.filter(pl.col(name).str.contains(DECEPTIVE))[name]
        if len(deceptive):
            raise CatalogInvalid(
                f"{spec}: {name} {deceptive[0][:80]!r} has a control character, or one that turns the direction of "
                "text; rename it"
            )
    overlong = rows.filter(pl.col("item_id").str.len_bytes() > MAX_ITEM_ID_BYTES)["item_id"]
    if len(overlong):
        raise CatalogInvalid(
            f"{spec}: item_id {overlong[0][:80]!r}… has {len(overlong[0].encode())} bytes; expected at most "
            f"{MAX_ITEM_ID_BYTES}"
        )
    repeated = rows.filter(pl.col("item_id").is_duplicated())["item_id"].unique().sort()
    if len(repeated):
        raise CatalogInvalid(f"{spec}: {len(repeated)} item_ids occur more than once, e.g. {repeated[0]!r}")
    unknown = rows.filter(~pl.col("split").is_in(SPLITS))
    if len(unknown):
        item_id, split = unknown.select("item_id", "split").row(0)
        raise CatalogInvalid(f"{spec}: item {item_id!r} has split {split!r}; expected {', '.join(SPLITS)} or none")
