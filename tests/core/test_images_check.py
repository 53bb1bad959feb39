"""A check of a picture refuses what decoding refuses, with the same reason, and knows the size of what it gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from retrieval_core.errors import ImageRefused
from retrieval_core.images import check, decode
from tests.core.test_images import FORMATS, encoded, picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
WAYS = [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"restart_marker_blocks": 1}]
JPEGS = [encoded(picture(61, 83), "JPEG", quality=90, **way) for way in WAYS] + [
    encoded(Image.fromarray(picture(61, 83)).convert("L"), "JPEG")
]


def outcome(of: object, data: bytes) -> object:
    """What a function says of a picture: the size of it, or why it is refused."""
    try:
        done = of(data)  # type: ignore[operator]
    except ImageRefused as error:
        return str(error)
    return done if isinstance(done, tuple) else done.shape[:2]


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_size_is_that_of_the_decoded_picture(fmt: str) -> None:
    data = encoded(picture(), fmt)
    assert check(data) == decode(data).shape[:2] == (24, 36)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_the_size_is_that_of_the_upright_picture(fmt: str, orientation: int) -> None:
    image = Image.fromarray(picture())
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(image, fmt, exif=exif)
    assert check(data) == decode(data).shape[:2]


@settings(max_examples=300)
@given(
    st.sampled_from(JPEGS),
    st.integers(0, 100),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3),
)
def test_a_damaged_jpeg_is_refused_by_both_or_by_neither(
    data: bytes, percent_cut: int, damage: list[tuple[float, int]]
) -> None:
    damaged = bytearray(data[: len(data) * (200 - percent_cut) // 200])
    for position, value in damage:
        damaged[int(position * len(damaged))] = value
    assert outcome(check, bytes(damaged)) == outcome(decode, bytes(damaged))


def test_more_pixels_than_allowed_are_refused() -> None:
    with pytest.raises(ImageRefused, match="pixels"):
        check(JPEGS[0], max_pixels=61 * 83 - 1)
