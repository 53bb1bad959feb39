"""`merchant:FILE`: a feed of Google Merchant Center, as XML (RSS 2.0 or Atom) or delimited text, perhaps in gzip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from retrieval_core.ingest.sources.feeds.feed import Export, FeedSource, Stream
from retrieval_core.ingest.sources.feeds.pictures import PictureRows, Product, last_of_path, split_addresses
from retrieval_core.ingest.sources.feeds.xml_items import XmlItems
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.table import read_whole

PICTURES = ("image link", "additional image link")
PATHS = ("product type", "google product category")
ATTRIBUTES = ("brand", "color", "size", "material", "pattern", "gender", "age group", "condition")
FIELDS = ("title", "link", "price", "sale price", "brand", "availability")
USES = {
    "id": "item_id", **dict.fromkeys(PICTURES, "image_uri"), "item group id": "product_id",
    **dict.fromkeys(PATHS, "category"), **{key: key.replace(" ", "_") for key in (*ATTRIBUTES, *FIELDS)},
}  # fmt: skip


class _Entry(NamedTuple):
    position: str
    values: Mapping[str, Sequence[str]]

    def first(self, key: str) -> str:
        return next(filter(None, self.values.get(key, ())), "")


class MerchantSource(FeedSource):
    """A Merchant feed: `id` and `image_link`, and what else its specification names.

    Items with one `item_group_id` are one product. The category is the last part of `product_type`, or else of
    `google_product_category`. An `additional_image_link` is a further picture, the item `ID/2`.
    """

    kind = "merchant"

    def _collect(self, stream: Stream, rows: PictureRows) -> tuple[str, ...]:
        used = (*USES, self._deleted_key, *self._field_keys)
        head = stream.read(64)
        stream.seek(0)
        if head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
            items = XmlItems(stream)
            n_numbers = self._add(rows, (_Entry(f"line {item.line}", item.values) for item in items))
            self._require_fields(items.names)
            return ("XML", *_numbers_note(n_numbers), *self._column_notes(items.names, USES))
        required = ("id", "image_link", self._columns.deleted)
        export = Export(read_whole(stream), required, ("image_link", "image link"))
        self._require_fields(export.names)
        n_numbers = self._add(rows, (_entry(number, row) for number, row in export.rows(used)))
        return (export.note, *_numbers_note(n_numbers), *self._column_notes(export.names, USES))

    def _add(self, rows: PictureRows, entries: Iterator[_Entry]) -> int:
        """Add the products of a feed; return how many have a number as category."""
        n_numbers = 0
        for entry in entries:
            item_id = entry.first("id")
            rows.claim(item_id, entry.position)
            if not rows.is_deleted(item_id, entry.first(self._deleted_key)):
                product = _product(entry, self._named_fields({key: entry.first(key) for key in self._field_keys}))
                n_numbers += product.category.isdecimal()
                rows.add(product)
        return n_numbers


def _entry(number: int, row: Mapping[str, str]) -> _Entry:
    values = {key: [cell] for key, cell in row.items()}
    return _Entry(f"row {number}", {**values, PICTURES[1]: split_addresses(row[PICTURES[1]])})


def _product(entry: _Entry, named: dict[str, str]) -> Product:
    item_id, path = entry.first("id"), entry.first(PATHS[0]) or entry.first(PATHS[1])
    fields = {key.replace(" ", "_"): entry.first(key) for key in FIELDS}
    return Product(
        item_id,
        [address for key in PICTURES for address in entry.values.get(key, ())],
        entry.first("item group id") or item_id,
        last_of_path(path),
        (),
        {key.replace(" ", "_"): entry.first(key) for key in (*PATHS, *ATTRIBUTES)},
        # The specification has "in_stock" now and had "in stock" before.
        fields=fields | {"availability": fields["availability"].replace("_", " ")} | named,
    )


def _numbers_note(n: int) -> tuple[str, ...]:
    if not n:
        return ()
    return (f"{counted(n, 'product')} with a number of Google's taxonomy as category, which stays a number",)
