"""Drawn pictures with exact masks, and one segmenter trained on them."""

import contextlib
import io

import numpy as np
import pytest
import torch

from retrieval_core.config.stages import MaskConfig
from retrieval_core.mask.train import SegmentationData, save_segmenter, train_segmenter

SIZE_PX = 64


def drawn_shapes(n, seed, size_px=SIZE_PX):
    """A bright ellipse or rectangle on a dark noisy ground, in random colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size_px, :size_px] / size_px
    pixels = rng.integers(0, 70, (n, size_px, size_px, 3), dtype=np.uint8)
    masks = np.empty((n, size_px, size_px), np.bool_)
    for row in range(n):
        center, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.15, 0.35, 2)
        away = np.abs(np.stack((x - center[0], y - center[1]))) / radius[:, None, None]
        masks[row] = (away.max(0) if row % 2 else np.hypot(*away)) < 1
        pixels[row][masks[row]] = rng.integers(140, 256, 3)
    return SegmentationData(pixels, masks)


@pytest.fixture(scope="session")
def config():
    return MaskConfig(
        encoder="resnet18", weights="random:0", size_px=SIZE_PX, max_epochs=6, batch_size=4, target_iou=0.85
    )


@pytest.fixture(scope="session")
def shapes():
    """Makes n drawn pictures of a seed."""
    return drawn_shapes


@pytest.fixture(scope="session")
def trained(config):
    torch.set_num_threads(1)  # the same sums in the same order, on any machine
    return train_segmenter(drawn_shapes(40, 0), drawn_shapes(16, 1), config)


@pytest.fixture(scope="session")
def folder(trained, config, tmp_path_factory):
    """The trained segmenter, stored; what storing said on stdout lies beside it, in `stdout.txt`."""
    path = tmp_path_factory.mktemp("segmenter")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        save_segmenter(trained, config, path)
    (path / "stdout.txt").write_text(said.getvalue())
    return path
