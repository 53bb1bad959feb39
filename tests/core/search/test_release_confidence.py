"""Hits carry the confidence of their search; below the least confidence that is asked for there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.artifacts.releases import get_release
from retrieval_core.errors import BadConfig
from retrieval_core.images import RGB
from retrieval_core.search.confidence import CONFIDENCE_FILE, Confidence, hit_features
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease

# Half for a first hit as near as its neighbours are to it.
MODEL = Confidence(kind="product", mean=(0,) * 4, scale=(1,) * 4, weights=(20, 0, -20, 1), bias=0)


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish()
    return shop


@pytest.fixture(scope="module")
def release(shop: Any) -> OpenRelease:
    parts = put_parts(shop.store, "reports/sure", {CONFIDENCE_FILE: MODEL.model_dump_json().encode()})
    report = Report(fingerprint="sure", parts=parts, gate="published", gate_reason="").seal(shop.store)
    changed = {"fingerprint": "sure", "report": report.ref}
    return OpenRelease(
        shop.store, get_release(shop.store, "r1").model_copy(update=changed).seal(shop.store), shop.settings
    )


def stripes() -> RGB:
    return np.tile(np.repeat(np.array([0, 255], np.uint8), 8), 4)[None, :, None].repeat(64, axis=0).repeat(3, axis=2)


def expected(shop: Any, vector: np.ndarray, own: str = "") -> float:
    """Return the confidence by comparing with every item."""
    scores = {item: float(other @ vector) for item, other in shop.vectors.items() if item != own}
    hits = sorted(scores, key=lambda item: -scores[item])[:10]
    around = sorted((float(other @ shop.vectors[hits[0]]) for item, other in shop.vectors.items() if item != hits[0]))
    category = [int(hit.split("-")[1]) % 2 for hit in hits[:5]]
    features = hit_features(
        np.array([[scores[item] for item in hits]]), np.array([np.mean(around[-10:])]), np.array([category])
    )
    return float(MODEL.probability(features)[0])


def test_every_hit_carries_the_confidence_of_its_search(shop: Any, release: OpenRelease) -> None:
    hits = release.search(shop.picture("item-5-2"), k=3)
    assert len(hits) == 3
    assert {hit.confidence for hit in hits} == {hits[0].confidence}
    assert hits[0].confidence == pytest.approx(expected(shop, shop.vectors["item-5-2"]), abs=1e-4)
    (like,) = release.search(Query(item_ids=("item-4-0",)), k=1)
    assert like.confidence == pytest.approx(expected(shop, shop.vectors["item-4-0"], "item-4-0"), abs=1e-4)


def test_below_the_least_confidence_nothing_matches(shop: Any, release: OpenRelease) -> None:
    known, unknown = (release.search(picture)[0].confidence for picture in (shop.picture("item-5-2"), stripes()))
    assert known is not None
    assert unknown is not None
    assert unknown < known
    between = (known + unknown) / 2
    assert release.search(stripes(), min_confidence=between) == []
    assert release.search(shop.picture("item-5-2"), min_confidence=between) == release.search(shop.picture("item-5-2"))


def test_a_filter_that_leaves_nothing_leaves_no_match(shop: Any, release: OpenRelease) -> None:
    assert release.search(shop.picture("item-5-2"), where="category=hat", min_confidence=0.01) == []
    two = release.search(shop.picture("item-5-2"), where="product_id=p5 or product_id=p7", k=9)
    assert 0 < two[0].confidence < 1


def test_a_release_that_did_not_learn_it_searches_without_confidence(shop: Any) -> None:
    plain = shop.open()
    assert plain.search(shop.picture("item-5-2"), k=1)[0].confidence is None
    with pytest.raises(BadConfig, match="the confidence of this search is unknown"):
        plain.search(shop.picture("item-5-2"), min_confidence=0.5)
