"""Collect the pictures of a feed's products as rows of a catalogue, and count what is passed over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import polars as pl

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.fields.values import parse_value
from retrieval_core.ingest.sources.labels import Attribute, attributes_of, normalise_labels
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.cells import list_column
from retrieval_core.ingest.sources.tables.delta import marks_deleted
from retrieval_core.item_ids.normal_form import normal_name

SLICE_ROWS = 10_000  # pictures whose Python objects are in memory at once
TEXT_COLUMNS = ("item_id", "image_uri", "product_id", "category")
LIST_COLUMNS = ("labels", "attributes", "fields")
MAX_EXAMPLES = 3  # names in a note
NO_PICTURE, DELETED = "without a picture", "marked as deleted"


class Product(NamedTuple):
    """What a feed says of a product, or of a variant that has its own pictures: the n-th is the item `item_id/n`."""

    item_id: str
    pictures: Sequence[str]
    product_id: str
    category: str
    labels: Iterable[str]
    attributes: Mapping[str, str]
    attributes_of_picture: Mapping[str, Mapping[str, str]] = {}  # further ones, by the picture's address
    fields: Mapping[str, str] = {}
    fields_of_picture: Mapping[str, Mapping[str, str]] = {}


class _Picture(NamedTuple):
    item_id: str
    image_uri: str
    product_id: str
    category: str
    labels: list[str]
    attributes: list[Attribute]
    fields: list[Attribute]


class PictureRows:
    """Rows of a catalogue, one for each picture of the products that are added."""

    def __init__(self) -> None:
        self.n_products = 0
        self._positions: dict[str, str] = {}
        self._passed_over: dict[str, list[str]] = {}
        self._pictures: list[_Picture] = []
        self._slices = [pl.DataFrame(schema={name: SOURCE_SCHEMA[name] for name in (*TEXT_COLUMNS, *LIST_COLUMNS)})]

    def claim(self, item_id: str, position: str) -> None:
        """Note where the feed has this id. Raises `ValueError` when it has none, or had it before."""
        name = normal_name(item_id)
        if not name:
            raise ValueError(f"{position}: a product without an id")
        if name in self._positions:
            raise ValueError(f"the id {name[:80]!r} stands in {self._positions[name]} and in {position}; rename one")
        self._positions[name] = position

    def add(self, product: Product) -> None:
        """Add a row for each picture of a product; one without any is passed over."""
        pictures = list(dict.fromkeys(filter(None, map(str.strip, product.pictures))))
        if not pictures:
            self.pass_over(NO_PICTURE, product.item_id)
            return
        self.n_products += 1
        labels, shared = normalise_labels(product.labels), attributes_of({**product.attributes})
        for position, address in enumerate(pictures, 1):
            item_id = product.item_id + f"/{position}" * (position > 1)
            further = product.attributes_of_picture.get(address)
            attributes = attributes_of({**product.attributes, **further}) if further else shared
            fields = attributes_of({**product.fields, **product.fields_of_picture.get(address, {})})
            self._pictures.append(
                _Picture(item_id, address, product.product_id, product.category, labels, attributes, fields)
            )
        if len(self._pictures) >= SLICE_ROWS:
            self._flush()

    def is_deleted(self, item_id: str, cell: str) -> bool:
        """Return whether a cell marks a product as deleted, which is then passed over. Raises `ValueError`."""
        if not marks_deleted(cell):
            return False
        self.pass_over(DELETED, item_id)
        return True

    def pass_over(self, reason: str, item_id: str) -> None:
        """Count a product that does not become an item."""
        self._passed_over.setdefault(reason, []).append(item_id)

    @property
    def ids(self) -> Iterable[str]:
        """Return the id of every product of the feed, in normal form."""
        return self._positions.keys()

    @property
    def deleted_ids(self) -> list[str]:
        """Return the ids of the products that the feed has, but does not offer."""
        return [item_id for reason, ids in self._passed_over.items() if reason != NO_PICTURE for item_id in ids]

    @property
    def n_passed_over(self) -> int:
        return sum(map(len, self._passed_over.values()))

    def frame(self) -> pl.DataFrame:
        """Return a row per picture, in the order of the feed."""
        self._flush()
        return pl.concat(self._slices)

    def passed_over_notes(self) -> tuple[str, ...]:
        """Return a line for each reason why products were passed over, with the first of them."""
        return tuple(
            f"{counted(len(ids), 'product')} passed over, {reason}: {', '.join(ids[:MAX_EXAMPLES])}"
            + f" and {len(ids) - MAX_EXAMPLES:,} more" * (len(ids) > MAX_EXAMPLES)
            for reason, ids in self._passed_over.items()
        )

    def _flush(self) -> None:
        pictures, self._pictures = self._pictures, []
        if not pictures:
            return
        texts = [pl.Series(name, [getattr(picture, name) for picture in pictures], pl.String) for name in TEXT_COLUMNS]
        lists = [
            list_column([getattr(picture, name) for picture in pictures], cast(pl.List, dtype)).alias(name)
            for name, dtype in SOURCE_SCHEMA.items()
            if name in LIST_COLUMNS
        ]
        self._slices.append(pl.DataFrame([*texts, *lists]))


def split_list(cell: str | None) -> list[str]:
    r"""Return the values in a cell that commas separate; a value writes its own comma as `\,`."""
    return [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", cell or "") if part.strip()]


def split_addresses(cell: str | None) -> list[str]:
    """Return the addresses that commas separate; a comma inside an address with a scheme does not separate."""
    if "://" not in (cell or ""):
        return split_list(cell)
    return [part.replace("\\,", ",").strip() for part in re.split(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)", cell or "")]


def last_of_path(path: str) -> str:
    """Return the last part of a path of categories: `Apple` of `Fruit > Apple`."""
    return path.rpartition(">")[2].strip()


def lowest(prices: Iterable[str]) -> str:
    """Return the lowest of some prices, "" without any."""
    return min(filter(None, prices), key=lambda price: parse_value(price).number or math.inf, default="")
