"""A network of two convolutions, and drawn pictures whose colour is their class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from retrieval_core.arrays import UInt8
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.images import Preprocess

TINY_DIM = 16
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 210, 40))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the same sums in the same order, on any machine


@pytest.fixture
def tiny_embedder() -> Callable[..., ImageEmbedder]:
    """`tiny_embedder(seed, dim)`: vectors of 16 dimensions, or of `dim` through a projection."""

    def build(seed: int = 0, dim: int = 0) -> ImageEmbedder:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nn.Sequential(
                *(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
                *(nn.Conv2d(8, TINY_DIM, 3, stride=2), nn.BatchNorm2d(TINY_DIM), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            )
            projection = nn.Linear(TINY_DIM, dim) if dim else None
        return ImageEmbedder(get_card("resnet18").model_copy(update={"dim": TINY_DIM}), network, projection)

    return build


@pytest.fixture
def preprocess() -> Preprocess:
    """Crops of 28 px from prepared squares of 32 px."""
    return Preprocess(size_px=28, crop_fraction=0.875)


@pytest.fixture
def coloured() -> Callable[..., UInt8]:
    """`coloured(codes, seed)`: a (32, 32, 3) picture for each colour number, a patch on noise; -1 has no patch."""

    def draw(codes: npt.ArrayLike, seed: int = 0) -> UInt8:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 120, (len(np.atleast_1d(codes)), 32, 32, 3), dtype=np.uint8)
        for picture, code in zip(pixels, np.atleast_1d(codes), strict=True):
            if code >= 0:
                top, left = rng.integers(4, 10, 2)
                picture[top : top + 18, left : left + 18] = COLOURS[code]
        return pixels

    return draw
