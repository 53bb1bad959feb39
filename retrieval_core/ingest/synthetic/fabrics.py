"""Draw cloth: one square swatch per product, which is repeated over its garment without a seam."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from retrieval_core.arrays import Float64, UInt8
from retrieval_core.ingest.synthetic.products import Product, Rgb

Pixels = UInt8


def swatch(product: Product, side_px: int) -> Pixels:
    """Draw the cloth of a product, flat and evenly lit, as (side_px, side_px, 3) uint8."""
    rng = np.random.default_rng(product.cloth_seed)
    cloth = _PATTERNS[product.pattern](product, side_px, rng).astype(np.float32)
    weave = rng.integers(-5, 6, size=(side_px, side_px, 1)).astype(np.float32)
    return np.asarray(np.clip(cloth + weave, 0, 255), dtype=np.uint8)


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Return a mixture of two colours with a `share`, 0 to 1, of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _solid(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    return np.broadcast_to(np.array(product.base, np.uint8), (side_px, side_px, 3))


def _gradient(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    depth = np.clip((np.arange(side_px, dtype=np.float32) / side_px - 0.35) / 0.6, 0, 1)[:, None, None]
    base, accent = np.array(product.base, np.float32), np.array(product.accent, np.float32)
    rows = base + (accent - base) * depth * 0.9
    return np.broadcast_to(rows, (side_px, side_px, 3)).astype(np.uint8)


def _striped(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    phase = _phase(side_px, product.repeats)
    share = (0.25, 0.4, 0.16)[product.pattern_style]
    on = phase < share
    if product.pattern_style == 2:
        on |= (phase > 0.3) & (phase < 0.38)
    rows = np.where(on[:, None], np.array(product.accent, np.uint8), np.array(product.base, np.uint8))
    return np.broadcast_to(rows[:, None, :], (side_px, side_px, 3))


def _checked(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    phase = _phase(side_px, max(product.repeats * 2 // 3, 4))
    band = np.where(phase < (0.5, 0.35, 0.25)[product.pattern_style], 0.5, 0.0)
    line = ((phase > 0.7) & (phase < 0.76)) if product.pattern_style else np.zeros(side_px, bool)
    cover = (band[:, None] + band[None, :])[..., None]
    cloth = np.array(product.base) * (1 - cover) + np.array(product.accent) * cover
    cloth[line[:, None] | line[None, :]] = product.trim
    return cloth.astype(np.uint8)


def _dotted(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    n = product.repeats
    image = Image.new("RGB", (side_px, side_px), product.base)
    pen = ImageDraw.Draw(image)
    step = side_px / (2 * (n // 2))
    radius = step * (0.18, 0.28, 0.36)[product.pattern_style]
    for row in range(2 * (n // 2) + 1):
        for column in range(2 * (n // 2) + 1):
            x = (column + 0.5 * (row % 2)) * step
            pen.ellipse(_disc(x, row * step, radius), fill=product.accent)
    return np.asarray(image)


def _floral(product: Product, side_px: int, rng: np.random.Generator) -> Pixels:
    tile_px = side_px // 2
    image = Image.new("RGB", (tile_px, tile_px), product.base)
    pen = ImageDraw.Draw(image)
    leaf = mix((70, 120, 70), product.base, 0.25)
    heart = mix(product.trim, (250, 210, 90), 0.5)
    n_side = 3 + product.pattern_style
    step = tile_px / n_side
    for cell in range(n_side * n_side):
        x, y = (np.array(divmod(cell, n_side)) + 0.5 + rng.uniform(-0.28, 0.28, 2)) * step
        petal, turn = step * rng.uniform(0.13, 0.22), rng.uniform(0, math.pi)
        shade = mix(product.accent, (255, 255, 255), float(rng.uniform(0, 0.35)))
        for dx in (-tile_px, 0, tile_px):
            for dy in (-tile_px, 0, tile_px):
                _flower(pen, (x + dx, y + dy), petal, turn, (leaf, shade, heart))
    return np.tile(np.asarray(image), (3, 3, 1))[:side_px, :side_px]


def _flower(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], petal_px: float, turn: float, colours: tuple[Rgb, Rgb, Rgb]
) -> None:
    leaf, petal, heart = colours
    for angle in (turn, turn + 2.2):
        x, y = at[0] + math.cos(angle) * petal_px * 2.1, at[1] + math.sin(angle) * petal_px * 2.1
        pen.ellipse(_disc(x, y, petal_px * 0.6), fill=leaf)
    for k in range(5):
        angle = turn + k * math.tau / 5
        x, y = at[0] + math.cos(angle) * petal_px, at[1] + math.sin(angle) * petal_px
        pen.ellipse(_disc(x, y, petal_px * 0.78), fill=petal)
    pen.ellipse(_disc(at[0], at[1], petal_px * 0.6), fill=heart)


def _disc(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _phase(side_px: int, repeats: int) -> Float64:
    """Return the position of each pixel along one side within its repeat of the pattern, 0 to 1."""
    phase: Float64 = (np.arange(side_px) * repeats / side_px) % 1.0
    return phase


_PATTERNS: dict[str, Callable[[Product, int, np.random.Generator], Pixels]] = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "floral": _floral,
    "gradient": _gradient,
}
