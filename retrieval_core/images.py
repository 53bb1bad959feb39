"""Decode pictures to upright RGB, and resize and mask them. Index and query decode in this one way.

A plain JPEG is decoded by simplejpeg, with the exact DCT and smooth upsampling, which gives the same pixels as Pillow
in less time; all other pictures are decoded by Pillow. Embedded colour profiles are ignored.
"""

from __future__ import annotations

import io
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin
from pydantic import BaseModel, ConfigDict, Field

from retrieval_core.arrays import Bool, Float64, UInt8
from retrieval_core.errors import ImageRefused
from retrieval_core.picture_files.formats import open_picture
from retrieval_core.picture_files.tidy import MAX_ATTEMPTS, tidy

DEFAULT_MAX_PIXELS = 100_000_000
PIXELS_AT_ONCE = 200_000_000  # decoded by all threads together, at up to 12 bytes each
ROWS_AT_ONCE = 16  # of a picture that is resized without torch
MAX_ASPECT = 4  # of the part of a picture that `fit` resizes before its centre crop
WHITE = (255, 255, 255)

RGB = UInt8
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of a picture's sides
Result = TypeVar("Result")
Interpolation = Literal["bicubic", "bilinear"]


class Preprocess(BaseModel):
    """How an upright picture becomes the square input of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(gt=0)
    crop_fraction: float = Field(1.0, gt=0, le=1)
    interpolation: Interpolation = "bicubic"
    crop: Literal["center", "squash"] = "center"


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> RGB:
    """Return the upright (h, w, 3) uint8 RGB of a picture in one of the formats of `picture_files.formats`.

    The format follows from the bytes, not from a file name. Of an animation or of pages, the first picture is decoded.
    Transparent pixels are drawn over white, 16-bit grey keeps its high byte, and CMYK, palette, grey and 1-bit pictures
    become RGB. Threads wait while more than `PIXELS_AT_ONCE` pixels would be decoded at once; a larger picture is
    decoded alone. Odd bytes that decide no pixel (see `picture_files.tidy`) are ignored.

    Raises `ImageRefused` with the reason for anything else: another format, more than `max_pixels` pixels (checked in
    the header, before decoding), a truncated or corrupt file (for a plain JPEG any other warning of its decoder), or
    float and 32-bit pixels, whose range is unknown.
    """
    return _tried(data, lambda data: _decode(open_picture(data, max_pixels), data, _decode_jpeg))


def check(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return the (height, width) of what `decode` returns, for less than half of its time where that is a plain JPEG.

    All bytes of a JPEG are read, but one pixel of 64 is computed. Raises `ImageRefused` for the files that `decode`
    refuses.
    """

    def size(data: bytes) -> tuple[int, int]:
        image = open_picture(data, max_pixels)
        pixels = _decode(image, data, _decode_small_jpeg)
        if not _is_plain_jpeg(image):
            return pixels.shape[:2]
        turned = _orientation(image) in (5, 6, 7, 8) if "exif" in image.info else False
        return (image.width, image.height) if turned else (image.height, image.width)

    return _tried(data, size)


def _tried(data: bytes, read: Callable[[bytes], Result]) -> Result:
    """Return what `read` returns, without odd bytes that decide no pixel. Raises `ImageRefused` as `decode` does."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return read(data)
        except ImageRefused:
            raise
        except MemoryError as error:
            raise ImageRefused("does not fit into memory") from error
        except Exception as error:  # decoders fail in many ways on damaged bytes
            tidied = tidy(data, str(error))
            if tidied is None:
                raise ImageRefused(_reason(error)) from error
            data = tidied
    raise ImageRefused("cannot be decoded: has too many runs of unused bytes")


def fit(image: RGB, preprocess: Preprocess) -> RGB:
    """Resize an (h, w, 3) uint8 picture with antialiasing; return (size_px, size_px, 3) uint8.

    The crop "center" resizes the short side to `size_px / crop_fraction` and crops the centre, as timm and torchvision
    do; "squash" resizes each side to `size_px`.
    """
    size_px, interpolation = preprocess.size_px, preprocess.interpolation
    if preprocess.crop == "squash":
        return _resize(image, size_px, size_px, interpolation)
    image = _limit_aspect(image)
    height, width = image.shape[:2]
    scale = max(size_px, math.floor(size_px / preprocess.crop_fraction)) / min(height, width)
    # At least size_px: int() of a rounded product could be one pixel too small.
    new_height, new_width = (max(size_px, int(side * scale + 1e-6)) for side in (height, width))
    return _center_crop(_resize(image, new_height, new_width, interpolation), size_px, size_px)


def prepare_for_many() -> None:
    """Import torch where it is installed, for a process that resizes many pictures: it gives the same pixels sooner."""
    with suppress(ImportError):
        import torch  # noqa: F401


def apply_mask(image: RGB, mask: Bool) -> RGB:
    """Return an (h, w, 3) uint8 picture with its background set to 0.

    `mask` is (h2, w2) bool, True on the product, resized to the picture by nearest neighbour.
    """
    height, width = image.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    # The values of a row lie side by side, and a product of bytes with bytes is ten times as fast as with a broadcast.
    kept = mask[:, columns].repeat(3, axis=1).view(np.uint8)[rows]
    masked: RGB = (image.reshape(height, -1) * kept).reshape(image.shape)
    return masked


def crop_to_mask(image: RGB, mask: Bool, margin: float) -> RGB:
    """Return a copy of the part of an (h, w, 3) uint8 picture around its product; all of it for an empty mask.

    `mask` is (h2, w2) bool, True on the product, stretched over the picture. The box around its True pixels grows on
    each side by `margin` (>= 0) times its height or width, within the picture.
    """
    if not mask.any():
        return image
    rows = _widened(np.flatnonzero(mask.any(axis=1)), mask.shape[0], image.shape[0], margin)
    columns = _widened(np.flatnonzero(mask.any(axis=0)), mask.shape[1], image.shape[1], margin)
    return np.ascontiguousarray(image[rows, columns])


def box_around(mask: Bool, margin: float) -> Box | None:
    """Return the box that `crop_to_mask` cuts out, at the resolution of the mask; None for an empty mask."""
    if not mask.any():
        return None
    height, width = mask.shape
    rows = _widened(np.flatnonzero(mask.any(axis=1)), height, height, margin)
    columns = _widened(np.flatnonzero(mask.any(axis=0)), width, width, margin)
    return columns.start / width, rows.start / height, columns.stop / width, rows.stop / height


def cut(image: RGB, box: Box) -> RGB:
    """Return a copy of the part of an (h, w, 3) uint8 picture in a box, at least one pixel."""
    (height, width), (left, top, right, bottom) = image.shape[:2], box
    rows, columns = _pixels(top, bottom, height), _pixels(left, right, width)
    return np.ascontiguousarray(image[rows, columns])


def shrink(image: RGB, max_side_px: int) -> RGB:
    """Reduce (never enlarge) an (h, w, 3) uint8 picture to at most `max_side_px` on each side, in proportion."""
    scale = max_side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return _resize(image, height, width, "bilinear")


def thumbnail(image: RGB, max_side_px: int, quality: int = 85) -> bytes:
    """Return the JPEG bytes of an (h, w, 3) uint8 picture, reduced to at most `max_side_px` on each side.

    `quality` is that of JPEG, 1 to 100.
    """
    small = Image.fromarray(image)
    small.thumbnail((max_side_px, max_side_px), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()


class _PixelBudget:
    """A number of pixels that threads share, so that many large pictures decoded at once do not fill the memory."""

    def __init__(self, total: int) -> None:
        self._total, self._reserved, self._changed = total, 0, threading.Condition()

    @contextmanager
    def reserve(self, n_pixels: int) -> Iterator[None]:
        """Wait until `n_pixels` are free, or for more than the total until nothing else is reserved."""
        with self._changed:
            self._changed.wait_for(lambda: self._reserved == 0 or self._reserved + n_pixels <= self._total)
            self._reserved += n_pixels
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= n_pixels
                self._changed.notify_all()


_PIXEL_BUDGET = _PixelBudget(PIXELS_AT_ONCE)


def _decode(image: ImageFile.ImageFile, data: bytes, decode_jpeg: Callable[[bytes], RGB]) -> RGB:
    """Return the upright picture. Raises `ImageRefused`, and whatever a decoder raises for damaged bytes."""
    with _PIXEL_BUDGET.reserve(image.width * image.height):
        # Pillow replaces the EXIF data of a PNG by what stands behind its pixels, even if that is damaged.
        orientation = _orientation(image) if "exif" in image.info else None
        pixels = decode_jpeg(data) if _is_plain_jpeg(image) else np.array(_flatten(image))
        return _upright(pixels, _orientation(image) if orientation is None else orientation)


def _is_plain_jpeg(image: ImageFile.ImageFile) -> bool:
    return isinstance(image, JpegImagePlugin.JpegImageFile) and image.mode in ("RGB", "L")


def _decode_jpeg(data: bytes) -> RGB:
    pixels: RGB = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    return pixels


def _decode_small_jpeg(data: bytes) -> RGB:
    """Return one pixel of each block of 8 x 8."""
    pixels: RGB = simplejpeg.decode_jpeg(data, "RGB", strict=True, min_height=1, min_width=1, min_factor=8)
    return pixels


def _flatten(image: Image.Image) -> Image.Image:
    """Convert a picture to mode RGB, with transparent pixels over white. Raises `ImageRefused` for 32-bit pixels."""
    if image.mode in ("I", "F"):
        raise ImageRefused(f"has 32-bit pixels (mode {image.mode}) of unknown range; expected 8 or 16 bits")
    image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    flat = Image.new("RGB", image.size, WHITE)
    flat.paste(layered, mask=layered.getchannel("A"))
    return flat


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation to undo, 1 (upright) to 8; 1 when the EXIF data is unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _upright(pixels: RGB, orientation: int) -> RGB:
    """Undo an EXIF orientation; a value outside the standard leaves the picture as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"cannot be decoded: {lines[0][:200] if lines else type(error).__name__}"


def _widened(covered: npt.NDArray[np.intp], n_cells: int, n_pixels: int, margin: float) -> slice:
    """Return the pixels of a side below the covered mask cells, widened by `margin` times their span on both ends."""
    first, last = int(covered[0]), int(covered[-1]) + 1
    extra, scale = margin * (last - first), n_pixels / n_cells
    # Round outwards to whole pixels, but ignore rounding errors.
    low, high = math.floor((first - extra) * scale + 1e-6), math.ceil((last + extra) * scale - 1e-6)
    return slice(max(low, 0), min(high, n_pixels))


def _pixels(start: float, stop: float, n_pixels: int) -> slice:
    first = min(int(start * n_pixels), n_pixels - 1)
    return slice(first, max(first + 1, round(stop * n_pixels)))


def _limit_aspect(image: RGB) -> RGB:
    """Crop a very long picture to its centre: `fit` drops the ends anyway, and resizing them could fill the memory."""
    limit = MAX_ASPECT * min(image.shape[:2])
    return _center_crop(image, min(image.shape[0], limit), min(image.shape[1], limit))


def _center_crop(image: RGB, height: int, width: int) -> RGB:
    top = round((image.shape[0] - height) / 2)
    left = round((image.shape[1] - width) / 2)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _resize(image: RGB, height: int, width: int, interpolation: Interpolation) -> RGB:
    # Importing torch would take as long as resizing some hundreds of pictures without it.
    if sys.modules.get("torch"):
        with suppress(ImportError):
            return _resize_with_torch(image, height, width, interpolation)
    columns = _resize_rows(image.transpose(1, 0, 2), width, interpolation)
    return _resize_rows(columns.transpose(1, 0, 2), height, interpolation)


def _resize_with_torch(image: RGB, height: int, width: int, interpolation: Interpolation) -> RGB:
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    # A view with channels last in memory: the uint8 kernel takes it as it is.
    channels_first = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    resized = transforms.resize(channels_first, [height, width], InterpolationMode(interpolation), antialias=True)
    out: RGB = resized.permute(1, 2, 0).contiguous().numpy()
    return out


def _resize_rows(image: RGB, n_rows: int, interpolation: Interpolation) -> RGB:
    """Return (n_rows, w, 3) uint8 of an (h, w, 3) uint8 picture: torch's antialiased uint8 resize, to the bit.

    Weights are rounded to 16-bit integers of as many fractional bits as the largest leaves room for, as in torch's
    aten/src/ATen/native/cpu/UpSampleKernel.cpp.
    """
    if len(image) == n_rows:
        return np.ascontiguousarray(image)
    scale = len(image) / n_rows
    stretch = max(scale, 1.0)
    support = stretch * (2 if interpolation == "bicubic" else 1)
    centres = scale * (np.arange(n_rows)[:, None] + 0.5)
    first = np.maximum((centres - support + 0.5).astype(int), 0)
    sources = first + np.arange(2 * math.ceil(support) + 1)
    is_covered = sources < np.minimum((centres + support + 0.5).astype(int), len(image))
    weights = np.where(is_covered, _filter((sources - centres + 0.5) * (1 / stretch), interpolation), 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # in torch's order of summation
    n_bits = next((n for n in range(22) if int(0.5 + weights.max() * 2 ** (n + 1)) >= 2**15), 22)
    rounded = np.trunc(weights * 2**n_bits + np.copysign(0.5, weights)).astype(np.int32)
    lines = image.reshape(len(image), -1)
    resized = np.empty((n_rows, lines.shape[1]), np.uint8)
    for start in range(0, n_rows, ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        top = int(first[start, 0])
        covered = lines[top : int(sources[some].max()) + 1].astype(np.float64)
        taps = np.zeros((len(rounded[some]), len(covered)))
        row, column = np.nonzero(rounded[some])
        taps[row, sources[some][row, column] - top] = rounded[some][row, column]
        # Whole numbers below 2**53, so that the order of summation cannot matter.
        sums = taps @ covered
        resized[some] = np.clip(np.floor((sums + 2 ** (n_bits - 1)) / 2**n_bits), 0, 255)
    return resized.reshape(n_rows, *image.shape[1:])


def _filter(x: Float64, interpolation: Interpolation) -> Float64:
    """Return the triangle filter, or the bicubic one of Keys (1981) with a = -0.5, at distances `x`."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((x - 5) * x + 8) * x * -0.5 + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
