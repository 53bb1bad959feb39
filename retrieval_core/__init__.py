"""Keep a product catalogue searchable by picture.

    from retrieval_core import Query, open_release

    release = open_release("vitrine-store")
    for hit in release.search("query.jpg", k=5):
        print(hit.item_id, hit.score)

The names in `__all__` are for scripts; modules below this package may change between minor versions. Each name is
imported when it is first used, so importing this package takes no time.

Importing it also tells other libraries not to report to their makers, unless the environment says otherwise.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from retrieval_core.errors import (
    AliasConflict,
    BadConfig,
    CatalogInvalid,
    DimensionMismatch,
    ImageRefused,
    LeaseLost,
    NotFound,
    Permanent,
    ShardCorrupt,
    SourceMissing,
    StoreBusy,
    StoreNotWritable,
    StoreUnavailable,
    TargetRefused,
    TargetUnavailable,
    TooManyRejects,
    Transient,
    VitrineError,
    WeightsInvalid,
    WeightsUnavailable,
)

if TYPE_CHECKING:
    from retrieval_core.search.hits import Hit
    from retrieval_core.search.live import LiveRelease
    from retrieval_core.search.query import Query
    from retrieval_core.search.release import OpenRelease, open_release
    from retrieval_core.settings import Settings
    from retrieval_core.store.base import Store
    from retrieval_core.store.uris import open_store

    __version__: str

__all__ = [
    "AliasConflict",
    "BadConfig",
    "CatalogInvalid",
    "DimensionMismatch",
    "Hit",
    "ImageRefused",
    "LeaseLost",
    "LiveRelease",
    "NotFound",
    "OpenRelease",
    "Permanent",
    "Query",
    "Settings",
    "ShardCorrupt",
    "SourceMissing",
    "Store",
    "StoreBusy",
    "StoreNotWritable",
    "StoreUnavailable",
    "TargetRefused",
    "TargetUnavailable",
    "TooManyRejects",
    "Transient",
    "VitrineError",
    "WeightsInvalid",
    "WeightsUnavailable",
    "__version__",
    "open_release",
    "open_store",
]

# Each library reads its variable when it is imported, so this package has to be imported first.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)
# OpenVINO has no such variable: it reports every import, unless the package that does so cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_MODULES = {
    "Hit": "search.hits",
    "LiveRelease": "search.live",
    "OpenRelease": "search.release",
    "Query": "search.query",
    "Settings": "settings",
    "Store": "store.base",
    "open_release": "search.release",
    "open_store": "store.uris",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("vitrine")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
