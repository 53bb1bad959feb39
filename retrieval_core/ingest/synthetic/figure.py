"""Draw a product as a flat figure: its colours, outline and relief, before pose and light."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.ingest.synthetic.accessories import bag, hat, shoe
from retrieval_core.ingest.synthetic.clothes import CLOTHES
from retrieval_core.ingest.synthetic.fabrics import Pixels, mix, swatch
from retrieval_core.ingest.synthetic.garment import Garment, Part
from retrieval_core.ingest.synthetic.outlines import Points
from retrieval_core.ingest.synthetic.products import Product, Rgb

Floats = Float32

CUTTERS: dict[str, Callable[[Product], Garment]] = {**CLOTHES, "bag": bag, "shoe": shoe, "hat": hat}


class Figure(NamedTuple):
    """A product without its surroundings, in a square of `side` pixels."""

    garment: Garment
    albedo: Pixels  # (side, side, 3) colours before lighting
    cover: UInt8  # (side, side) 0 or 255
    slope_x: Floats  # (side, side) slope of the relief, positive where the cloth rises to the right
    slope_y: Floats  # (side, side) the same, downwards


class Window(NamedTuple):
    """The rectangle of pixels that a part covers."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def make_figure(product: Product, side_px: int) -> Figure:
    """Draw the parts of a product over each other, the lowest first, then seams and buttons."""
    garment = CUTTERS[product.category](product)
    figure = Figure(
        garment,
        np.zeros((side_px, side_px, 3), np.uint8),
        np.zeros((side_px, side_px), np.uint8),
        np.zeros((side_px, side_px), np.float32),
        np.zeros((side_px, side_px), np.float32),
    )
    cloth = swatch(product, side_px)
    rng = np.random.default_rng(product.cloth_seed + 1)
    for part in garment.parts:
        _lay(figure, part, product, cloth, rng)
    _sew(figure, garment)
    _button(figure, garment, product)
    return figure


def _lay(figure: Figure, part: Part, product: Product, cloth: Pixels, rng: np.random.Generator) -> None:
    side_px = len(figure.cover)
    window = _window(part.outline, side_px, margin_px=side_px // 40)
    stencil = _stencil(part.outline, window, side_px)
    inside = np.asarray(stencil) > 127
    area = window.slices
    if part.casts:
        halo = np.asarray(stencil.filter(ImageFilter.BoxBlur(side_px * 0.011)), dtype=np.float32) / 255
        figure.albedo[area] = (figure.albedo[area] * (1 - 0.45 * halo[..., None])).astype(np.uint8)
    relief = _relief(part, stencil, window, side_px, rng)
    figure.albedo[area][inside] = _colours(part, product, cloth, relief, window)[inside]
    figure.cover[area][inside] = 255
    figure.slope_y[area][inside] = (np.gradient(relief, axis=0) * side_px)[inside]
    figure.slope_x[area][inside] = (np.gradient(relief, axis=1) * side_px)[inside]


def _window(outline: Points, side_px: int, margin_px: int) -> Window:
    low = np.floor(outline.min(axis=0) * side_px).astype(int) - margin_px
    high = np.ceil(outline.max(axis=0) * side_px).astype(int) + margin_px
    left, top = (int(v) for v in np.clip(low, 0, side_px - 2))
    right, bottom = (int(v) for v in np.clip(high, 2, side_px))
    return Window(left, top, right, bottom)


def _stencil(outline: Points, window: Window, side_px: int) -> Image.Image:
    stencil = Image.new("L", (window.right - window.left, window.bottom - window.top))
    corners = outline * side_px - np.array([window.left, window.top])
    ImageDraw.Draw(stencil).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return stencil


def _relief(part: Part, stencil: Image.Image, window: Window, side_px: int, rng: np.random.Generator) -> Floats:
    """Return the height of the cloth in units of the plane: round at the rim, with folds along the part's direction."""
    width, height = stencil.size
    rim = np.asarray(stencil.filter(ImageFilter.BoxBlur(side_px * 0.022)), dtype=np.float32) / 255
    relief = rim * rim * 0.026
    if part.folds:
        relief += _folds(part.turn_deg, (width, height), side_px, rng) * (0.02 * part.folds)
    if part.ribs:
        x = np.linspace(window.left / side_px, window.right / side_px, width, dtype=np.float32)
        span = np.ptp(part.outline[:, 0])
        relief += np.sin((x - 0.5) / span * part.ribs * math.tau)[None, :] * np.float32(0.055 * span / part.ribs)
    return relief.astype(np.float32, copy=False)


def _folds(turn_deg: float, size: tuple[int, int], side_px: int, rng: np.random.Generator) -> Floats:
    """Return smooth noise, stretched along the part: heights around 0, mostly from -1 to 1."""
    coarse = rng.integers(0, 256, size=(5, 13)).astype(np.uint8)
    diagonal = math.hypot(*size)
    long_px = max(round(diagonal), 8)
    sheet = Image.fromarray(coarse).resize((round(side_px * 0.9), long_px), Image.Resampling.BICUBIC)
    turned = sheet.rotate(turn_deg, Image.Resampling.BILINEAR, expand=True)
    left, top = (turned.width - size[0]) // 2, (turned.height - size[1]) // 2
    crop = turned.crop((left, top, left + size[0], top + size[1]))
    return np.asarray(crop, dtype=np.float32) / np.float32(128) - np.float32(1)


def _colours(part: Part, product: Product, cloth: Pixels, relief: Floats, window: Window) -> Pixels:
    """Return (h, w, 3) uint8: the swatch, turned with the part and shifted by its folds, or one plain colour."""
    if part.cloth != "fabric":
        return np.broadcast_to(np.array(_plain_colour(part, product), np.uint8), (*relief.shape, 3))
    side_px = len(cloth)
    y, x = np.mgrid[window.top : window.bottom, window.left : window.right].astype(np.float32)
    if product.pattern != "gradient":
        turn = np.float32(math.radians(part.turn_deg + product.slant_deg))
        cx, cy = (part.outline.min(axis=0) + part.outline.max(axis=0)).astype(np.float32) / 2 * side_px
        dx, dy = x - cx, y - cy
        x, y = cx + dx * np.cos(turn) - dy * np.sin(turn), cy + dx * np.sin(turn) + dy * np.cos(turn)
        drift = relief * np.float32(side_px * 0.3)
        x, y = x + drift, y + drift
    return cloth[y.astype(np.int32) % side_px, x.astype(np.int32) % side_px]


def _plain_colour(part: Part, product: Product) -> Rgb:
    if part.cloth == "trim":
        return product.trim
    if part.cloth == "accent":
        return product.accent
    if part.cloth == "lining":
        return mix(product.base, (20, 18, 20), 0.55)
    return mix(product.base, (0, 0, 0), 0.1)


def _sew(figure: Figure, garment: Garment) -> None:
    side_px = len(figure.cover)
    thread = Image.new("L", (side_px, side_px))
    pen = ImageDraw.Draw(thread)
    for seam in garment.seams:
        points = [(float(x), float(y)) for x, y in _evenly(seam.line, 0.006) * side_px]
        width_px = max(1, round(seam.width * side_px))
        if seam.stitched:
            for start, end in zip(points[::2], points[1::2], strict=False):
                pen.line([start, end], fill=150, width=width_px)
        else:
            pen.line(points, fill=150, width=width_px, joint="curve")
    ink = np.asarray(thread, dtype=np.float32)[..., None] / 255
    figure.albedo[:] = (figure.albedo * (1 - 0.75 * ink)).astype(np.uint8)


def _evenly(line: Points, step: float) -> Points:
    """Return the same line with a point at every `step` along it."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0, lengths[-1] + step / 2, step)
    return np.stack([np.interp(at, lengths, line[:, 0]), np.interp(at, lengths, line[:, 1])], axis=1)


def _button(figure: Figure, garment: Garment, product: Product) -> None:
    side_px = len(figure.cover)
    image = Image.fromarray(figure.albedo)
    pen = ImageDraw.Draw(image)
    for x, y, radius in garment.buttons:
        for scale, colour in (
            (1.25, mix(product.base, (0, 0, 0), 0.6)),
            (1.0, product.trim),
            (0.68, mix(product.trim, (0, 0, 0), 0.16)),
            (0.2, mix(product.trim, (0, 0, 0), 0.65)),
        ):
            r = radius * scale
            pen.ellipse([(x - r) * side_px, (y - r) * side_px, (x + r) * side_px, (y + r) * side_px], fill=colour)
    figure.albedo[:] = np.asarray(image)
