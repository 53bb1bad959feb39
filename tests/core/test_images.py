"""Every format and mode is decoded to upright RGB; everything else is refused with a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from pydantic import ValidationError

from retrieval_core.errors import ImageRefused
from retrieval_core.images import (
    Preprocess,
    apply_mask,
    box_around,
    crop_to_mask,
    cut,
    decode,
    fit,
    prepare_for_many,
    shrink,
    thumbnail,
)

RUBBISH_EXIF = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00rubbish"
# The module silences Pillow's warnings on metadata, but pytest puts its own filters first.
pillow_heif.register_heif_opener()  # so that the tests can draw HEIC; the product only decodes it
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000")


def picture(height: int = 24, width: int = 36, seed: int = 0) -> np.ndarray:
    """A smooth picture without symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, fmt: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes = b"") -> bytes:
    """A PNG written by hand, from its header and unfiltered rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class TestFormats:
    @pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "JPEG2000"])
    def test_a_lossless_format_gives_back_its_pixels(self, fmt: str) -> None:
        assert np.array_equal(decode(encoded(picture(), fmt)), picture())

    def test_lossless_webp_gives_back_its_pixels(self) -> None:
        assert np.array_equal(decode(encoded(picture(), "WEBP", lossless=True)), picture())

    @pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "AVIF", "HEIF"])
    def test_a_lossy_format_is_close(self, fmt: str) -> None:
        decoded = decode(encoded(picture(), fmt, quality=95)).astype(int)
        assert np.abs(decoded - picture()).mean() < 6

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_tiff_compressions(self, compression: str) -> None:
        assert np.array_equal(decode(encoded(picture(), "TIFF", compression=compression)), picture())

    def test_of_an_animation_the_first_frame_counts(self) -> None:
        frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert np.array_equal(decode(data)[0, 0], (255, 0, 0))

    @pytest.mark.parametrize("fmt", FORMATS)
    def test_the_result_is_writable_and_contiguous(self, fmt: str) -> None:
        pixels = decode(encoded(picture(), fmt))
        assert pixels.shape == (24, 36, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous

    def test_threads_decode_alike(self) -> None:
        files = [encoded(picture(seed=seed), fmt) for seed in range(5) for fmt in FORMATS] * 4
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(decode, files))
        assert all(np.array_equal(a, decode(b)) for a, b in zip(together, files, strict=True))


class TestJpegPixelsEqualPillows:
    """The fast route may be taken only because no pixel differs from Pillow's."""

    @settings(max_examples=80)
    @given(
        height=st.integers(1, 70),
        width=st.integers(1, 70),
        quality=st.integers(1, 100),
        subsampling=st.sampled_from(["444", "422", "420", "440", "411"]),
        seed=st.integers(0, 9),
        noisy=st.booleans(),
    )
    def test_for_every_subsampling(
        self, height: int, width: int, quality: int, subsampling: str, seed: int, noisy: bool
    ) -> None:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = noise if noisy else picture(height, width, seed)
        data = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=subsampling)
        assert np.array_equal(decode(data), np.array(Image.open(io.BytesIO(data))))

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize(
        "options", [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}, {"keep_rgb": True}]
    )
    def test_for_every_way_to_write_one(self, mode: str, options: dict[str, object]) -> None:
        data = encoded(Image.fromarray(picture(37, 51)).convert(mode), "JPEG", **options)
        assert np.array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


class TestModes:
    def test_grey_becomes_three_equal_channels(self) -> None:
        grey = picture()[..., 0]
        for fmt in ("PNG", "BMP", "TIFF"):
            assert np.array_equal(decode(encoded(grey, fmt)), np.dstack([grey] * 3))

    def test_one_bit_becomes_black_and_white(self) -> None:
        bits = picture()[..., 0] > 127
        expected = np.dstack([bits * np.uint8(255)] * 3)
        for fmt in ("PNG", "BMP", "TIFF"):
            assert np.array_equal(decode(encoded(Image.fromarray(bits), fmt)), expected)

    def test_a_palette_is_looked_up(self) -> None:
        indexed = Image.fromarray(picture()).quantize(16)
        assert np.array_equal(decode(encoded(indexed)), np.array(indexed.convert("RGB")))

    @pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
    def test_alpha_lies_over_white(self, fmt: str) -> None:
        rgba = np.zeros((4, 6, 4), np.uint8)
        rgba[:, :2] = (200, 100, 0, 255)
        rgba[:, 2:4] = (200, 100, 0, 51)
        rgba[:, 4:] = (9, 9, 9, 0)
        pixels = decode(encoded(Image.fromarray(rgba), fmt, **({"lossless": True} if fmt == "WEBP" else {})))
        assert np.array_equal(pixels[0, 0], (200, 100, 0))
        assert np.abs(pixels[0, 2].astype(int) - (244, 224, 204)).max() <= 1
        assert np.array_equal(pixels[0, 4], (255, 255, 255))

    def test_grey_with_alpha_lies_over_white(self) -> None:
        pixels = decode(encoded(Image.new("LA", (3, 3), (0, 0))))
        assert np.all(pixels == 255)

    @pytest.mark.parametrize("fmt", ["PNG", "GIF"])
    def test_a_transparent_palette_colour_is_white(self, fmt: str) -> None:
        indexed = Image.new("P", (4, 4), 0)
        indexed.putpalette([10, 20, 30, 200, 0, 0])
        indexed.putpixel((1, 1), 1)
        pixels = decode(encoded(indexed, fmt, transparency=0))
        assert np.array_equal(pixels[0, 0], (255, 255, 255))
        assert np.array_equal(pixels[1, 1], (200, 0, 0))

    def test_a_transparent_colour_of_an_rgb_png_is_white(self) -> None:
        pixels = decode(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)))
        assert np.all(pixels == 255)

    @pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
    def test_cmyk_becomes_rgb(self, fmt: str) -> None:
        ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        assert np.abs(decode(encoded(ink, fmt))[8, 8].astype(int) - (255, 0, 0)).max() <= 3

    @pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
    def test_16_bit_grey_keeps_its_high_byte(self, fmt: str) -> None:
        deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
        assert np.array_equal(decode(encoded(deep, fmt)), np.dstack([(deep >> 8).astype(np.uint8)] * 3))

    def test_16_bit_colour_keeps_its_high_byte(self) -> None:
        rows = b"".join(b"\x00" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x00FF, 0x0100) for _ in range(2))
        assert decode(png(2, 2, 16, 2, rows))[0].tolist() == [[0x12, 0x80, 0xFF], [0, 0, 1]]

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_pixels_of_unknown_range_are_refused(self, dtype: type) -> None:
        with pytest.raises(ImageRefused, match="32-bit pixels"):
            decode(encoded(np.ones((4, 4), dtype), "TIFF"))


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_every_picture_stands_upright(self, fmt: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"exif": exif} | ({"lossless": True} if fmt == "WEBP" else {})
        data = encoded(picture(), fmt, **options)
        expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert np.array_equal(decode(data), expected)
        assert expected.shape[:2] == ((24, 36) if orientation < 5 else (36, 24))

    @pytest.mark.parametrize("orientation", [0, 9, 77])
    def test_an_unknown_value_changes_nothing(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        assert np.array_equal(decode(encoded(picture(), exif=exif)), picture())

    def test_unreadable_exif_is_ignored(self) -> None:
        assert decode(encoded(picture(), "JPEG", exif=RUBBISH_EXIF)).shape == (24, 36, 3)


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b"%PDF-1.7 ...", "PDF"),
            (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b'\xef\xbb\xbf  <?xml version="1.0"?><svg/>', "SVG"),
            (b"<!doctype html><html></html>", "HTML"),
            (b"\x00\x00\x00\x20ftypheic" + bytes(40), "cannot be decoded"),
            (b"\x00\x00\x00\x20ftypavif" + bytes(40), "cannot be decoded"),
            (b"\x00\x00\x00\x20ftypisom" + bytes(40), "is a video"),
            (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "cannot be decoded"),
            (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\xff\x0a\x01\x02", "JPEG XL"),
            (b"8BPS\x00\x01", "Photoshop"),
            (b"plain text", "starts with 706c61696e207465"),
            (bytes(100), "is not a JPEG"),
            (b"\xff\xd8\xff", "cannot be decoded"),
            (b"BM", "cannot be decoded"),
            (b"GIF89a", "cannot be decoded"),
            (b"II*\x00", "cannot be decoded"),
            (b"RIFF\x00\x00\x00\x00WEBP", "not a WebP picture"),
            (b"RIFF\x00\x00\x00\x00WEBPVP8X", "cannot be decoded"),
        ],
    )
    def test_a_file_that_is_not_a_picture_is_refused_with_a_reason(self, data: bytes, reason: str) -> None:
        with pytest.raises(ImageRefused, match=reason):
            decode(data)

    @pytest.mark.parametrize("fmt", FORMATS)
    def test_a_truncated_file_is_refused(self, fmt: str) -> None:
        data = encoded(picture(60, 80, seed=3), fmt)
        for kept in (0.3, 0.6, 0.9):
            with pytest.raises(ImageRefused):
                decode(data[: int(len(data) * kept)])

    @pytest.mark.parametrize("fmt", FORMATS)
    def test_no_cut_raises_anything_else(self, fmt: str) -> None:
        data = encoded(picture(40, 30), fmt)
        cuts = sorted({*range(0, min(len(data), 80)), *range(0, len(data), max(1, len(data) // 60))})
        for end in cuts:
            _decoded_or_refused(data[:end])

    @pytest.mark.parametrize("fmt", FORMATS)
    @settings(max_examples=40)
    @given(damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
    def test_no_damage_raises_anything_else(self, fmt: str, damage: list[tuple[float, int]]) -> None:
        data = bytearray(encoded(picture(20, 30), fmt))
        for place, value in damage:
            data[int(place * len(data))] = value
        _decoded_or_refused(bytes(data))

    def test_a_jpeg_whose_middle_was_overwritten_is_refused(self) -> None:
        data = bytearray(encoded(picture(200, 300), "JPEG", quality=95))
        data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
        with pytest.raises(ImageRefused, match="Corrupt JPEG data"):
            decode(bytes(data))

    def test_a_reason_is_one_short_line(self) -> None:
        with pytest.raises(ImageRefused) as refusal:
            decode(encoded(picture(), "PNG")[:-60])
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 250


def test_odd_metadata_causes_no_warnings(tmp_path: Path) -> None:
    """In a process of its own: pytest puts its own warning filters before those of the module."""
    data = encoded(picture(), "JPEG", exif=RUBBISH_EXIF)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    files = [data, encoded(picture(), "TIFF")[:-20], *(encoded(picture(), fmt) for fmt in FORMATS)]
    for number, file in enumerate(files):
        (tmp_path / f"{number}").write_bytes(file)
    script = """
import pathlib, sys
import PIL.Image
from retrieval_core import errors, images
PIL.Image.MAX_IMAGE_PIXELS = 500
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        images.decode(path.read_bytes())
    except errors.ImageRefused:
        pass
"""
    run = subprocess.run([sys.executable, "-W", "default", "-c", script, tmp_path], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


class TestBoundOnPixels:
    @pytest.mark.parametrize("fmt", FORMATS)
    def test_holds_for_every_format(self, fmt: str) -> None:
        data = encoded(picture(24, 36), fmt)
        assert decode(data, max_pixels=24 * 36).shape == (24, 36, 3)
        with pytest.raises(ImageRefused, match="36 x 24 is more than the bound of 863 pixels"):
            decode(data, max_pixels=24 * 36 - 1)

    def test_holds_for_every_kind_of_webp(self) -> None:
        alpha = Image.new("RGBA", (36, 24), (1, 2, 3, 100))
        for data in (encoded(alpha, "WEBP"), encoded(alpha, "WEBP", lossless=True)):
            with pytest.raises(ImageRefused, match="36 x 24"):
                decode(data, max_pixels=100)

    @pytest.mark.parametrize(
        "bomb",
        [
            png(50_000, 50_000, 8, 2),
            b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x4f\xc3\x00\x4f\xc3\x00",
            b"GIF89a" + struct.pack("<HH", 50_000, 50_000) + b"\x00\x00\x00,"
            + struct.pack("<HHHH", 0, 0, 50_000, 50_000) + b"\x00\x02\x00",
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        ],
        ids=["PNG", "WebP", "GIF", "BMP"],
    )  # fmt: skip
    def test_a_bomb_is_refused_from_its_header_without_memory(self, bomb: bytes) -> None:
        tracemalloc.start()
        with pytest.raises(ImageRefused, match="50000 x 50000"):
            decode(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 2**20


class TestFit:
    @settings(max_examples=60)
    @given(
        height=st.integers(1, 90),
        width=st.integers(1, 90),
        size_px=st.integers(1, 64),
        crop_fraction=st.floats(0.5, 1.0),
        crop=st.sampled_from(["center", "squash"]),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
    )
    def test_gives_the_square_asked_for(self, height: int, width: int, size_px: int, **how: object) -> None:
        fitted = fit(picture(height, width), Preprocess(size_px=size_px, **how))
        assert fitted.shape == (size_px, size_px, 3)
        assert fitted.dtype == np.uint8
        assert fitted.flags.c_contiguous

    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    def test_resizes_as_pillow_does_within_two_levels(self, interpolation: str) -> None:
        pixels = picture(150, 100)
        fitted = fit(pixels, Preprocess(size_px=32, interpolation=interpolation))
        resample = Image.Resampling[interpolation.upper()]
        expected = np.array(Image.fromarray(pixels).resize((32, 48), resample))[8:40]
        assert np.abs(fitted.astype(int) - expected).max() <= 2

    @settings(max_examples=150)
    @given(
        height=st.integers(1, 400),
        width=st.integers(1, 400),
        size_px=st.integers(1, 260),
        crop=st.sampled_from(["center", "squash"]),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
        seed=st.integers(0, 99),
    )
    def test_gives_the_same_pixels_without_torch(
        self, height: int, width: int, size_px: int, seed: int, **how: object
    ) -> None:
        pixels = np.random.default_rng(seed).choice(np.array([0, 90, 255], np.uint8), (height, width, 3))
        preprocess = Preprocess(size_px=size_px, **how)
        prepare_for_many()
        expected = fit(pixels, preprocess)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "torch", None)
            np.testing.assert_array_equal(fit(pixels, preprocess), expected)

    def test_a_picture_of_the_right_size_is_left_alone(self) -> None:
        assert np.array_equal(fit(picture(32, 32), Preprocess(size_px=32)), picture(32, 32))

    def test_crops_the_centre(self) -> None:
        pixels = np.zeros((32, 96, 3), np.uint8)
        pixels[:, 32:64] = 255
        assert np.all(fit(pixels, Preprocess(size_px=32)) == 255)

    def test_crop_fraction_leaves_the_border_out(self) -> None:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[8:56, 8:56] = 255
        assert fit(pixels, Preprocess(size_px=32, crop_fraction=0.5)).min() == 255

    def test_squash_keeps_the_borders(self) -> None:
        pixels = np.zeros((32, 96, 3), np.uint8)
        pixels[:, 48:] = 255
        squashed = fit(pixels, Preprocess(size_px=32, crop="squash"))
        assert squashed[:, :14].max() == 0
        assert squashed[:, 18:].min() == 255

    @pytest.mark.parametrize("shape", [(1, 60_000, 3), (60_000, 1, 3)])
    def test_a_hair_thin_picture_does_not_fill_the_memory(self, shape: tuple[int, int, int]) -> None:
        assert np.all(fit(np.full(shape, 7, np.uint8), Preprocess(size_px=224)) == 7)

    def test_leaves_its_input_alone(self) -> None:
        pixels = picture()
        fit(pixels, Preprocess(size_px=16))
        assert np.array_equal(pixels, picture())

    @pytest.mark.parametrize(
        "bad", [{"size_px": 0}, {"size_px": 8, "crop_fraction": 0}, {"size_px": 8, "crop": "left"}]
    )
    def test_values_out_of_bounds_are_refused(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            Preprocess(**bad)


class TestMaskAndThumbnail:
    def test_a_mask_zeroes_the_background(self) -> None:
        mask = np.arange(24 * 36).reshape(24, 36) % 3 == 0
        masked = apply_mask(picture(), mask)
        assert np.array_equal(masked[mask], picture()[mask])
        assert masked[~mask].max() == 0

    def test_a_small_mask_is_stretched_over_the_picture(self) -> None:
        masked = apply_mask(np.full((10, 20, 3), 9, np.uint8), np.array([[True, False]]))
        assert np.all(masked[:, :10] == 9)
        assert np.all(masked[:, 10:] == 0)

    @pytest.mark.parametrize("shape", [(30, 90), (90, 30), (64, 64)])
    def test_a_thumbnail_keeps_proportions_within_its_side(self, shape: tuple[int, int]) -> None:
        small = decode(thumbnail(picture(*shape), 30))
        assert max(small.shape[:2]) == 30
        assert small.shape[0] / small.shape[1] == pytest.approx(shape[0] / shape[1])

    def test_a_thumbnail_never_enlarges(self) -> None:
        assert decode(thumbnail(picture(5, 7), 100)).shape == (5, 7, 3)


class TestCrop:
    def test_a_crop_is_the_box_around_the_product_and_its_margin(self) -> None:
        mask = np.zeros((24, 36), np.bool_)
        mask[6:16, 10] = mask[8, 10:30] = True
        assert np.array_equal(crop_to_mask(picture(), mask, 0), picture()[6:16, 10:30])
        assert np.array_equal(crop_to_mask(picture(), mask, 0.1), picture()[5:17, 8:32])
        assert np.array_equal(cut(picture(), box_around(mask, 0.1)), picture()[5:17, 8:32])

    def test_a_margin_ends_where_the_picture_does(self) -> None:
        mask = np.zeros((24, 36), np.bool_)
        mask[2:20, 30:] = True
        assert np.array_equal(crop_to_mask(picture(), mask, 1), picture()[:, 24:])

    def test_the_box_of_a_small_mask_is_stretched_over_the_picture(self) -> None:
        mask = np.zeros((4, 4), np.bool_)
        mask[1:3, 2] = True
        assert np.array_equal(crop_to_mask(picture(40, 20), mask, 0), picture(40, 20)[10:30, 10:15])

    def test_an_empty_mask_leaves_the_picture_whole(self) -> None:
        assert np.array_equal(crop_to_mask(picture(), np.zeros((5, 5), np.bool_), 0.1), picture())
        assert box_around(np.zeros((5, 5), np.bool_), 0.1) is None

    def test_the_smallest_box_holds_a_pixel(self) -> None:
        assert cut(picture(24, 36), (0.999, 0, 1, 0.001)).shape == (1, 1, 3)

    @given(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.floats(0, 1),
        st.randoms(use_true_random=False),
    )
    def test_no_pixel_of_the_product_is_cut_off(self, shape, mask_shape, margin, random) -> None:
        """The crop holds every pixel that the mask keeps."""
        mask = np.array([random.random() < 0.1 for _ in range(mask_shape[0] * mask_shape[1])]).reshape(mask_shape)
        image = np.stack([*np.indices(shape), np.ones(shape)], axis=-1).astype(np.uint8)  # each pixel names its place
        cropped = crop_to_mask(image, mask, margin)
        assert _places(apply_mask(image, mask)) <= _places(cropped) <= _places(image)
        assert cropped.size > 0

    def test_a_large_picture_is_shrunk_and_a_small_one_left_alone(self) -> None:
        assert shrink(picture(300, 100), 60).shape == (60, 20, 3)
        assert shrink(picture(1, 900), 60).shape == (1, 60, 3)
        assert np.array_equal(shrink(picture(), 36), picture())


def _places(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, image[image[..., 2] > 0]))


def _decoded_or_refused(data: bytes) -> None:
    with suppress(ImageRefused):
        assert decode(data).ndim == 3
