"""The pictures of a training are decoded once, rejected if bad, and validated as the embedder sees them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.embed.extract import SquareLoader
from retrieval_core.images import Preprocess, decode, fit
from retrieval_core.train.pictures import (
    change_light,
    prepare_pictures,
    training_square,
    training_view,
    validation_view,
)

MAX_PIXELS = 10_000


def smooth(number, width=61, height=47):
    rng = np.random.default_rng(number)
    patches = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.array(patches.resize((width, height), Image.Resampling.BICUBIC))


def png(number):
    out = io.BytesIO()
    Image.fromarray(smooth(number)).save(out, "PNG")
    return out.getvalue()


def picture(folder, number, data=None):
    data = png(number) if data is None else data
    path = folder / f"{number}.png"
    path.write_bytes(data)
    return Picture(content_id=content_id(data), image_uri=str(path), item_id=f"item{number}")


def prepare(pictures, preprocess, folder, threads=2, on_done=None):
    load = SquareLoader(None, "raw", 0.0, preprocess, MAX_PIXELS)
    return prepare_pictures(pictures, load, preprocess.size_px, folder / "pixels.npy", threads, on_done)


def centre_shifts(prepared, size_px):
    """The centre of a prepared picture, and the squares one pixel off it."""
    start = (prepared.shape[0] - size_px) // 2
    starts = [at for at in (start, start + 1, start - 1) if 0 <= at <= prepared.shape[0] - size_px]
    return [prepared[top : top + size_px, left : left + size_px] for top in starts for left in starts]


def seen(view, square):
    return view(torch.from_numpy(square).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def test_pictures_are_decoded_as_for_embedding(tmp_path):
    preprocess = Preprocess(size_px=16)
    pictures = [picture(tmp_path, number) for number in range(70)]
    prepared = prepare(pictures, preprocess, tmp_path)
    expected = [fit(decode(Path(item.image_uri).read_bytes()), preprocess) for item in pictures]
    np.testing.assert_array_equal(prepared.pixels, np.stack(expected))
    assert prepared.positions.tolist() == list(range(70))
    assert prepared.rejects == []


def test_bad_pictures_are_rejected_and_the_others_keep_their_rows(tmp_path):
    good = picture(tmp_path, 0)
    broken, gone = picture(tmp_path, 1, b"no picture"), picture(tmp_path, 2)
    Path(gone.image_uri).unlink()
    done: list[int] = []
    prepared = prepare(
        [broken, good, gone, picture(tmp_path, 3)], Preprocess(size_px=16), tmp_path, on_done=done.append
    )
    assert prepared.positions.tolist() == [1, 3]
    assert [reject.item_id for reject in prepared.rejects] == ["item1", "item2"]
    assert not prepared.pixels[[0, 2]].any()
    assert prepared.pixels[[1, 3]].any(axis=(1, 2, 3)).all()
    assert sum(done) == 4


def test_two_items_of_one_file_both_have_its_pixels(tmp_path):
    first = picture(tmp_path, 0)
    second = first.model_copy(update={"item_id": "another"})
    prepared = prepare([first, picture(tmp_path, 1), second], Preprocess(size_px=16), tmp_path)
    assert prepared.positions.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(prepared.pixels[0], prepared.pixels[2])
    assert prepared.pixels[0].any()


def test_no_readable_picture_gives_no_rows(tmp_path):
    prepared = prepare([picture(tmp_path, 0, b"broken")], Preprocess(size_px=16), tmp_path)
    assert prepared.positions.shape == (0,)
    assert prepared.positions.dtype == np.int64


@settings(max_examples=60)
@given(
    width=st.integers(20, 120),
    height=st.integers(20, 120),
    size_px=st.sampled_from([16, 21, 28]),
    fraction=st.sampled_from([0.875, 0.9, 0.95]),
)
def test_the_validation_view_is_what_fit_shows_up_to_a_pixel(width, height, size_px, fraction):
    image, preprocess = smooth(1, width, height), Preprocess(size_px=size_px, crop_fraction=fraction)
    prepared = fit(image, training_square(preprocess))
    view, expected = seen(validation_view(preprocess), prepared), fit(image, preprocess)
    assert any(np.array_equal(expected, shifted) for shifted in centre_shifts(prepared, size_px))
    assert any(np.array_equal(view, shifted) for shifted in centre_shifts(prepared, size_px))
    margin = training_square(preprocess).size_px - size_px
    if margin % 4 == 0:  # no rounding
        np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_a_validation_view_without_a_crop_fraction_is_close_to_what_fit_shows(crop):
    image, preprocess = smooth(2, 90, 130), Preprocess(size_px=28, crop=crop)
    assert training_square(preprocess).size_px == 32
    view = seen(validation_view(preprocess), fit(image, training_square(preprocess)))
    assert np.abs(view.astype(int) - fit(image, preprocess)).mean() < 2


@pytest.mark.parametrize(
    "preprocess", [Preprocess(size_px=28, crop_fraction=0.875), Preprocess(size_px=28, crop="squash")]
)
def test_training_views_are_random_crops_and_mirror_images(preprocess):
    square = fit(smooth(3, 80, 80), training_square(preprocess))
    view = training_view(preprocess, augment=True)
    torch.manual_seed(0)
    views = [seen(view, square) for _ in range(8)]
    torch.manual_seed(0)
    np.testing.assert_array_equal(seen(view, square), views[0])
    assert all(one.shape == (28, 28, 3) and one.dtype == np.uint8 for one in views)
    assert len({one.tobytes() for one in views}) == 8
    centre = seen(validation_view(preprocess), square).astype(int)
    straight, mirrored = (
        [np.abs(one.astype(int) - side).mean() for one in views] for side in (centre, centre[:, ::-1])
    )
    assert {a < b for a, b in zip(straight, mirrored, strict=True)} == {True, False}


def test_about_every_second_training_view_is_seen_in_another_light():
    preprocess = Preprocess(size_px=28, crop="squash")
    square = np.full((28, 28, 3), (60, 90, 120), np.uint8)
    view = training_view(preprocess, augment=True, light_gain=1.25)
    torch.manual_seed(0)
    views = np.array([seen(view, square) for _ in range(200)])
    assert (views == views[:, :1, :1]).all()  # a channel has one gain in the whole picture
    gains = views[:, 0, 0] / square[0, 0]
    is_changed = (views[:, 0, 0] != square[0, 0]).any(axis=1)
    assert 70 < is_changed.sum() < 130
    assert (gains > 1 / 1.27).all()
    assert (gains < 1.27).all()
    assert np.abs(np.corrcoef(np.log(gains[is_changed]).T) - np.eye(3)).max() < 0.4  # of each channel by itself


def test_a_light_too_bright_for_a_byte_stays_white():
    white = torch.full((3, 4, 4), 250, dtype=torch.uint8)
    torch.manual_seed(1)
    lit = torch.stack([change_light(white, 2.0) for _ in range(20)])
    assert lit.max() == 255
    assert lit.min() >= 125
    assert lit.dtype == torch.uint8


def test_without_augmentation_a_training_view_is_the_validation_view():
    preprocess = Preprocess(size_px=28, crop_fraction=0.875)
    square = fit(smooth(4), training_square(preprocess))
    np.testing.assert_array_equal(
        seen(training_view(preprocess, False), square), seen(validation_view(preprocess), square)
    )
