"""One picture in other bytes is the same, one design in another colour is not, and neither are two products."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from retrieval_core.metrics.same_picture import compare_pictures, shrink

N = 20


def photograph(seed: int) -> np.ndarray:
    """Patches of every size in random colours, as scenes have them."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((240, 180, 3))
    for patches, strength in ((3, 60), (7, 40), (15, 30), (40, 20)):
        grid = Image.fromarray(rng.integers(0, 256, (patches, patches, 3), dtype=np.uint8))
        picture += strength / 75 * (np.asarray(grid.resize((180, 240), Image.Resampling.BICUBIC)) / 2.0 - 64)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def shirt(seed: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A garment with folds and a print, on white: the seed says which."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :180]
    sleeve = np.where(y < 90, 30, 0)
    inside = (np.abs(x - 90) < 42 + sleeve + rng.uniform(-8, 8)) & (np.abs(y - 120) < 85 + rng.uniform(-8, 8))
    folds = sum(rng.uniform(4, 9) * np.sin(x / rng.uniform(6, 20) + y / rng.uniform(8, 30) + i) for i in range(5))
    picture = np.full((240, 180, 3), 255.0)
    picture[inside] = (np.array(colour) + folds[..., None])[inside]
    print_ = rng.integers(0, 2, (3, 3)).repeat(14, axis=0).repeat(14, axis=1).astype(bool)
    picture[90:132, 69:111][print_] = 235
    return np.clip(picture, 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(picture: np.ndarray) -> np.ndarray:
    return encoded(np.asarray(Image.fromarray(picture).resize((126, 168), Image.Resampling.BICUBIC)), 85)


def trimmed(picture: np.ndarray) -> np.ndarray:
    return encoded(picture[9:232, 6:176], 85)


def toned(picture: np.ndarray) -> np.ndarray:
    return encoded(np.clip(picture * 0.85 + np.array([20, 8, 0]), 0, 255).astype(np.uint8), 85)


def compare(firsts, seconds):
    sides = [
        np.stack([np.asarray(Image.fromarray(p).resize((96, 96), Image.Resampling.BICUBIC)) for p in pictures])
        for pictures in (firsts, seconds)
    ]
    return compare_pictures(shrink(sides[0]), shrink(sides[1]))


@pytest.mark.parametrize("change", [encoded, resized, trimmed, toned, lambda picture: toned(trimmed(picture))])
def test_a_picture_in_other_bytes_is_the_same(change):
    scenes = [photograph(seed) for seed in range(N)]
    assert compare(scenes, [change(scene) for scene in scenes]).is_same.mean() >= 0.9


@pytest.mark.parametrize("change", [encoded, resized])
def test_a_product_on_white_in_other_bytes_is_the_same(change):
    shirts = [shirt(seed, (170, 50, 60)) for seed in range(N)]
    assert compare(shirts, [change(picture) for picture in shirts]).is_same.mean() >= 0.9


@pytest.mark.parametrize("colour", [(60, 60, 160), (150, 90, 60), (120, 120, 120)])
def test_a_product_in_another_colour_is_a_variant_and_not_the_same_picture(colour):
    firsts, seconds = ([shirt(seed, each) for seed in range(N)] for each in ((170, 50, 60), colour))
    likeness = compare(firsts, seconds)
    assert not likeness.is_same.any()
    assert likeness.is_recoloured.mean() >= 0.9


def test_other_products_and_scenes_are_neither():
    shirts = [shirt(seed, (170, 50, 60)) for seed in range(N)]
    scenes = [photograph(seed) for seed in range(N)]
    for pictures in (shirts, scenes):
        likeness = compare(pictures, [*pictures[1:], pictures[0]])
        assert not (likeness.is_same | likeness.is_recoloured).any()


def test_a_mirror_image_is_another_picture():
    scenes = [photograph(seed) for seed in range(N)]
    assert not compare(scenes, [np.ascontiguousarray(scene[:, ::-1]) for scene in scenes]).is_same.any()


def test_a_pair_is_judged_alone():
    firsts = [shirt(seed, (170, 50, 60)) for seed in range(N)]
    seconds = [encoded(picture) if seed % 2 else picture[:, ::-1] for seed, picture in enumerate(firsts)]
    together = compare(firsts, seconds)
    alone = [compare([a], [b]) for a, b in zip(firsts, seconds, strict=True)]
    assert together.is_same.tolist() == [bool(each.is_same[0]) for each in alone]
    assert together.is_recoloured.tolist() == [bool(each.is_recoloured[0]) for each in alone]


def test_flat_pictures_are_the_same_in_the_same_colour():
    grey, red = (np.full((96, 96, 3), colour, np.uint8) for colour in (128, (200, 30, 30)))
    assert compare([grey, grey], [grey, red]).is_same.tolist() == [True, False]


def test_no_pairs_give_no_verdicts():
    empty = np.zeros((0, 32, 32, 3), np.float32)
    assert [len(verdicts) for verdicts in compare_pictures(empty, empty)] == [0, 0]
