"""A changed picture differs as its distortion says, and in nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.metrics.distortions import (
    DISTORTIONS,
    MAX_GAIN,
    MAX_SIDE,
    MIN_SIDE,
    crop,
    flip,
    replace_background,
    shift_colour,
)


def picture(height: int = 40, width: int = 30) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_crop_is_a_window_of_the_picture_of_the_share_it_says(height, width, seed):
    image = np.arange(height * width, dtype=np.uint32).view(np.uint8).reshape(height, width, 4)[..., :3]
    made = crop(image, rng(seed))
    rows, columns = made.shape[:2]
    assert rows >= 1
    assert MIN_SIDE * height - 1 <= rows <= MAX_SIDE * height + 1
    assert columns >= 1
    assert MIN_SIDE * width - 1 <= columns <= MAX_SIDE * width + 1
    windows = [
        (top, left) for top in range(height - rows + 1) for left in range(width - columns + 1)
        if (image[top : top + rows, left : left + columns] == made).all()
    ]  # fmt: skip
    assert windows


def test_crops_reach_every_corner_of_the_picture():
    image = picture(20, 20)
    corners = [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]]
    made = [crop(image, rng(seed)) for seed in range(300)]
    ends = {tuple(one[y, x]) for one in made for y in (0, -1) for x in (0, -1)}
    assert {tuple(corner) for corner in corners} <= ends


def test_a_flipped_picture_flipped_again_is_itself():
    image = picture()
    assert (flip(image)[:, 0] == image[:, -1]).all()
    assert (flip(flip(image)) == image).all()


def test_a_colour_shift_scales_each_channel_by_one_gain_within_its_bounds():
    image = np.full((2, 2, 3), 100, np.uint8)
    gains = np.array([shift_colour(image, rng(seed))[0, 0] / 100 for seed in range(400)])
    assert gains.min() >= 1 / MAX_GAIN - 0.01
    assert gains.max() <= MAX_GAIN + 0.01
    assert gains.min() < 0.85
    assert gains.max() > 1.2
    assert (np.abs(gains - gains.mean(axis=1, keepdims=True)).max(axis=1) > 0.01).mean() > 0.9, "channels move apart"
    assert shift_colour(np.full((1, 1, 3), 255, np.uint8), rng(2)).max() == 255, "and never wrap round"


def test_a_new_background_keeps_every_pixel_of_the_product_and_moves_the_others():
    image, mask = picture(40, 30), np.zeros((20, 15), bool)
    mask[5:15, 4:9] = True
    inside = mask.repeat(2, axis=0).repeat(2, axis=1)
    plain = 0
    for seed in range(40):
        made = replace_background(image, mask, rng(seed))
        assert (made[inside] == image[inside]).all()
        assert (made[~inside] != image[~inside]).any(axis=-1).mean() > 0.9
        plain += len(np.unique(made[~inside], axis=0)) == 1
    assert 8 <= plain <= 32, "as often plain as drawn"


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 7)])
def test_the_smallest_and_the_longest_pictures_can_be_changed(shape):
    image, mask = picture(*shape), np.eye(4, dtype=bool)
    for distortion in DISTORTIONS:
        made = distortion.change(image, mask, rng())
        assert made is not None
        assert made.dtype == np.uint8
        assert made.ndim == 3
        assert made.size


def test_the_same_generator_changes_a_picture_alike_and_another_otherwise():
    image, mask = picture(), np.eye(8, dtype=bool)
    for distortion in DISTORTIONS:
        first, again, other = (distortion.change(image, mask, rng(seed)) for seed in (7, 7, 8))
        assert first.shape == again.shape
        assert (first == again).all()
        if distortion.name != "flip":
            assert first.shape != other.shape or (first != other).any()


def test_without_a_mask_only_the_background_cannot_be_changed():
    made = {one.name: one.change(picture(), None, rng()) is not None for one in DISTORTIONS}
    assert made == {"crop": True, "flip": True, "colour": True, "background": False}


def test_the_original_is_never_written_to():
    image, mask = picture(), np.eye(8, dtype=bool)
    image.flags.writeable = False
    for distortion in DISTORTIONS:
        distortion.change(image, mask, rng())
