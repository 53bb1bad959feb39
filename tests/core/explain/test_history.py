"""The history of an item lists the releases in which it came, changed or left."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.releases import get_release
from retrieval_core.explain.explanation import Explanation
from retrieval_core.explain.history import find_history, find_row
from tests.core.conftest import Shop
from tests.core.explain.conftest import ITEM


def test_history_lists_when_an_item_came_changed_and_left(
    shop: Shop, explained: Callable[..., Explanation], publish_changed: Callable[..., Release]
) -> None:
    publish_changed("r2", "3000-01-01T00:00:00+00:00", category="scarf", labels=["warm"], content_id="f" * 32)
    publish_changed("r3", "3000-01-02T00:00:00+00:00", category="scarf", labels=["warm"], content_id="f" * 32)
    publish_changed("r4", "3000-01-03T00:00:00+00:00")
    item = explained(ITEM, "r4")
    assert [(event.release, event.what) for event in item.history.events] == [
        ("r1", "came"), ("r2", "changed"), ("r4", "left"),
    ]  # fmt: skip
    detail = item.history.events[1].detail
    assert "category coat → scarf" in detail
    assert "labels green, new → warm" in detail
    picture = shop.items.row(by_predicate=pl.col("item_id") == ITEM, named=True)["content_id"]
    assert f"picture {picture[:12]} → {'f' * 12}" in detail
    assert item.state == "absent"
    assert item.row is not None
    assert item.row.category == "scarf", "as in the last release that had it"
    assert not item.neighbours
    removed = get_release(shop.store, "r1").catalog
    shop.store.delete(f"{removed.key}/manifest.json")
    history = find_history(shop.store, [ITEM]).history
    assert (history.n_releases, history.n_gone, history.events[0].release) == (4, 1, "r2")


def test_find_row_returns_the_row_of_a_catalogue_or_none(shop: Shop) -> None:
    catalog = get_release(shop.store, "r1").catalog
    row = find_row(shop.store, catalog, [ITEM])
    assert row is not None
    assert (row.item_id, row.category, row.status) == (ITEM, "coat", "ok")
    assert find_row(shop.store, catalog, ["item-99-0"]) is None


def test_an_item_of_no_release_has_no_history(shop: Shop) -> None:
    history, last = find_history(shop.store, ["item-99-0"])
    assert (history.events, history.n_releases, last) == ((), 1, None)
