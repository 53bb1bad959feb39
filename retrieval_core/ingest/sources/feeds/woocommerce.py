"""`woocommerce:FILE`: the product export of a WooCommerce shop in CSV, with rows for products and their variations."""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval_core.ingest.sources.feeds.feed import Export, FeedSource, Stream
from retrieval_core.ingest.sources.feeds.pictures import (
    PictureRows,
    Product,
    last_of_path,
    lowest,
    split_addresses,
    split_list,
)
from retrieval_core.ingest.sources.tables.table import read_whole

REQUIRED = ("ID", "Type", "Images")
USES = {
    "id": "item_id", **dict.fromkeys(("type", "parent", "sku"), "product_id"), "images": "image_uri",
    "categories": "category", "tags": "labels", "brands": "brand", "published": "published or not", "name": "title",
    "regular price": "price", "sale price": "sale_price", "in stock?": "availability", "external url": "link",
}  # fmt: skip
AVAILABILITY = {"1": "in stock", "0": "out of stock", "backorder": "backorder"}
ATTRIBUTE = re.compile(r"attribute (\d+) name")

Row = Mapping[str, str]


class WooCommerceSource(FeedSource):
    """A WooCommerce export: the pictures of the product `ID` are the items `ID`, `ID/2`….

    A variation is an item of its parent's product, with the parent's category, labels and brand. An attribute with
    several values, as a parent has them, is that of no picture. Products that are not published are passed over.
    """

    kind = "woocommerce"

    def _collect(self, stream: Stream, rows: PictureRows) -> tuple[str, ...]:
        export = Export(read_whole(stream), (*REQUIRED, self._columns.deleted), ("Images", "images"))
        numbers = [match[1] for key in export.names if (match := ATTRIBUTE.fullmatch(key))]
        pairs = [(f"attribute {number} name", f"attribute {number} value(s)") for number in numbers]
        uses = USES | {key: "attributes" for pair in pairs for key in pair}
        used = (*uses, self._deleted_key, *self._field_keys)
        self._require_fields(export.names)
        parents = _Parents(export)
        for number, row in export.rows(used):
            rows.claim(row["id"], f"row {number}")
            if rows.is_deleted(row["id"], row[self._deleted_key]):
                continue
            is_variation = "variation" in split_list(row["type"])
            parent = parents.find(row["parent"]) if is_variation else row
            if parent is None and self.is_delta:  # passed over, it would leave the catalogue
                raise ValueError(f"row {number}: of variation {row['id']} the parent is missing; export both")
            if parent is None:
                rows.pass_over("a variation whose parent is not in the export", row["id"])
            elif not _is_published(row) or not _is_published(parent):
                rows.pass_over("not published", row["id"])
            else:
                product = _product(row, parent, [(row[name], row[value]) for name, value in pairs])
                named = self._named_fields({key: row[key] or parent[key] for key in self._field_keys})
                rows.add(product._replace(fields=_fields(row, parent, parents.prices(row)) | named))
        return (export.note, *self._column_notes(export.names, uses))


class _Parents:
    """The products of an export that may have variations, by id and by SKU."""

    def __init__(self, export: Export) -> None:
        self._by_reference: dict[str, Row] = {}
        self._prices: dict[str, list[str]] = {}
        for _, row in export.rows([*USES]):
            if "variation" in split_list(row["type"]):
                self._prices.setdefault(row["parent"], []).append(row["regular price"])
            else:
                self._by_reference[f"id:{row['id']}"] = row
                if row["sku"]:
                    self._by_reference.setdefault(row["sku"], row)

    def find(self, reference: str) -> Row | None:
        """Return the product that a variation's `Parent` names, `id:123` or a SKU."""
        return self._by_reference.get(reference)

    def prices(self, parent: Row) -> list[str]:
        """Return the prices of a product's variations."""
        return [price for key in (f"id:{parent['id']}", parent["sku"]) if key for price in self._prices.get(key, [])]


def _product(row: Row, parent: Row, attributes: list[tuple[str, str]]) -> Product:
    paths = split_list(row["categories"] or parent["categories"])
    path = max(paths, key=lambda each: each.count(">"), default="")
    single = {name: values[0] for name, cell in attributes if len(values := split_list(cell)) == 1}
    return Product(
        row["id"],
        split_addresses(row["images"]),
        parent["id"],
        last_of_path(path),
        [*(last_of_path(each) for each in paths if each != path), *split_list(row["tags"] or parent["tags"])],
        {"brand": row["brands"] or parent["brands"], "product_category": path, **single},
    )


def _fields(row: Row, parent: Row, prices: list[str]) -> dict[str, str]:
    """Return the fields of a product or a variation; a product without a price has the lowest of its variations."""
    return {
        "title": row["name"] or parent["name"],
        "link": row["external url"] or f"/?p={parent['id']}",
        "price": row["regular price"] or lowest(prices),
        "sale_price": row["sale price"],
        "brand": row["brands"] or parent["brands"],
        "availability": AVAILABILITY.get(row["in stock?"].casefold(), row["in stock?"]),
    }


def _is_published(row: Row) -> bool:
    return row["published"] in ("", "1")
