"""Odd bytes that decide no pixel change nothing; a file that lost picture data is refused."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
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


@settings(max_examples=200)
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
@settings(max_examples=40)
@given(share=st.floats(0.3, 0.99), filling=st.sampled_from([b"", bytes(1), b"\xff", b"\x55"]), is_closed=st.booleans())
def test_a_jpeg_that_lost_its_last_bytes_is_refused(way: str, share: float, filling: bytes, is_closed: bool) -> None:
    """Also when a download was filled up with one value to its full size."""
    intact = jpeg(way)
    kept = intact[: int(len(intact) * share)]
    cut = kept + filling * (len(intact) - len(kept)) + b"\xff\xd9" * is_closed
    with pytest.raises(ImageRefused):
        decode(cut)


def test_a_damaged_scan_that_ends_too_early_is_refused() -> None:
    """Flipped bits shift the codes behind them, and the decoder has all blocks before the data end."""
    intact = jpeg()
    n_early = 0
    for position in range(segment_starts(intact)[-1] + 14, len(intact) - 60, 3):
        damaged = intact[:position] + bytes([intact[position] ^ 0x55]) + intact[position + 1 :]
        complaint = complaint_of(damaged)
        if re.search(r"([5-9]|\d\d+) extraneous bytes before marker 0xd9", complaint):
            n_early += 1
            with pytest.raises(ImageRefused):
                decode(damaged)
    assert n_early > 5


def complaint_of(data: bytes) -> str:
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        return str(error)
    return ""


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    """It would decode to fewer details."""
    intact = jpeg("progressive")
    last_tables = intact.rindex(b"\xff\xc4", 0, intact.rindex(b"\xff\xda"))
    with pytest.raises(ImageRefused):
        decode(intact[:last_tables])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "progressive"])
def test_a_jpeg_cut_within_its_end_marker_is_whole(way: str) -> None:
    np.testing.assert_array_equal(decode(jpeg(way)[:-1]), decode(jpeg(way)))


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


@pytest.mark.parametrize(("odd", "usual"), [(7, 1), (0, 0)])
def test_a_colour_transform_that_no_decoder_knows_is_read_as_the_usual_one(odd: int, usual: int) -> None:
    """0 means RGB, and stays so in a file that is tidied for another reason."""
    intact = jpeg()
    without_jfif = intact[:2] + intact[4 + int.from_bytes(intact[4:6], "big") :]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    data = inserted(without_jfif, 2, adobe + bytes([odd]) + b"stray bytes")
    np.testing.assert_array_equal(decode(data), decode(inserted(without_jfif, 2, adobe + bytes([usual]))))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_texts() -> PngInfo:
    texts = PngInfo()
    for number in range(70):
        texts.add_text(f"note {number}", "x" * 1_000_000, zip=True)
    return texts


MODES = {
    "RGB": {}, "RGBA": {}, "L": {}, "LA": {}, "P": {}, "1": {}, "I;16": {}, "turned RGB": {}, "many IDAT": {},
    "transparent RGB": {"transparency": (1, 2, 3)},
}  # fmt: skip
WRONG_EXIF = "eXIf"  # only with a wrong checksum, because a right one may turn the picture
ANCILLARY = ("tEXt", "zTXt", "iTXt", "iCCP", "gAMA", "cHRM", "sRGB", "pHYs", "sBIT", "bKGD", "hIST", "tIME", "sPLT",
             "oFFs", "pCAL", "sTER", "gIFg", "caBX", "prVt", "vpAg", "cICP", "dSIG", WRONG_EXIF)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", bytes(100_000), b"t\x00", b"t\x00\x00" + zlib.compress(bytes(2_000_000))]),
    st.builds(
        lambda name, body: name + b"\x00\x00" + zlib.compress(body),
        st.sampled_from([b"ICC profile", b"Comment", b"", b"x" * 90]),
        st.sampled_from([b"", bytes(1_200_000), b"rubbish" * 9]),
    ),
    st.builds(lambda text: b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + text, st.binary(max_size=30)),
)


def png(mode: str) -> bytes:
    image = photo()
    if mode == "I;16":
        wide = np.array(image.convert("L"), np.uint16) * 257
        return saved(Image.fromarray(wide), "PNG")
    if mode == "turned RGB":
        exif = Image.Exif()
        exif[0x0112] = 6
        return saved(image, "PNG", exif=exif)
    if mode == "many IDAT":
        return split_idat(saved(image, "PNG"))
    return saved(image.convert(mode.split()[-1]), "PNG", **MODES[mode])


def split_idat(data: bytes) -> bytes:
    start = data.index(b"IDAT") - 4
    n_bytes = int.from_bytes(data[start : start + 4], "big")
    body, end = data[start + 8 : start + 8 + n_bytes], data[start + 12 + n_bytes :]
    return data[:start] + b"".join(png_chunk(b"IDAT", body[n : n + 500]) for n in range(0, n_bytes, 500)) + end


def chunk_starts(data: bytes) -> list[int]:
    """The positions between chunks, from the one after the header to the one before the end."""
    starts = [33]
    while data[starts[-1] + 4 : starts[-1] + 8] != b"IEND":
        starts.append(starts[-1] + 12 + int.from_bytes(data[starts[-1] : starts[-1] + 4], "big"))
    return starts


@settings(max_examples=200)
@given(
    mode=st.sampled_from(sorted(MODES)),
    extras=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(ANCILLARY), BODIES, st.booleans()), min_size=1, max_size=4
    ),
    has_end=st.booleans(),
    trailer=st.binary(max_size=50),
)
def test_chunks_without_pixels_change_no_pixel_of_a_png(
    mode: str, extras: list[tuple[int, str, bytes, bool]], has_end: bool, trailer: bytes
) -> None:
    """With texts, profiles and unknown chunks, right or wrong, at any place between chunks, without its end."""
    intact = png(mode)
    starts = chunk_starts(intact)
    placed = [
        (
            starts[number % len(starts)],
            png_chunk(kind.encode(), body)[: None if is_right else -1] + b"?" * (not is_right),
        )
        for number, kind, body, is_right in [(n, kind, body, ok and kind != WRONG_EXIF) for n, kind, body, ok in extras]
    ]
    odd = intact
    for start, chunk in sorted(placed, reverse=True):
        odd = inserted(odd, start, chunk)
    odd = odd + trailer if has_end else odd[:-12]
    np.testing.assert_array_equal(decode(odd), decode(intact))


def test_damaged_exif_data_behind_the_pixels_of_a_png_does_not_turn_it_back() -> None:
    intact = png("turned RGB")
    odd = inserted(intact, chunk_starts(intact)[-1], png_chunk(b"eXIf", b"abc")[:-1] + b"?")
    np.testing.assert_array_equal(decode(odd), decode(intact))


def test_a_png_with_many_texts_or_a_profile_is_read() -> None:
    for options in ({"pnginfo": many_texts()}, {"icc_profile": bytes(1_200_000)}):
        np.testing.assert_array_equal(decode(saved(photo(), "PNG", **options)), np.array(photo()))


def test_a_png_stays_upright_when_its_orientation_is_a_text() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    texts = many_texts()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}")
    np.testing.assert_array_equal(decode(saved(photo(), "PNG", pnginfo=texts)), np.rot90(np.array(photo()), -1))


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
