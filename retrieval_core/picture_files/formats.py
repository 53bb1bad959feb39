"""Open a picture file by its bytes: read its header and check its bounds, before any pixel is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from retrieval_core.errors import ImageRefused

FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG 2000"
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx",
)  # fmt: skip
_SUFFIX_OF = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
    "AVIF": ".avif", "HEIF": ".heic", "JPEG2000": ".jp2",
}  # fmt: skip
HEAD_BYTES = 512  # enough to recognise a format
MAX_SCANS = 500  # of a JPEG; encoders write about ten, and each is a pass over the whole picture

# Pillow warns about metadata (EXIF, TIFF tags) that does not affect the pixels. The filter is set once for the process,
# because `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `max_pixels` bounds the size instead

_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"II+\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00+", TiffImagePlugin.TiffImageFile),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", Jpeg2KImagePlugin.Jpeg2KImageFile),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_REFUSED_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML or SVG document"),
    (b"<!DOCTYPE", "an HTML or XML document"),
    (b"<html", "an HTML document"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
)


def is_picture_head(head: bytes) -> bool:
    """Return whether the first `HEAD_BYTES` of a file begin a picture of a format that is read."""
    return _reader(head) is not None


def suffix_of(data: bytes) -> str:
    """Return the suffix that files of a picture's format usually have, such as ".jpg"; ".bin" for another format."""
    reader = _reader(data[:HEAD_BYTES])
    return _SUFFIX_OF.get(str(reader.format), ".bin") if reader else ".bin"


def open_picture(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Return the opened picture, its header read, its pixels not yet decoded.

    Raises `ImageRefused` for another format and for more than `max_pixels` pixels, and whatever Pillow raises for a
    damaged header.
    """
    reader = _reader(data[:HEAD_BYTES])
    if reader is None:
        raise ImageRefused(_unknown_format(data))
    if reader is WebPImagePlugin.WebPImageFile:
        # Check the size first: Pillow's WebP reader allocates the whole picture when it opens it.
        _check_size(_webp_size(data), max_pixels)
    # Call the plugin rather than Image.open, which tries other formats too and has its own bound on pixels.
    image = reader(io.BytesIO(data))
    _check_size(image.size, max_pixels)
    _check_tiles_and_scans(image, data, max_pixels)
    return image


def _reader(head: bytes) -> type[ImageFile.ImageFile] | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if head[4:8] == b"ftyp":
        return _iso_reader(head)
    return next((reader for signature, reader in _READERS if head.startswith(signature)), None)


def _iso_reader(head: bytes) -> type[ImageFile.ImageFile] | None:
    """Return the reader of an AVIF or HEIC file by the brands of its first box; ISO/IEC 23008-12, annex B."""
    box = head[: int.from_bytes(head[:4], "big")]
    brands = {box[8:12], *(box[start : start + 4] for start in range(16, len(box), 4))}
    if brands & _AVIF_BRANDS:
        return AvifImagePlugin.AvifImageFile
    if brands & _HEIC_BRANDS:
        from pi_heif.as_plugin import HeifImageFile

        reader: type[ImageFile.ImageFile] = HeifImageFile
        return reader
    return None


def _unknown_format(data: bytes) -> str:
    if not data:
        return "the file is empty"
    head = data[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\f\v")
    for signature, name in _REFUSED_SIGNATURES:
        if head[: len(signature)].lower() == signature.lower():
            return f"is {name}, not a {FORMATS}"
    if data[4:8] == b"ftyp":
        return f"is a video or another ISO media file, not a {FORMATS}"
    return f"is not a {FORMATS} (starts with {data[:8].hex()})"


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from the first chunk; https://developers.google.com/speed/webp/docs/riff_container."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk != b"VP8 ":
        raise ImageRefused(f"is not a WebP picture (its first chunk is {chunk!r})")
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageRefused(f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageRefused(f"{width} x {height} is more than the bound of {max_pixels} pixels")


def _check_tiles_and_scans(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> None:
    # Both cost a decoder memory or time even when the picture has few pixels.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        width, height = (tags.get(tag, 1) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        if width * height > max_pixels:
            raise ImageRefused(f"has tiles of {width} x {height}, more than the bound of {max_pixels} pixels")
    if isinstance(image, JpegImagePlugin.JpegImageFile) and _count_scans(data) > MAX_SCANS:
        raise ImageRefused(f"has more than {MAX_SCANS} scans; encoders write about ten")


def _count_scans(data: bytes) -> int:
    """Count the scans of a JPEG, at most `MAX_SCANS` + 1; ITU-T T.81, annex B."""
    position, n_scans = 2, 0
    while n_scans <= MAX_SCANS and (match := _END_OF_SCAN.search(data, position)):
        marker, position = data[match.start() + 1], match.end()
        if marker == 0xD9:
            break
        if marker not in (0x01, 0xD8):
            position += int.from_bytes(data[position : position + 2], "big")
            n_scans += marker == 0xDA
    return n_scans
