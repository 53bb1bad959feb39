"""Pictures that come at the same time share forward passes, and a bound keeps too many from waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from deployments.serve.api import batching
from deployments.serve.api.batching import PictureBatches
from deployments.serve.api.problems import TooBusy
from deployments.serve.metrics import Measurements
from retrieval_core.errors import ImageRefused, WeightsInvalid


class Release:
    """Notes the sizes of its forward passes; a picture's vector is its number."""

    def __init__(self, batch_size: int = 4) -> None:
        self.sizes: list[int] = []
        self.may_decode, self.may_embed = threading.Event(), threading.Event()
        self.may_decode.set()
        self.may_embed.set()
        self.encoder = SimpleNamespace(embed=self._embed, batch_size=batch_size)

    def fit_picture(self, data: bytes, whole: bool) -> np.ndarray:
        assert self.may_decode.wait(20)
        if data == b"broken":
            raise ImageRefused("no picture")
        return np.full((2, 2, 3), int(data), np.uint8)

    def _embed(self, pixels: np.ndarray) -> np.ndarray:
        assert self.may_embed.wait(20)
        self.sizes.append(len(pixels))
        if (pixels == 99).any():
            raise WeightsInvalid("damaged")
        return pixels[:, :1, 0, 0].astype(np.float32)


@pytest.fixture
def batches() -> Iterator[PictureBatches]:
    batches = PictureBatches(Measurements(CollectorRegistry()))
    yield batches
    batches.close()


def numbers(vectors: list[Any]) -> list[int]:
    return [int(vector[0]) for vector in vectors]


def test_pictures_that_come_together_share_passes_and_get_their_own_vectors(batches: PictureBatches) -> None:
    release: Any = Release()

    async def run() -> list[Any]:
        return await asyncio.gather(*(batches.embed(release, str(n).encode(), False) for n in range(12)))

    assert numbers(asyncio.run(run())) == list(range(12))
    assert sum(release.sizes) == 12
    assert max(release.sizes) <= 4
    assert len(release.sizes) < 12


def test_a_full_batch_goes_while_more_are_decoded(batches: PictureBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WAIT_S", 20.0)
    release: Any = Release(batch_size=2)

    async def run() -> list[Any]:
        return await asyncio.gather(*(batches.embed(release, str(n).encode(), False) for n in range(4)))

    assert numbers(asyncio.run(asyncio.wait_for(run(), 15))) == [0, 1, 2, 3]


def test_one_picture_waits_for_nothing(batches: PictureBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WAIT_S", 60.0)
    release: Any = Release()
    vector = asyncio.run(asyncio.wait_for(batches.embed(release, b"7", False), 15))
    assert (numbers([vector]), release.sizes) == ([7], [1])


def test_a_broken_picture_or_pass_fails_those_it_is_about(batches: PictureBatches) -> None:
    release, damaged = Release(), Release()
    wanted: list[tuple[Any, bytes]] = [(release, b"1"), (release, b"broken"), (damaged, b"99"), (release, b"2")]

    async def run() -> list[Any]:
        asked = [batches.embed(each, data, False) for each, data in wanted]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, broken, lost, second = asyncio.run(run())
    assert numbers([first, second]) == [1, 2]
    assert isinstance(broken, ImageRefused)
    assert isinstance(lost, WeightsInvalid)


def test_too_many_pictures_are_refused_and_room_comes_back(
    batches: PictureBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING", 3)
    release: Any = Release()
    release.may_embed.clear()

    async def run() -> None:
        waiting = [asyncio.create_task(batches.embed(release, str(n).encode(), False)) for n in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooBusy) as refused:
            await batches.embed(release, b"4", False)
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        waiting[0].cancel()  # its client left
        release.may_embed.set()
        assert numbers(await asyncio.gather(*waiting[1:])) == [1, 2]
        assert numbers([await batches.embed(release, b"5", False)]) == [5]

    asyncio.run(run())
