"""A shop whose releases differ in one item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import QUARANTINE_SCHEMA
from retrieval_core.artifacts.manifests import Catalog, Release
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.artifacts.releases import get_release
from retrieval_core.explain.explanation import Explanation, explain
from tests.core.conftest import Shop

ITEM = "item-2-0"
REJECT = {"item_id": ITEM, "image_uri": "x.jpg", "content_id": "c", "reason": "not a picture", "attempts": 3}


@pytest.fixture
def shop(new_shop: Callable[[Path], Shop], tmp_path: Path) -> Shop:
    """A shop with one release, r1."""
    shop = new_shop(tmp_path)
    shop.publish()
    return shop


@pytest.fixture
def explained(shop: Shop) -> Callable[..., Explanation]:
    """`explained(item_id, release)` is the explanation of an item in a release of the shop."""
    return lambda item_id, release="r1": explain(shop.store, get_release(shop.store, release), item_id, shop.settings)


@pytest.fixture
def publish_changed(shop: Shop) -> Callable[..., Release]:
    """`publish_changed(name, created, **values)` seals a release of r1's index with these values of `ITEM`.

    Without values, its catalogue lacks the item.
    """

    def publish(name: str, created: str, **values: Any) -> Release:
        items = shop.items
        if values:
            is_item = pl.col("item_id") == ITEM
            changes = {
                key: pl.when(is_item).then(pl.lit(value, items.schema[key])).otherwise(pl.col(key))
                for key, value in values.items()
            }
            items = items.with_columns(**changes)
        else:
            items = items.filter(pl.col("item_id") != ITEM)
        n_bad = items.filter(pl.col("status") != "ok").height
        ledger = pl.DataFrame([REJECT | {"last_seen": created}] * n_bad, schema=QUARANTINE_SCHEMA)
        parts = tuple(
            put_part(shop.store, f"catalogs/{name}/{table}.parquet", table_bytes(frame), len(frame))
            for table, frame in {"items": items, "quarantine": ledger}.items()
        )
        catalog = Catalog(fingerprint=name, parts=parts).seal(shop.store)
        changed = {"fingerprint": name, "catalog": catalog.ref, "created": created}
        return get_release(shop.store, "r1").model_copy(update=changed).seal(shop.store)

    return publish
