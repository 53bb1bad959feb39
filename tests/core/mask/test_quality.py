"""Masks against the truth, and masks that give themselves away by their shape."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import DimensionMismatch
from retrieval_core.mask.quality import distrust, example_iou

CONFIG = MaskConfig(min_area=0.1, max_area=0.9, min_largest_part=0.6)
masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@st.composite
def mask_pairs(draw):
    shape = draw(arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8))
    return draw(arrays.arrays(np.bool_, shape)), draw(arrays.arrays(np.bool_, shape))


@given(mask_pairs())
def test_example_iou_is_the_jaccard_score_of_each_picture(pair):
    predicted, truth = pair
    expected = [jaccard_score(t.ravel(), p.ravel(), zero_division=1.0) for p, t in zip(predicted, truth, strict=True)]
    assert example_iou(predicted, truth).tolist() == pytest.approx(expected)


@given(mask_pairs())
def test_example_iou_is_symmetric_within_bounds_and_one_for_equal_masks(pair):
    predicted, truth = pair
    iou = example_iou(predicted, truth)
    assert iou.dtype == np.float64
    assert ((iou >= 0) & (iou <= 1)).all()
    assert (iou == example_iou(truth, predicted)).all()
    assert (example_iou(truth, truth) == 1).all()


def test_two_empty_masks_agree_and_no_pictures_have_no_iou():
    empty = np.zeros((3, 4, 4), np.bool_)
    assert example_iou(empty, empty).tolist() == [1, 1, 1]
    assert example_iou(empty[:0], empty[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 4, 4), (4, 4)])
def test_masks_of_different_shapes_cannot_be_compared(shape):
    with pytest.raises(DimensionMismatch, match="expected twice"):
        example_iou(np.ones((2, 4, 4), np.bool_), np.ones(shape, np.bool_))


@given(masks)
def test_a_mask_of_abnormal_area_is_distrusted_for_its_area(mask):
    area = mask.mean()
    assume(not CONFIG.min_area <= area <= CONFIG.max_area)
    reason = distrust(mask, CONFIG)
    assert reason == "the mask is empty" if area == 0 else reason.startswith("area ")


@given(masks, st.integers(0, 3), st.booleans())
def test_trust_does_not_depend_on_how_the_picture_lies(mask, quarter_turns, mirrored):
    turned = np.rot90(mask, quarter_turns)
    assert distrust(turned[:, ::-1] if mirrored else turned, CONFIG) == distrust(mask, CONFIG)


@given(st.integers(1, 10), st.integers(1, 10))
def test_a_single_rectangle_of_normal_area_is_trusted(height, width):
    mask = np.zeros((12, 12), np.bool_)
    mask[:height, :width] = True
    assume(CONFIG.min_area <= mask.mean() <= CONFIG.max_area)
    assert distrust(mask, CONFIG) == ""


def test_reasons_name_what_was_seen_and_the_bound():
    mask = np.zeros((100, 100), np.bool_)
    assert distrust(mask, MaskConfig()) == "the mask is empty"
    mask[:4, :10] = True
    assert distrust(mask, MaskConfig(min_area=0.01)) == "area 0.4% below 1%"
    assert distrust(~mask, MaskConfig(max_area=0.95)) == "area 99.6% above 95%"


def test_a_mask_in_pieces_is_distrusted_and_pieces_that_touch_at_a_corner_are_one():
    apart, touching = np.zeros((2, 10, 10), np.bool_)
    apart[0:4, 0:4] = apart[6:10, 6:10] = True
    touching[1:5, 1:5] = touching[5:9, 5:9] = True
    assert distrust(apart, CONFIG) == "largest part 50% of the mask, below 60%"
    assert distrust(touching, CONFIG) == ""


def test_an_empty_mask_is_distrusted_even_without_a_lower_bound():
    assert distrust(np.zeros((4, 4), np.bool_), MaskConfig(min_area=0)) == "the mask is empty"
