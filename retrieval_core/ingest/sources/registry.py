"""Every kind of source by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.tables.columns import with_columns
from retrieval_core.ingest.sources.tables.table import TableSource

# Module and class below this folder, imported when the first source of the kind is opened; the class takes the URI.
KINDS = {
    "folder": ("folder", "FolderSource"),
    "table": ("tables.table", "TableSource"),
    "merchant": ("feeds.merchant", "MerchantSource"),
    "shopify": ("feeds.shopify", "ShopifySource"),
    "woocommerce": ("feeds.woocommerce", "WooCommerceSource"),
    "jsonl": ("feeds.jsonl", "JsonlSource"),
    "sql": ("tables.sql", "SqlSource"),
    "webdataset": ("packed.webdataset", "WebDatasetSource"),
    "hf": ("packed.hf", "HfSource"),
    "ccp": ("ccp", "CcpSource"),
    "synthetic": ("synthetic", "SyntheticSource"),
    "inshop": ("inshop", "InShopSource"),
    "fashion-products": ("fashion_products", "FashionProductsSource"),
    "mnist": ("mnist", "MnistSource"),
    "fashion-mnist": ("mnist", "FashionMnistSource"),
    "cifar10": ("cifar", "Cifar10Source"),
    "cifar100": ("cifar", "Cifar100Source"),
    "imagenet": ("imagenet", "ImageNetSource"),
}


_LOGIN = re.compile(r"://[^/?#@:\[]*:(?!\d+/)[^@]*@")  # what follows a host's colon is its port
_SQL_LOGIN = re.compile(r"^sql:.*(://[^/?#@]*:.*@|password)", re.IGNORECASE)


def checked_spec(spec: str) -> str:
    """Return a source's `KIND:URI`, which runs log and keep. Raises `BadConfig`, without the text, for a password."""
    if _LOGIN.search(spec) or _SQL_LOGIN.search(spec):
        raise BadConfig(
            f"the source {spec.partition(':')[0]}:… holds a password, which every run would keep; take it out. The URL "
            "of a database belongs in VITRINE_SQL_URL, or in the variable that ?database=env:NAME names"
        )
    return spec


def configured_spec(spec: str, columns: Mapping[str, Any]) -> str:
    """Return a source's `KIND:URI` with the columns of a config's `[columns]`. Raises `BadConfig`, also for a password.

    A source of another kind than a table or feed has no columns.
    """
    kind = checked_spec(spec).partition(":")[0]
    if columns and kind in KINDS and not issubclass(_class_of(kind), TableSource):
        raise BadConfig(f"[columns] names columns, but {kind}: has none; use another config, or a table: or feed")
    return with_columns(spec, columns) if columns else spec


def _class_of(kind: str) -> type:
    module, name = KINDS[kind]
    kind_class: type = getattr(import_module(f"{__package__}.{module}"), name)
    return kind_class


def open_source(spec: str) -> Source:
    """Open the source `KIND:URI`; a relative path starts at the working folder.

    Raises `BadConfig` for an unknown kind or a password in the text, `SourceMissing` for an absent or empty source, and
    what the kind's class raises.
    """
    kind, _, uri = checked_spec(spec).partition(":")
    if kind not in KINDS or not uri:
        raise BadConfig(f"source {spec!r} is not KIND:URI with a kind of {', '.join(KINDS)}; e.g. folder:./pictures")
    source: Source = _class_of(kind)(uri)
    return source
