"""Near-duplicates: the same picture cut or toned otherwise is found, and a kind of pictures is not one picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from retrieval_core.metrics.picture_similarity import near_duplicates, thumbnails


def photograph(seed, size_px=200):
    """Patches of every size in random colours, as scenes have them."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size_px, size_px, 3))
    for patches, strength in ((3, 60), (7, 40), (15, 30), (40, 20)):
        grid = Image.fromarray(rng.integers(0, 256, (patches, patches, 3), dtype=np.uint8))
        picture += strength / 75 * (np.asarray(grid.resize((size_px, size_px), Image.Resampling.BICUBIC)) / 2 - 64)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def square(picture, size_px=64):
    return np.asarray(Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BICUBIC))


def shirt(seed, size_px=64):
    """A dark shape on white, much like any other of its kind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size_px, :size_px] / size_px
    half = 0.2 + 0.1 * (y < 0.4) + rng.uniform(-0.02, 0.02)
    inside = (np.abs(x - 0.5) < half) & (np.abs(y - 0.5) < 0.35 + rng.uniform(-0.02, 0.02))
    picture = np.full((size_px, size_px, 3), 250.0)
    picture[inside] = rng.uniform(0, 90, 3)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def found(pictures):
    return {tuple(sorted(pair)) for pairs in near_duplicates(thumbnails(np.stack(pictures))) for pair in pairs}


def trimmed(picture):
    return picture[8:, 5:195]


def toned(picture):
    return np.clip(picture * 0.8 + np.array([30, 15, 0]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [trimmed, toned, lambda picture: toned(trimmed(picture))])
def test_a_picture_trimmed_or_toned_otherwise_is_the_same(change):
    scenes = [photograph(seed) for seed in range(30)]
    pictures = [square(scene) for scene in scenes] + [square(change(scene)) for scene in scenes[:10]]
    assert found(pictures) == {(row, 30 + row) for row in range(10)}


def test_other_scenes_are_other_pictures():
    assert found([square(photograph(seed)) for seed in range(100)]) == set()


def test_a_mirror_image_is_another_picture():
    scenes = [square(photograph(seed)) for seed in range(5)]
    assert found([*scenes, *(scene[:, ::-1] for scene in scenes)]) == set()


def test_pictures_of_a_kind_do_not_chain_into_one():
    n = 120
    pairs = found([shirt(seed) for seed in range(n)])
    groups = [{row} for row in range(n)]
    for a, b in pairs:
        for row in (joined := groups[a] | groups[b]):
            groups[row] = joined
    assert max(map(len, groups)) < n / 4


def test_pictures_of_one_colour_are_the_same_only_in_the_same_colour():
    colours = [0, 0, 20, 40, 255, 255]
    pairs = found([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    assert pairs == {(0, 1), (4, 5)}


@pytest.mark.parametrize("n", [0, 1])
def test_a_picture_alone_has_no_duplicate(n):
    assert near_duplicates(thumbnails(np.zeros((n, 32, 32, 3), np.uint8))) == ([], [])


@pytest.mark.parametrize("side_px", [24, 37, 64])
def test_thumbnails_are_the_mean_colours_of_a_grid(side_px):
    pixels = np.random.default_rng(0).integers(0, 256, (2, side_px, side_px, 3), dtype=np.uint8)
    spans = [slice(*pair) for pair in pairwise(side_px * cell // 24 for cell in range(25))]
    expected = [[[picture[y, x].mean(axis=(0, 1)) for x in spans] for y in spans] for picture in pixels]
    small = thumbnails(pixels)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small, expected, atol=0.501)


def test_pictures_smaller_than_the_grid_are_enlarged():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(thumbnails(pixels), pixels.repeat(3, axis=1).repeat(3, axis=2))
