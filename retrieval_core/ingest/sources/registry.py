"""Every kind of source by its name."""

from __future__ import annotations

import re
from importlib import import_module

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import Source

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


def open_source(spec: str) -> Source:
    """Open the source `KIND:URI`; a relative path starts at the working folder.

    Raises `BadConfig` for an unknown kind or a password in the text, `SourceMissing` for an absent or empty source, and
    what the kind's class raises.
    """
    kind, _, uri = checked_spec(spec).partition(":")
    if kind not in KINDS or not uri:
        raise BadConfig(f"source {spec!r} is not KIND:URI with a kind of {', '.join(KINDS)}; e.g. folder:./pictures")
    module, name = KINDS[kind]
    source: Source = getattr(import_module(f"{__package__}.{module}"), name)(uri)
    return source
