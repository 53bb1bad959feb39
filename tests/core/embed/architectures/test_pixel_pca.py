from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.errors import BadConfig


def config_of(weights: str, size_px: int = 32) -> EmbedConfig:
    return EmbedConfig(backbone="pca_pixels", weights=weights, size_px=size_px)


def test_pixel_pca_gives_the_coordinates_that_scikit_learn_gives():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    module = load_backbone(config_of("fit:0", size_px=8), lambda: pixels).module
    rows = pixels.transpose(0, 3, 1, 2).reshape(40, -1) / 255
    expected = PCA(39).fit_transform(rows)
    seen = module(torch.from_numpy(pixels)).numpy()
    assert seen.shape == (40, 128)
    np.testing.assert_allclose(np.abs(seen[:, :39]), np.abs(expected), atol=1e-4)
    assert not seen[:, 39:].any()


def test_pixel_pca_of_more_pictures_than_pixels_is_the_same_pca():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    module = load_backbone(config_of("fit:0", size_px=4), lambda: pixels).module
    expected = PCA(48).fit_transform(pixels.transpose(0, 3, 1, 2).reshape(60, -1) / 255)
    np.testing.assert_allclose(np.abs(module(torch.from_numpy(pixels)).numpy()[:, :48]), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_pixel_pca_wants_two_pictures(n):
    with pytest.raises(BadConfig, match=f"at least two, got {n}"):
        load_backbone(config_of("fit:0"), lambda: np.zeros((n, 32, 32, 3), np.uint8))


def test_pixel_pca_without_a_catalogue_is_refused():
    with pytest.raises(BadConfig, match="own pictures; none were given"):
        load_backbone(config_of("fit:0"))
