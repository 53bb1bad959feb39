"""What is asked of releases between a request and its answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.serve.api.requests import SearchRequest, ViewRequest
from deployments.serve.service import SearchService, is_whole
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


def test_a_box_is_what_a_release_of_crops_would_find(service: SearchService) -> None:
    def of_view(view: str) -> Any:
        return SimpleNamespace(release=SimpleNamespace(variant=SimpleNamespace(view=view)))

    with_box = SearchRequest(images=(b"a",), box=(0, 0, 0.5, 0.5))
    assert is_whole(with_box, of_view("crop")), "the box is the crop"
    assert not is_whole(with_box, of_view("masked")), "within the box the background is still masked"
    assert not is_whole(SearchRequest(images=(b"a",)), of_view("crop"))


def test_a_view_is_shown_where_it_differs_from_the_picture(service: SearchService, shop: Any) -> None:
    data = shop.picture("item-1-0").read_bytes()
    raw = service.open()
    assert service.view(ViewRequest(images=(data,)), raw, data).view is None
    masked: Any = SimpleNamespace(
        release=raw.release,
        read_picture=raw.read_picture,
        apply_view=np.zeros_like,
        encoder=SimpleNamespace(product_box=lambda picture: (0.1, 0.2, 0.3, 0.4)),
    )
    answer = service.view(ViewRequest(images=(data,)), masked, data)
    assert answer.view != answer.picture
    assert answer.box == (0.1, 0.2, 0.3, 0.4)
    assert service.view(ViewRequest(images=(data,), whole=True), masked, data).view is None
