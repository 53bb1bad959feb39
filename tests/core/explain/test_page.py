"""The page of an item holds its pictures, and trusts no catalogue row."""

from __future__ import annotations

from collections.abc import Callable

from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.releases import get_release
from retrieval_core.explain.explanation import Explanation, SelfSearch
from retrieval_core.explain.page import read_pictures, render_page
from retrieval_core.search.hits import Hit
from tests.core.conftest import Shop
from tests.core.explain.conftest import ITEM

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e"


def test_a_page_escapes_catalogue_values_and_loads_nothing(
    shop: Shop, explained: Callable[..., Explanation], publish_changed: Callable[..., Release]
) -> None:
    publish_changed("r2", "3000-01-01T00:00:00+00:00", category=HOSTILE, labels=[HOSTILE], product_id=HOSTILE)
    item = explained(ITEM, "r2")
    hostile = Hit(item_id=HOSTILE, score=0.5, image_uri="nowhere.jpg", category=HOSTILE, labels=[HOSTILE])
    item = item.model_copy(update={"item_id": HOSTILE, "neighbours": (hostile, *item.neighbours[:9])})
    item = item.model_copy(update={"itself": SelfSearch(first="Item-X")})
    page = render_page(item, read_pictures(shop.store, get_release(shop.store, "r2"), item))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Not among the first ten by its own picture; the first is Item-X" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 10, "the picture, and nine of ten hits"
    assert "http://" not in page
    assert "https://" not in page


def test_a_picture_that_cannot_be_read_is_a_gap(shop: Shop, explained: Callable[..., Explanation]) -> None:
    shop.picture(ITEM).unlink()
    removed = explained(ITEM)
    page = render_page(removed, read_pictures(shop.store, get_release(shop.store, "r1"), removed))
    assert page.count("<img") == len(removed.neighbours)
