"""Pictures are recognised by their bytes, and their bounds are checked before any pixel is decoded."""

from __future__ import annotations

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from retrieval_core.errors import ImageRefused
from retrieval_core.images import decode
from retrieval_core.picture_files.formats import HEAD_BYTES, is_picture_head, open_picture

pillow_heif.register_heif_opener()  # so that the tests can draw HEIC; the product only decodes it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000")


def saved(fmt: str, size: tuple[int, int] = (30, 20), mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, fmt, **options)
    return out.getvalue()


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_picture_is_recognised_by_its_first_bytes(fmt: str) -> None:
    assert is_picture_head(saved(fmt)[:HEAD_BYTES])
    assert open_picture(saved(fmt), 600).size == (30, 20)


@pytest.mark.parametrize(
    "head", [b"", b"GIF8", b"%PDF-1.7", b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42", b"PK\x03\x04"]
)
def test_other_files_are_not_pictures(head: bytes) -> None:
    assert not is_picture_head(head)


def test_the_compatible_brands_of_a_file_decide_its_reader() -> None:
    """Cameras name the general brand `mif1` first and the codec after it."""
    for fmt, brand in (("AVIF", b"avif"), ("HEIF", b"heic")):
        data = saved(fmt)
        general = data[:8] + b"mif1" + data[12:16] + brand + data[20:]
        np.testing.assert_array_equal(decode(general), decode(data))


@pytest.mark.parametrize("fmt", ["AVIF", "HEIF", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(fmt: str, mode: str) -> None:
    expected = decode(saved("PNG", mode=mode)).astype(int)
    assert np.abs(decode(saved(fmt, mode=mode)) - expected).mean() < 3


def test_16_bits_of_jpeg_2000_keep_the_high_byte() -> None:
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    out = io.BytesIO()
    Image.fromarray(deep).save(out, "JPEG2000")
    np.testing.assert_array_equal(decode(out.getvalue())[..., 0], deep >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["AVIF", "HEIF"])
def test_a_turned_picture_stands_upright(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.linear_gradient("L").resize((30, 20)).convert("RGB")
    turned.info["exif"] = exif.tobytes()
    out, plain = io.BytesIO(), io.BytesIO()
    turned.save(out, fmt, exif=exif.tobytes())
    turned.save(plain, "PNG", exif=exif)
    expected = decode(plain.getvalue())
    decoded = decode(out.getvalue())
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 3


def test_a_picture_of_too_many_pixels_is_refused_when_opened() -> None:
    for fmt in FORMATS:
        with pytest.raises(ImageRefused, match="30 x 20 is more than the bound of 599 pixels"):
            open_picture(saved(fmt), 599)
