"""Odd bytes that decide no pixel change nothing; a file that lost picture data is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from retrieval_core.errors import ImageRefused
from retrieval_core.images import decode

WAYS = {
    "plain": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "grey": {},
    "many-tables": {"optimize": True, "subsampling": 0},
}
IGNORED_SEGMENTS = (b"\xff\xe2\x00\x10ICC_PROFILE\x00\x09\x02", b"\xff\xed\x00\x04??", b"\xff\xfe\x00\x05abc")


def photo(seed: int = 0) -> Image.Image:
    """A grainy picture, so that its scans hold bytes of all values."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
    grain = rng.integers(-9, 10, (40, 48, 3))
    return Image.fromarray((np.array(smooth) + grain).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def jpeg(way: str = "plain", seed: int = 0) -> bytes:
    return saved(photo(seed).convert("L" if way == "grey" else "RGB"), "JPEG", quality=85, **WAYS[way])


def segment_starts(data: bytes) -> list[int]:
    """The positions of the markers before the first scan, by the segments' lengths."""
    starts = [2]
    while data[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(data[starts[-1] + 2 : starts[-1] + 4], "big"))
    return starts


def inserted(data: bytes, position: int, extra: bytes) -> bytes:
    return data[:position] + extra + data[position:]


@settings(deadline=None, max_examples=200)
@given(
    way=st.sampled_from(sorted(WAYS)),
    seed=st.integers(0, 9),
    extras=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.one_of(
                st.binary(min_size=1, max_size=40).filter(lambda extra: b"\xff" not in extra),
                st.sampled_from([b"\xff", b"\xff\xff\xff", b"\xff\x00", bytes(1000), *IGNORED_SEGMENTS]),
            ),
        ),
        max_size=4,
    ),
    end_padding=st.sampled_from([b"", b"\x00", bytes(3), bytes(999), b"\xff" * 7, b"\xaa" * 60, b"\x12\x34\x56"]),
    jfif_version=st.integers(0, 255),
    is_scan_header_odd=st.booleans(),
    trailer=st.binary(max_size=50),
)
def test_odd_bytes_of_a_jpeg_change_no_pixel(
    way: str,
    seed: int,
    extras: list[tuple[int, bytes]],
    end_padding: bytes,
    jfif_version: int,
    is_scan_header_odd: bool,
    trailer: bytes,
) -> None:
    intact = jpeg(way, seed)
    data = bytearray(intact)
    data[data.index(b"JFIF\x00") + 5] = jfif_version
    starts = segment_starts(intact)
    if is_scan_header_odd and way != "progressive":
        end = starts[-1] + 2 + int.from_bytes(data[starts[-1] + 2 : starts[-1] + 4], "big")
        data[end - 3 : end] = bytes(3)
    assume(not end_padding or intact[-3] != end_padding[0])
    odd = inserted(bytes(data), len(data) - 2, end_padding)
    for start, extra in sorted(((starts[number % len(starts)], extra) for number, extra in extras), reverse=True):
        odd = inserted(odd, start, extra)
    np.testing.assert_array_equal(decode(odd + trailer), decode(intact))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "progressive"])
def test_a_jpeg_without_its_end_marker_is_whole(way: str) -> None:
    np.testing.assert_array_equal(decode(jpeg(way)[:-2]), decode(jpeg(way)))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "progressive"])  # its scans may be whole, only fewer
@settings(deadline=None, max_examples=40)
@given(share=st.floats(0.3, 0.99), filling=st.sampled_from([b"", bytes(1), b"\xff", b"\x55"]), is_closed=st.booleans())
def test_a_jpeg_that_lost_its_last_bytes_is_refused(way: str, share: float, filling: bytes, is_closed: bool) -> None:
    """Also when a download was filled up with one value to its full size."""
    intact = jpeg(way)
    kept = intact[: int(len(intact) * share)]
    cut = kept + filling * (len(intact) - len(kept)) + b"\xff\xd9" * is_closed
    with pytest.raises(ImageRefused):
        decode(cut)


def test_padding_between_the_scans_of_a_progressive_jpeg_changes_no_pixel() -> None:
    intact = jpeg("progressive")
    second_scan = intact.index(b"\xff\xc4", intact.index(b"\xff\xda"))
    assert intact[second_scan - 1] != 0
    np.testing.assert_array_equal(decode(inserted(intact, second_scan, bytes(30))), decode(intact))


def test_padding_before_restart_markers_changes_no_pixel() -> None:
    intact = jpeg("restarts")
    first, second = intact.index(b"\xff\xd0"), intact.index(b"\xff\xd1")
    padded = inserted(inserted(intact, second, b"\xaa" * 9), first, bytes(5))
    np.testing.assert_array_equal(decode(padded), decode(intact))


def test_a_colour_transform_that_no_decoder_knows_is_read_as_the_usual_one() -> None:
    intact = jpeg()
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    odd, usual = (inserted(intact, 2, adobe + transform) for transform in (b"\x07", b"\x01"))
    np.testing.assert_array_equal(decode(odd), decode(usual))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_texts() -> PngInfo:
    texts = PngInfo()
    for number in range(70):
        texts.add_text(f"note {number}", "x" * 1_000_000, zip=True)
    return texts


PNG_CHUNKS = {
    "a large profile": png_chunk(b"iCCP", b"p\x00\x00" + zlib.compress(bytes(1_200_000))),
    "a profile of rubbish": png_chunk(b"iCCP", b"p\x00\x00rubbish"),
    "a large text": png_chunk(b"zTXt", b"t\x00\x00" + zlib.compress(b"x" * 2_000_000)),
    "an international text": png_chunk(b"iTXt", b"t\x00\x01\x00\x00\x00" + zlib.compress(b"x" * 2_000_000)),
    "a short gamma": png_chunk(b"gAMA", b"\x00"),
    "a short resolution": png_chunk(b"pHYs", b""),
    "a text with a wrong checksum": png_chunk(b"tEXt", b"t\x00abc")[:-1] + b"?",
    "orientation with a wrong checksum": png_chunk(b"eXIf", b"II*\x00")[:-1] + b"?",
    "an unknown chunk": png_chunk(b"prVt", bytes(100_000)),
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
@pytest.mark.parametrize("is_after", [False, True])
def test_chunks_without_pixels_change_no_pixel_of_a_png(name: str, is_after: bool) -> None:
    intact = saved(photo(), "PNG")
    position = len(intact) - 12 if is_after else intact.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode(inserted(intact, position, PNG_CHUNKS[name])), np.array(photo()))


def test_a_png_with_many_texts_or_a_profile_is_read() -> None:
    for options in ({"pnginfo": many_texts()}, {"icc_profile": bytes(1_200_000)}):
        np.testing.assert_array_equal(decode(saved(photo(), "PNG", **options)), np.array(photo()))


def test_a_png_stays_upright_when_its_texts_are_removed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo(), "PNG", exif=exif, pnginfo=many_texts())
    np.testing.assert_array_equal(decode(data), np.rot90(np.array(photo()), -1))


def test_a_png_without_its_end_is_whole_but_without_its_last_pixels_refused() -> None:
    intact = saved(photo(), "PNG")
    np.testing.assert_array_equal(decode(intact[:-12]), np.array(photo()))
    for n_bytes in (40, 900):
        with pytest.raises(ImageRefused):
            decode(intact[:-n_bytes])
        with pytest.raises(ImageRefused):
            decode(intact[:-n_bytes] + intact[-12:])


def test_a_transparent_colour_survives_the_removal_of_texts() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    assert np.all(decode(saved(image, "PNG", transparency=(1, 2, 3), pnginfo=many_texts())) == 255)
