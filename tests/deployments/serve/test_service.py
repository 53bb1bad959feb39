"""What is asked of releases between a visitor's request and the page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.serve.api.requests import SearchRequest
from deployments.serve.service import SearchService
from retrieval_core.errors import BadConfig, NotFound
from tests.deployments.conftest import FIRST, SECOND


def test_releases_are_opened_by_name_and_by_nothing_else(service: SearchService) -> None:
    assert service.open().release.fingerprint == SECOND
    assert service.open(FIRST[:8]).release.fingerprint == FIRST
    assert service.open(FIRST) is service.open(FIRST[:6]), "a release is opened once"
    with pytest.raises(NotFound, match="no release"):
        service.open("c" * 32)
    for name in ("../../etc/passwd", "", "latest", "artifact:x", "A" * 32):
        with pytest.raises(BadConfig, match="names no release"):
            service.open(name)


def test_the_page_of_a_release_starts_with_items_of_every_category(service: SearchService) -> None:
    examples = service.examples(service.open())
    assert {example.category for example in examples} == {"coat", "dress"}
    assert len({example.item_id for example in examples}) == len(examples) >= 10
    assert service.thumbnails(service.open(), [example.item_id for example in examples])[0].startswith(
        "data:image/jpeg"
    )


def test_a_picture_that_cannot_be_read_leaves_a_gap_and_no_error(service: SearchService) -> None:
    class Broken:
        release = SimpleNamespace(catalog=SimpleNamespace(name="broken"))

        def picture_bytes(self, item_id: str) -> bytes:
            if item_id == "gone":
                raise NotFound("the file is gone")
            return b"\xff\xd8\xff"

    broken: Any = Broken()
    assert service.thumbnails(broken, ["gone", "damaged"]) == ["", ""]


def test_what_was_searched_is_shown_where_it_differs_from_the_picture(service: SearchService, shop: Any) -> None:
    data = shop.picture("item-1-0").read_bytes()
    masked: Any = SimpleNamespace(apply_view=lambda picture: np.zeros_like(picture), picture_bytes=lambda item_id: data)
    captions = [caption for caption, _ in service.query_pictures(masked, SearchRequest(images=(data,)))]
    assert captions == ["your picture", "as it was searched"]
    assert len(service.query_pictures(masked, SearchRequest(images=(data,), whole=True))) == 1
    assert service.query_pictures(masked, SearchRequest(item_ids=("item-1-0",)))[0][0] == "item item-1-0"
    assert service.query_pictures(masked, SearchRequest(texts=("red",))) == []
    assert len(service.query_pictures(service.open(), SearchRequest(images=(data,)))) == 1, (
        "a raw release shows the picture itself"
    )
