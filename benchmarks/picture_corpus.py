"""Small pictures of every format and mode that Vitrine reads, for the fuzzing of the decoders."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pillow_heif
from PIL import ExifTags, Image


def corpus() -> dict[str, bytes]:
    """Return small pictures of every format and mode that is read, by name; the same on every call."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    rgb = coarse.resize((64, 48), Image.Resampling.BICUBIC)
    rgba, frames = rgb.copy(), [rgb, rgb.rotate(90), rgb.rotate(180)]
    rgba.putalpha(rgb.getchannel(0))
    deep = Image.fromarray(rng.integers(0, 2**16, (24, 32), dtype=np.uint16))
    return (
        _jpegs(rgb)
        | _pngs(rgb, rgba, deep, frames)
        | _webps(rgb, rgba, frames)
        | _gifs(rgb, frames)
        | {f"bmp-{mode}": _saved(rgb.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P")}
        | {"bmp-RGBA": _saved(rgba, "BMP")}
        | _tiffs(rgb, rgba, deep, frames)
        | _avifs(rgb, rgba, frames)
        | _heics(rgb, rgba, deep, frames)
        | _jp2s(rgb, rgba, deep)
    )


def _jpegs(rgb: Image.Image) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "x" * 20_000
    kinds: dict[str, dict[str, object]] = {
        "baseline": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 1},
        "444": {"subsampling": 0},
        "rotated": {"exif": exif},
        "profile": {"icc_profile": bytes(3000), "comment": b"c" * 500},
    }
    files = {f"jpeg-{name}": _saved(rgb, "JPEG", **options) for name, options in kinds.items()}
    return files | {
        "jpeg-grey": _saved(rgb.convert("L"), "JPEG"),
        "jpeg-cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg-cmyk-progressive": _saved(rgb.convert("CMYK"), "JPEG", progressive=True),
    }


def _pngs(rgb: Image.Image, rgba: Image.Image, deep: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    return {
        "png-rgb": _saved(rgb, "PNG"),
        "png-rgba": _saved(rgba, "PNG"),
        "png-grey-alpha": _saved(rgba.convert("LA"), "PNG"),
        "png-palette": _saved(rgb.quantize(17), "PNG", transparency=0),
        "png-1-bit": _saved(rgb.convert("1"), "PNG"),
        "png-16-bit": _saved(deep, "PNG"),
        "png-exif": _saved(rgb, "PNG", exif=exif, icc_profile=bytes(500)),
        "png-animated": _saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
    }


def _webps(rgb: Image.Image, rgba: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    return {
        "webp-lossy": _saved(rgb, "WEBP"),
        "webp-lossless": _saved(rgb, "WEBP", lossless=True),
        "webp-alpha": _saved(rgba, "WEBP"),
        "webp-exif": _saved(rgb, "WEBP", exif=exif),
        "webp-animated": _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    }


def _gifs(rgb: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    return {
        "gif-plain": _saved(rgb, "GIF", interlace=0),
        "gif-interlaced": _saved(rgb, "GIF", interlace=1),
        "gif-transparent": _saved(rgb.quantize(9), "GIF", transparency=3),
        "gif-animated": _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }


def _tiffs(rgb: Image.Image, rgba: Image.Image, deep: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    packings = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return {f"tiff-{packing}": _saved(rgb, "TIFF", compression=packing) for packing in packings} | {
        "tiff-fax": _saved(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff-rgba": _saved(rgba, "TIFF", compression="tiff_lzw"),
        "tiff-cmyk": _saved(rgb.convert("CMYK"), "TIFF"),
        "tiff-16-bit": _saved(deep, "TIFF"),
        "tiff-big": _saved(rgb, "TIFF", big_tiff=True),
        "tiff-pages": _saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
    }


def _avifs(rgb: Image.Image, rgba: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    return {
        "avif-lossy": _saved(rgb, "AVIF"),
        "avif-444": _saved(rgb, "AVIF", quality=100, subsampling="4:4:4"),
        "avif-grey": _saved(rgb.convert("L"), "AVIF"),
        "avif-alpha": _saved(rgba, "AVIF"),
        "avif-tiles": _saved(rgb.resize((512, 384)), "AVIF", tile_rows=1, tile_cols=1),
        "avif-rotated": _saved(rgb, "AVIF", exif=_turned(6), icc_profile=bytes(500)),
        "avif-animated": _saved(frames[0], "AVIF", save_all=True, append_images=frames[1:]),
    }


def _heics(rgb: Image.Image, rgba: Image.Image, deep: Image.Image, frames: Sequence[Image.Image]) -> dict[str, bytes]:
    pillow_heif.register_heif_opener()
    return {
        "heic-lossy": _saved(rgb, "HEIF"),
        "heic-444": _saved(rgb, "HEIF", quality=-1, chroma=444),
        "heic-grey": _saved(rgb.convert("L"), "HEIF"),
        "heic-alpha": _saved(rgba, "HEIF"),
        "heic-16-bit": _saved(deep, "HEIF"),
        "heic-rotated": _saved(rgb, "HEIF", exif=_turned(8).tobytes(), icc_profile=bytes(500)),
        "heic-pictures": _saved(frames[0], "HEIF", save_all=True, append_images=frames[1:]),
    }


def _jp2s(rgb: Image.Image, rgba: Image.Image, deep: Image.Image) -> dict[str, bytes]:
    return {
        "jp2-lossless": _saved(rgb, "JPEG2000"),
        "jp2-lossy": _saved(rgb, "JPEG2000", irreversible=True, quality_layers=[20, 5]),
        "jp2-tiles": _saved(rgb, "JPEG2000", tile_size=(16, 16), num_resolutions=3),
        "jp2-codestream": _saved(rgb, "JPEG2000", no_jp2=True),
        "jp2-grey": _saved(rgb.convert("L"), "JPEG2000"),
        "jp2-alpha": _saved(rgba, "JPEG2000"),
        "jp2-16-bit": _saved(deep, "JPEG2000"),
    }


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
