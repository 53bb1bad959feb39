"""Masks for whole pictures: order, pictures that cannot be read, models that do not fit."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.config import MaskConfig
from retrieval_core.errors import BadConfig, DimensionMismatch, WeightsInvalid
from retrieval_core.images import apply_mask
from retrieval_core.mask.apply import SegmenterEngine, segment, square_of
from retrieval_core.mask.train import ONNX_FILE

CONFIG = MaskConfig(size_px=64, batch_size=4)


@pytest.fixture(scope="module")
def engine(folder):
    return SegmenterEngine(folder / ONNX_FILE, 64, threads=1)


def picture(key: str, path: Path) -> Picture:
    return Picture(content_id=key, image_uri=str(path), item_id=path.stem)


@pytest.fixture
def photos(tmp_path, shapes):
    """Ten drawn pictures on disk, stretched to 200 x 100, and their (10, 64, 64) masks."""
    data = shapes(10, seed=5)
    pictures = []
    for row, pixels in enumerate(data.pixels):
        out = io.BytesIO()
        Image.fromarray(pixels).resize((100, 200)).save(out, "PNG")
        path = tmp_path / f"{row}.png"
        path.write_bytes(out.getvalue())
        pictures.append(picture(content_id(out.getvalue()), path))
    return pictures, data.masks


def test_masks_come_in_the_order_asked_and_lie_on_the_product(engine, photos):
    pictures, truth = photos
    done = segment(pictures, engine, CONFIG, threads=3)
    assert done.content_ids == [picture.content_id for picture in pictures]
    assert len(done.masks) == len(done.reasons) == 10
    for mask, expected in zip(done.masks, truth, strict=True):
        assert mask.dtype == np.bool_
        assert (mask & expected).sum() / (mask | expected).sum() > 0.7


def test_the_size_of_a_batch_and_the_number_of_threads_change_nothing(engine, photos):
    pictures, _ = photos
    one_by_one = segment(pictures, engine, CONFIG.model_copy(update={"batch_size": 1}), threads=1)
    at_once = segment(pictures, engine, CONFIG.model_copy(update={"batch_size": 64}), threads=4)
    assert one_by_one.content_ids == at_once.content_ids
    assert np.mean(np.stack(one_by_one.masks) == np.stack(at_once.masks)) > 0.999


def test_a_mask_stretched_back_over_its_picture_keeps_the_product_and_zeroes_the_rest(engine, photos):
    pictures, _ = photos
    picture = np.asarray(Image.open(pictures[0].image_uri).convert("RGB"))
    masked = apply_mask(picture, segment(pictures[:1], engine, CONFIG, threads=1).masks[0])
    assert masked.shape == picture.shape
    assert (masked[:5] == 0).all()
    assert (masked[95:105, 45:55] == picture[95:105, 45:55]).all()


def test_pictures_that_cannot_be_read_are_left_out_and_the_others_keep_their_masks(engine, photos, tmp_path):
    pictures, _ = photos
    whole = dict(zip(*segment(pictures, engine, CONFIG, threads=1)[:2], strict=True))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    bad = {1: picture(content_id(b"not a picture"), broken), 4: picture("f" * 32, tmp_path / "absent.png")}
    bad |= {row: pictures[row].model_copy(update={"content_id": "e" * 32}) for row in (6, 7)}  # bytes of another id
    mixed = [bad.get(row, readable) for row, readable in enumerate(pictures)]
    done = segment(mixed, engine, CONFIG, threads=2)
    assert done.content_ids == [readable.content_id for row, readable in enumerate(pictures) if row not in bad]
    for key, mask in zip(done.content_ids, done.masks, strict=True):
        assert np.mean(mask == whole[key]) > 0.999


def test_a_batch_in_which_nothing_can_be_read_is_passed_over(engine, tmp_path):
    absent = [picture(f"{row:032x}", tmp_path / f"{row}.jpg") for row in range(6)]
    assert segment(absent, engine, CONFIG, threads=2) == ([], [], [])
    assert segment([], engine, CONFIG, threads=2) == ([], [], [])


def test_progress_counts_every_picture_batch_by_batch(engine, photos, tmp_path):
    pictures, _ = photos
    seen = []
    segment([*pictures, picture("0" * 32, tmp_path / "absent.png")], engine, CONFIG, 1, on_batch=seen.append)
    assert seen == [4, 4, 3]


def test_a_picture_above_the_bound_of_pixels_is_left_out(engine, photos):
    pictures, _ = photos
    assert segment(pictures, engine, CONFIG, threads=1, max_pixels=100 * 200 - 1).content_ids == []


def test_distrusted_masks_are_kept_with_their_reason(engine, photos):
    pictures, _ = photos
    done = segment(pictures, engine, CONFIG.model_copy(update={"min_area": 0.94}), threads=1)
    assert len(done.masks) == 10
    assert all(reason.endswith("below 94%") for reason in done.reasons)


def test_an_error_that_is_not_the_pictures_fault_stops_the_work(engine, photos):
    pictures, _ = photos
    strange = Picture(content_id="0" * 32, image_uri="gopher://host/picture.png", item_id="strange")
    with pytest.raises(BadConfig):
        segment([*pictures, strange], engine, CONFIG, threads=2)


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
