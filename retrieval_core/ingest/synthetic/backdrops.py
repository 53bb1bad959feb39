"""Draw backdrops: eleven kinds, most of them busier than the product before them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from retrieval_core.ingest.synthetic.fabrics import mix
from retrieval_core.ingest.synthetic.products import PALETTE, Rgb

Pen = ImageDraw.ImageDraw
Rng = np.random.Generator

HAZE: Rgb = (186, 184, 180)
HAZE_SHARE = 0.5  # chosen so that an untrained ResNet-18 still finds some products


def draw_backdrop(kind: str, seed: int, side_px: int) -> Image.Image:
    """Draw a square RGB picture; `kind` is one of `BACKDROPS`, and the same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    image, blur = BACKDROPS[kind](side_px, rng)
    half = image.reduce(2).filter(ImageFilter.BoxBlur(blur * side_px / 2))  # enough pixels for a blurred picture
    half = Image.blend(half, Image.new("RGB", half.size, HAZE), HAZE_SHARE)
    return half.resize(image.size, Image.Resampling.BILINEAR)


def _any_colour(rng: Rng, greyed: float = 0.25) -> Rgb:
    """Draw a colour from the palette of the products, so that colour alone does not tell product from backdrop."""
    names = list(PALETTE)
    colour = PALETTE[names[int(rng.integers(len(names)))]]
    return mix(_jittered(rng, colour, 22), (150, 148, 144), greyed)


def _jittered(rng: Rng, colour: Rgb, spread: int) -> Rgb:
    red, green, blue = (min(max(c + int(rng.integers(-spread, spread + 1)), 0), 255) for c in colour)
    return red, green, blue


def _ramp(top: Rgb, bottom: Rgb, side_px: int) -> Image.Image:
    share = np.linspace(0, 1, side_px)[:, None, None]
    rows = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(np.broadcast_to(rows, (side_px, side_px, 3)).astype(np.uint8))


def _studio(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    wall = mix(_any_colour(rng, 0.1), (244, 242, 238), float(rng.uniform(0.35, 0.8)))
    image = _ramp(mix(wall, (0, 0, 0), 0.1), wall, side_px)
    floor = _ramp(mix(wall, (0, 0, 0), 0.22), mix(wall, (255, 255, 255), 0.35), side_px // 3)
    image.paste(floor.resize((side_px, side_px // 3)), (0, round(side_px * rng.uniform(0.68, 0.82))))
    return image, 0.012


def _brick(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    clay = ((156, 82, 62), (178, 120, 88), (120, 100, 94), (214, 206, 196))[int(rng.integers(4))]
    image = Image.new("RGB", (side_px, side_px), mix(clay, (206, 200, 190), 0.75))
    pen = ImageDraw.Draw(image)
    rows = int(rng.integers(9, 16))
    high = side_px / rows
    long = high * 2.3
    for row in range(rows):
        for column in range(-1, int(side_px / long) + 2):
            x = (column + 0.5 * (row % 2)) * long
            colour = _jittered(rng, clay, 16)
            pen.rectangle(
                [x + high * 0.06, row * high + high * 0.06, x + long - high * 0.06, (row + 1) * high - high * 0.06],
                fill=colour,
            )
    return image, 0.002


def _foliage(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    image = Image.new("RGB", (side_px, side_px), (34, 58, 36))
    pen = ImageDraw.Draw(image)
    blossom = _any_colour(rng, 0.0)
    for _ in range(260):
        x, y, turn = rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05), rng.uniform(0, math.tau)
        length = rng.uniform(0.05, 0.13)
        green = mix((40, 84, 44), (152, 184, 84), float(rng.random()) ** 1.5)
        _leaf(pen, (x, y), turn, length, side_px, _jittered(rng, green, 12))
    for _ in range(int(rng.integers(0, 24))):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.012, 0.03)
        pen.ellipse([(x - r) * side_px, (y - r) * side_px, (x + r) * side_px, (y + r) * side_px], fill=blossom)
    return image, 0.004


def _leaf(pen: Pen, at: tuple[float, float], turn: float, length: float, side_px: int, colour: Rgb) -> None:
    t = np.linspace(0, 1, 7)
    bulge = np.sin(t * math.pi) * 0.24
    along, across = np.concatenate([t, t[::-1]]) * length, np.concatenate([bulge, -bulge[::-1]]) * length
    x = at[0] + along * math.cos(turn) - across * math.sin(turn)
    y = at[1] + along * math.sin(turn) + across * math.cos(turn)
    pen.polygon([(float(a) * side_px, float(b) * side_px) for a, b in zip(x, y, strict=True)], fill=colour)


def _street(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    image = _ramp((150, 186, 216), (226, 226, 214), side_px)
    pen = ImageDraw.Draw(image)
    x = -0.05
    while x < 1:
        width, top = rng.uniform(0.14, 0.32), rng.uniform(0.02, 0.4)
        front = _any_colour(rng, 0.35)
        pen.rectangle([x * side_px, top * side_px, (x + width) * side_px, side_px], fill=front)
        _windows(pen, (x, top, width), mix(front, (36, 44, 60), 0.75), side_px, rng)
        x += width
    pave = float(rng.uniform(0.8, 0.88))
    pen.rectangle([0, pave * side_px, side_px, side_px], fill=(118, 116, 114))
    for k in range(7):
        pen.rectangle(
            [(k * 0.16) * side_px, (pave + 0.05) * side_px, (k * 0.16 + 0.09) * side_px, (pave + 0.07) * side_px],
            fill=(214, 208, 190),
        )
    return image, 0.005


def _windows(pen: Pen, house: tuple[float, float, float], glass: Rgb, side_px: int, rng: Rng) -> None:
    left, top, width = house
    n, step = int(rng.integers(2, 4)), float(rng.uniform(0.09, 0.13))
    pane = width / (n * 1.7)
    for y in np.arange(top + 0.04, 0.78, step):
        for k in range(n):
            x = left + width * (k + 0.5) / n - pane / 2
            lit = rng.random() < 0.25
            pen.rectangle(
                [x * side_px, y * side_px, (x + pane) * side_px, (y + step * 0.6) * side_px],
                fill=(238, 214, 140) if lit else glass,
            )


def _shelf(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    wood = ((146, 104, 66), (224, 218, 208), (86, 66, 54))[int(rng.integers(3))]
    image = Image.new("RGB", (side_px, side_px), mix(wood, (0, 0, 0), 0.45))
    pen = ImageDraw.Draw(image)
    n = int(rng.integers(3, 6))
    for row in range(n):
        floor = (row + 1) / n
        x = float(rng.uniform(0, 0.03))
        while x < 1:
            width, high = float(rng.uniform(0.025, 0.1)), float(rng.uniform(0.5, 0.88)) / n
            if rng.random() < 0.85:
                colour = _any_colour(rng, 0.1)
                pen.rectangle(
                    [x * side_px, (floor - high) * side_px, (x + width) * side_px, floor * side_px],
                    fill=colour,
                    outline=mix(colour, (0, 0, 0), 0.4),
                )
                band = floor - high * float(rng.uniform(0.6, 0.8))
                pen.rectangle(
                    [x * side_px, band * side_px, (x + width) * side_px, (band + 0.012) * side_px],
                    fill=mix(colour, (255, 255, 255), 0.5),
                )
            x += width
        pen.rectangle([0, (floor - 0.022) * side_px, side_px, floor * side_px], fill=wood)
    return image, 0.003


def _bokeh(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    night = mix(_any_colour(rng, 0.0), (20, 20, 34), 0.7)
    image = _ramp(night, mix(night, (255, 255, 255), 0.12), side_px)
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(46):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.085)
        glow = mix(_any_colour(rng, 0.0), (255, 226, 170), 0.45)
        pen.ellipse(
            [(x - r) * side_px, (y - r) * side_px, (x + r) * side_px, (y + r) * side_px],
            fill=(*glow, int(rng.integers(60, 170))),
        )
    return image, 0.006


def _posters(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    image = Image.new("RGB", (side_px, side_px), (188, 182, 172))
    pen = ImageDraw.Draw(image)
    for _ in range(11):
        x, y = rng.uniform(-0.15, 0.85, 2)
        width, high = rng.uniform(0.2, 0.45, 2)
        paper = _any_colour(rng, 0.0)
        ink = mix(paper, (20, 20, 24) if sum(paper) > 360 else (250, 248, 240), 0.85)
        pen.rectangle([x * side_px, y * side_px, (x + width) * side_px, (y + high) * side_px], fill=paper)
        _writing(pen, (float(x), float(y), float(width), float(high)), ink, side_px, rng)
    return image, 0.002


def _writing(pen: Pen, sheet: tuple[float, float, float, float], ink: Rgb, side_px: int, rng: Rng) -> None:
    """Lines of strokes that look like text and say nothing."""
    left, top, width, high = sheet
    y, size = top + 0.02, 0.045
    while y + size < top + high - 0.01:
        x = left + 0.02
        while x < left + width - 0.03:
            stroke = float(rng.uniform(0.006, 0.02))
            if rng.random() < 0.8:
                pen.rectangle(
                    [
                        x * side_px,
                        (y + float(rng.uniform(0, 0.3)) * size) * side_px,
                        (x + stroke) * side_px,
                        (y + size * 0.8) * side_px,
                    ],
                    fill=ink,
                )
            x += stroke + 0.006
        y += size * 1.25
        size = float(rng.choice([0.02, 0.026, 0.05]))


def _planks(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    wood = ((176, 128, 82), (120, 88, 62), (206, 186, 160), (108, 112, 116))[int(rng.integers(4))]
    image = Image.new("RGB", (side_px, side_px), mix(wood, (0, 0, 0), 0.5))
    pen = ImageDraw.Draw(image)
    n = int(rng.integers(5, 10))
    for k in range(n):
        plank = _jittered(rng, wood, 16)
        pen.rectangle([(k / n + 0.004) * side_px, 0, ((k + 1) / n - 0.003) * side_px, side_px], fill=plank)
        for _ in range(9):
            x, y, length = (k + rng.uniform(0.1, 0.9)) / n, rng.uniform(-0.2, 1), rng.uniform(0.1, 0.5)
            pen.line(
                [x * side_px, y * side_px, x * side_px, (y + length) * side_px],
                fill=mix(plank, (40, 26, 16), 0.22),
                width=max(1, side_px // 250),
            )
    return (image.rotate(90) if rng.random() < 0.5 else image), 0.002


def _tiles(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    first, second = _any_colour(rng, 0.3), _any_colour(rng, 0.3)
    image = Image.new("RGB", (side_px, side_px), first)
    pen = ImageDraw.Draw(image)
    n, diamonds = int(rng.integers(5, 11)), rng.random() < 0.5
    step = side_px / n
    for row in range(n + 1):
        for column in range(n + 1):
            x, y = column * step, row * step
            if diamonds:
                pen.polygon([(x, y - step / 2), (x + step / 2, y), (x, y + step / 2), (x - step / 2, y)], fill=second)
            elif (row + column) % 2:
                pen.rectangle([x, y, x + step, y + step], fill=second)
    return image, 0.002


def _curtain(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    cloth = np.array(_any_colour(rng, 0.1), np.float32)
    x = np.linspace(0, 1, side_px, dtype=np.float32)
    waves = int(rng.integers(5, 14))
    light = 0.78 + 0.2 * np.sin(math.tau * waves * x + 0.8 * np.sin(math.tau * x * 2 + rng.uniform(0, 6)))
    rows = np.clip(cloth * light[:, None], 0, 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(rows, (side_px, side_px, 3)).copy()), 0.0


def _rail(side_px: int, rng: Rng) -> tuple[Image.Image, float]:
    """Other clothes on a rail, out of focus."""
    wall = mix(_any_colour(rng, 0.2), (235, 232, 226), 0.6)
    image = _ramp(wall, mix(wall, (0, 0, 0), 0.25), side_px)
    pen = ImageDraw.Draw(image)
    x = -0.05
    while x < 1.05:
        width, hem = float(rng.uniform(0.05, 0.13)), float(rng.uniform(0.62, 0.95))
        colour = _any_colour(rng, 0.05)
        corners = [(x, 0.16), (x + width, 0.16), (x + width * 1.25, hem), (x - width * 0.2, hem)]
        pen.polygon([(a * side_px, b * side_px) for a, b in corners], fill=colour)
        for k in range(1, int(rng.integers(2, 5))):
            fold = x + width * k / 5
            pen.line(
                [fold * side_px, 0.18 * side_px, fold * side_px, hem * side_px],
                fill=mix(colour, (0, 0, 0), 0.3),
                width=max(1, side_px // 120),
            )
        x += width * 1.02
    pen.line([0, 0.12 * side_px, side_px, 0.12 * side_px], fill=(70, 70, 74), width=max(2, side_px // 50))
    return image, 0.006


BACKDROPS: dict[str, Callable[[int, Rng], tuple[Image.Image, float]]] = {
    "studio": _studio,
    "brick": _brick,
    "foliage": _foliage,
    "street": _street,
    "shelf": _shelf,
    "bokeh": _bokeh,
    "posters": _posters,
    "planks": _planks,
    "tiles": _tiles,
    "curtain": _curtain,
    "rail": _rail,
}
