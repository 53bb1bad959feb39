"""`shopify:FILE`: the product export of a Shopify shop in CSV, with several rows a product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from retrieval_core.fields.values import parse_value
from retrieval_core.ingest.sources.feeds.feed import Export, FeedSource, Stream
from retrieval_core.ingest.sources.feeds.pictures import PictureRows, Product, last_of_path, lowest, split_list
from retrieval_core.ingest.sources.tables.table import read_whole

# The spellings of each column in older and newer exports.
HANDLE = ("handle", "url handle")
PICTURE = ("image src", "product image url")
VARIANT_PICTURE = ("variant image", "variant image url")
PUBLISHED = ("published", "published on online store")
TYPE = ("type", "custom product type")
PATH = ("product category", "standard product type")
PRICE = ("variant price", "price")
FORMER_PRICE = ("variant compare at price", "compare at price")
QUANTITY = ("variant inventory qty", "inventory quantity")
TRACKER = ("variant inventory tracker", "inventory tracker")
POLICY = ("variant inventory policy", "continue selling when out of stock")
OPTIONS = [(f"option{n} name", f"option{n} value") for n in (1, 2, 3)]
NO_OPTION = ("Title", "Default Title")  # of a product without variants
USES = {
    **dict.fromkeys(HANDLE, "item_id and product_id"), **dict.fromkeys((*PICTURE, *VARIANT_PICTURE), "image_uri"),
    "image position": "order of pictures", **dict.fromkeys((*TYPE, *PATH), "category"), "tags": "labels",
    **dict.fromkeys((*PUBLISHED, "status"), "published or not"), "vendor": "brand", "title": "title",
    **{key: "attributes" for pair in OPTIONS for key in pair}, **dict.fromkeys(PRICE, "price"),
    **dict.fromkeys(FORMER_PRICE, "compare_at_price"), **dict.fromkeys((*QUANTITY, *TRACKER, *POLICY), "availability"),
}  # fmt: skip
UNPUBLISHED = ("draft", "archived", "unlisted")

Row = Mapping[str, str]


class _Group(NamedTuple):
    """The rows of a product."""

    handle: str
    rows: list[Row]

    def first(self, *keys: str) -> str:
        return next((row[key] for key in keys for row in self.rows if row[key]), "")


class ShopifySource(FeedSource):
    """A Shopify export: a product's pictures are the items `HANDLE`, `HANDLE/2`… of the product `HANDLE`.

    A picture gets the options (size, colour) on which all variants agree that have it as their `Variant Image`, or
    without such a variant those on which all variants of the product agree. Drafts are passed over.
    """

    kind = "shopify"

    def _collect(self, stream: Stream, rows: PictureRows) -> tuple[str, ...]:
        data = read_whole(stream)
        export = Export(data, (self._columns.deleted,), ("Image Src", *PICTURE))
        used = (*USES, self._deleted_key, *self._field_keys)
        self._require_fields(export.names)
        for spellings in (HANDLE, PICTURE):
            if not any(key in export.names for key in spellings):
                raise ValueError(f"it lacks column {spellings[0].title()}; it has {', '.join(export.names.values())}")
        for group in _groups(export, used, rows):
            status = group.first("status").casefold()
            if rows.is_deleted(group.handle, group.first(self._deleted_key)):
                continue
            if status in UNPUBLISHED:
                rows.pass_over(f"with status {status}", group.handle)
            elif group.first(*PUBLISHED).casefold() == "false":
                rows.pass_over("not published", group.handle)
            else:
                rows.add(self._product(group))
        return (export.note, *self._column_notes(export.names, USES))

    def _product(self, group: _Group) -> Product:
        product = _product(group)
        fields = {address: _fields(group, address) for address in product.pictures}
        for values in fields.values():
            prices = dict.fromkeys(PRICE, values["price"]) | dict.fromkeys(FORMER_PRICE, values["compare_at_price"])
            values |= self._named_fields({key: prices.get(key) or group.first(key) for key in self._field_keys})
        return product._replace(fields_of_picture=fields)


def _groups(export: Export, used: Sequence[str], rows: PictureRows) -> Iterator[_Group]:
    """Yield the rows of each product. Raises `ValueError` when those of two products have one handle."""
    group: _Group | None = None
    for number, row in export.rows(used):
        handle = row[HANDLE[0]] or row[HANDLE[1]]
        is_other = group is None or handle != group.handle
        if group is not None and is_other:
            yield group
        if group is None or is_other:
            rows.claim(handle, f"row {number}")
            group = _Group(handle, [])
        elif row["title"] and row["title"] != (group.first("title") or row["title"]):
            raise ValueError(f"row {number}: the handle {handle[:80]!r} is that of two products; rename one")
        group.rows.append(row)
    if group is not None:
        yield group


def _product(group: _Group) -> Product:
    listed = [(_number(row["image position"]), row[key]) for row in group.rows for key in PICTURE if row[key]]
    pictures = [address for _, address in sorted(listed, key=lambda pair: pair[0])]
    names = [group.first(name) for name, _ in OPTIONS]
    variants = [
        (
            row[VARIANT_PICTURE[0]] or row[VARIANT_PICTURE[1]],
            {name: row[key] for name, (_, key) in zip(names, OPTIONS, strict=True) if (name, row[key]) != NO_OPTION},
        )
        for row in group.rows
        if row[OPTIONS[0][1]]
    ]
    addresses = list(dict.fromkeys(address for address, _ in variants if address))
    path = group.first(*PATH)
    return Product(
        group.handle,
        [*pictures, *addresses],
        group.handle,
        group.first(*TYPE) or last_of_path(path),
        split_list(group.first("tags")),
        {
            "brand": group.first("vendor"),
            "product_category": path,
        },
        {
            address: _agreed([options for shown, options in variants if shown == address] or [o for _, o in variants])
            for address in [*pictures, *addresses]
        },
    )


def _fields(group: _Group, address: str) -> dict[str, str]:
    """Return the fields of a picture: the lowest price of the variants that it shows, or of all variants."""
    shown = [row for row in group.rows if address in (row[key] for key in VARIANT_PICTURE)] or group.rows
    variants = _Group(group.handle, [row for row in shown if any(row[key] for key in (*PRICE, *QUANTITY))])
    price = lowest(_first(row, PRICE) for row in variants.rows)
    cheapest = next((row for row in variants.rows if price and _first(row, PRICE) == price), {})
    return {
        "title": group.first("title"),
        "link": f"/products/{group.handle}",
        "price": price,
        "compare_at_price": _first(cheapest, FORMER_PRICE),
        "brand": group.first("vendor"),
        "availability": _availability(variants.rows),
    }


def _availability(variants: Sequence[Row]) -> str:
    """Return whether a variant is in stock or sold without; "" where the export does not say how many there are."""
    if not any(_first(row, QUANTITY) for row in variants):
        return ""
    for row in variants:
        is_sold_out = _first(row, POLICY).casefold() not in ("continue", "true")
        if not is_sold_out or not _first(row, TRACKER) or _quantity(_first(row, QUANTITY)) > 0:
            return "in stock"
    return "out of stock"


def _quantity(text: str) -> float:
    return parse_value(text).number or 0.0


def _first(row: Row, keys: Sequence[str]) -> str:
    return next((row[key] for key in keys if row.get(key)), "")


def _agreed(variants: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the options that all of these variants have with one value."""
    first, *others = variants or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _number(text: str) -> float:
    return float(text) if text.isdecimal() else float("inf")
