"""Masks of pictures by a segmenter, and models that do not fit."""

import numpy as np
import pytest
from PIL import Image

from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import DimensionMismatch, WeightsInvalid
from retrieval_core.images import apply_mask, fit
from retrieval_core.mask.apply import SegmenterEngine, segment, square_of
from retrieval_core.mask.train import ONNX_FILE

CONFIG = MaskConfig(size_px=64, batch_size=4)


@pytest.fixture(scope="module")
def engine(folder):
    return SegmenterEngine(folder / ONNX_FILE, 64, threads=1)


@pytest.fixture
def photos(shapes):
    """Ten drawn pictures, stretched to 200 x 100, and their (10, 64, 64) masks."""
    data = shapes(10, seed=5)
    return [np.asarray(Image.fromarray(pixels).resize((100, 200))) for pixels in data.pixels], data.masks


def test_masks_lie_on_the_product(engine, photos):
    for picture, expected in zip(*photos, strict=True):
        mask, reason = segment(engine, CONFIG, picture)
        assert (mask.dtype, reason) == (np.bool_, "")
        assert (mask & expected).sum() / (mask | expected).sum() > 0.7


def test_a_mask_does_not_depend_on_other_pictures_or_the_number_of_threads(folder, engine, photos):
    pictures, _ = photos
    squares = np.stack([fit(picture, square_of(64)) for picture in pictures])
    at_once = SegmenterEngine(folder / ONNX_FILE, 64, threads=2).predict(squares)
    np.testing.assert_array_equal([segment(engine, CONFIG, picture)[0] for picture in pictures], at_once)


def test_a_mask_stretched_back_over_its_picture_keeps_the_product_and_zeroes_the_rest(engine, photos):
    picture = photos[0][0]
    masked = apply_mask(picture, segment(engine, CONFIG, picture)[0])
    assert masked.shape == picture.shape
    assert (masked[:5] == 0).all()
    assert (masked[95:105, 45:55] == picture[95:105, 45:55]).all()


def test_a_distrusted_mask_comes_with_its_reason(engine, photos):
    mask, reason = segment(engine, CONFIG.model_copy(update={"min_area": 0.94}), photos[0][0])
    assert mask.any()
    assert reason.endswith("below 94%")


def test_pictures_are_squashed_to_the_square():
    assert (square_of(96).size_px, square_of(96).crop) == (96, "squash")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / ONNX_FILE).write_bytes(b"not a model")
    with pytest.raises(WeightsInvalid, match="not a readable ONNX model"):
        SegmenterEngine(tmp_path / ONNX_FILE, 64, threads=1)
    with pytest.raises(WeightsInvalid):
        SegmenterEngine(tmp_path / "absent.onnx", 64, threads=1)


def test_a_model_of_another_size_is_refused(folder):
    with pytest.raises(WeightsInvalid, match=r"expected \(n, 128, 128, 3\)"):
        SegmenterEngine(folder / ONNX_FILE, 128, threads=1)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 64, 32, 3), np.uint8), ((64, 64, 3), np.uint8), ((1, 64, 64, 3), np.float32)]
)
def test_pixels_of_another_shape_or_type_are_refused(engine, shape, dtype):
    with pytest.raises(DimensionMismatch, match="expected uint8"):
        engine.predict(np.zeros(shape, dtype))


def test_no_pixels_have_no_masks(engine):
    assert engine.predict(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 64, 64)
