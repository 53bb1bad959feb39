"""Every kind of source by its name: `KIND:URI` to a source."""

from __future__ import annotations

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import Source

KINDS = (
    "folder", "table", "ccp", "synthetic",
    "inshop", "fashion-products", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet",
)  # fmt: skip


def open_source(spec: str) -> Source:
    """The source named by `KIND:URI`; a relative path starts at the working folder.

    Raises `BadConfig` for an unknown kind, `SourceMissing` for an absent or empty source.
    """
    kind, _, uri = spec.partition(":")
    if kind not in KINDS or not uri:
        raise BadConfig(f"source {spec!r} is not KIND:URI with a kind of {', '.join(KINDS)}; e.g. folder:./pictures")
    match kind:
        case "folder":
            from retrieval_core.ingest.sources.folder import FolderSource

            return FolderSource(uri)
        case "table":
            from retrieval_core.ingest.sources.table import TableSource

            return TableSource(uri)
        case "ccp":
            from retrieval_core.ingest.sources.ccp import CcpSource

            return CcpSource(uri)
        case "inshop":
            from retrieval_core.ingest.sources.inshop import InShopSource

            return InShopSource(uri)
        case "fashion-products":
            from retrieval_core.ingest.sources.fashion_products import FashionProductsSource

            return FashionProductsSource(uri)
        case "mnist" | "fashion-mnist":
            from retrieval_core.ingest.sources.mnist import MnistSource

            return MnistSource(kind, uri)
        case "cifar10" | "cifar100":
            from retrieval_core.ingest.sources.cifar import CifarSource

            return CifarSource(kind, uri)
        case "imagenet":
            from retrieval_core.ingest.sources.imagenet import ImageNetSource

            return ImageNetSource(uri)
        case _:
            from retrieval_core.ingest.synthetic.source import SyntheticSource

            return SyntheticSource(uri)
