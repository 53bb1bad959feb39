"""Draw views: a product, posed and lit, before a backdrop, with the exact mask of the pixels that show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from retrieval_core.arrays import Bool
from retrieval_core.ingest.synthetic.backdrops import BACKDROPS, draw_backdrop
from retrieval_core.ingest.synthetic.fabrics import Pixels
from retrieval_core.ingest.synthetic.figure import Figure
from retrieval_core.ingest.synthetic.garment import Garment
from retrieval_core.ingest.synthetic.outlines import Points
from retrieval_core.ingest.synthetic.products import generator

SUPERSAMPLE = 2  # figures and scenes are drawn at twice the size and reduced, which smooths all edges
MESH_CELLS = 6


@dataclass(frozen=True)
class View:
    """How one picture of a product is taken. Lengths are shares of the picture's side."""

    backdrop: str
    backdrop_seed: int
    size: float  # the product's longer side
    turn_deg: float
    shear: float
    shift: tuple[float, float]
    drape: tuple[tuple[float, float], ...]  # a displacement of each mesh corner, as cloth falls differently each time
    light_deg: float
    contrast: float
    exposure: float
    warmth: float
    on_stand: bool
    tag: bool
    noise_seed: int


class Shot(NamedTuple):
    """A drawn picture, (side, side, 3) uint8, and its mask, (side, side) bool, True on the product."""

    picture: Pixels
    mask: Bool


def plan_view(seed: int, number: int, view: int) -> View:
    """Return view `view` of product `number`; each view has another kind of backdrop, until all kinds were used."""
    kinds = generator(seed, number, 0, 1).permutation(list(BACKDROPS))
    rng = generator(seed, number, view, 2)
    return View(
        backdrop=str(kinds[view % len(kinds)]),
        backdrop_seed=int(rng.integers(2**31)),
        size=float(rng.uniform(0.86, 1.0)),
        turn_deg=float(rng.uniform(-7, 7)),
        shear=float(rng.uniform(-0.05, 0.05)),
        shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
        drape=tuple((float(x), float(y)) for x, y in rng.uniform(-0.011, 0.011, size=((MESH_CELLS + 1) ** 2, 2))),
        light_deg=float(rng.uniform(0, 360)),
        contrast=float(rng.uniform(0.7, 1.15)),
        exposure=float(rng.uniform(0.92, 1.06)),
        warmth=float(rng.uniform(-0.04, 0.05)),
        on_stand=bool(rng.random() < 0.6),
        tag=bool(rng.random() < 0.2),
        noise_seed=int(rng.integers(2**31)),
    )


def shoot(figure: Figure, view: View) -> Shot:
    """Draw one view of a figure; the side of the picture is that of the figure divided by `SUPERSAMPLE`."""
    side_px = len(figure.cover)
    pose = _Pose.of(figure, view)
    product = pose.photograph(_lit(figure, view))
    visible = product.getchannel("A")
    scene = draw_backdrop(view.backdrop, view.backdrop_seed, side_px)
    if view.on_stand:
        _stand(scene, figure.garment, pose)
    _cast_shadow(scene, visible, view)
    scene.paste(product, mask=visible)
    if view.tag:
        visible = ImageChops.subtract(visible, _hang_tag(scene, figure.garment, pose))
    mask = np.asarray(visible.reduce(SUPERSAMPLE)) >= 128
    return Shot(_develop(scene.reduce(SUPERSAMPLE), view), mask)


@dataclass(frozen=True)
class _Pose:
    """The map from the drawing plane to the scene: `matrix @ (point - centre) + target`, then the drape."""

    low: Points  # corners of the figure, in its pixels
    high: Points
    matrix: Points
    target: Points
    drape: Points
    side_px: int

    @classmethod
    def of(cls, figure: Figure, view: View) -> _Pose:
        side_px = len(figure.cover)
        rows, columns = np.nonzero(figure.cover.any(axis=1))[0], np.nonzero(figure.cover.any(axis=0))[0]
        low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
        turn = math.radians(view.turn_deg)
        rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        scale = view.size * side_px / float((high - low).max())
        matrix = rotate @ np.array([[1, view.shear], [0, 1]]) * scale
        return cls(low, high, matrix, 0.5 + np.array(view.shift), np.array(view.drape), side_px)

    @property
    def centre(self) -> Points:
        middle: Points = (self.low + self.high) / (2 * self.side_px)
        return middle

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Return points of the drawing plane in pixels of the scene."""
        placed = ((points - self.centre) @ self.matrix.T + self.target) * self.side_px
        return [(float(x), float(y)) for x, y in placed]

    def photograph(self, flat: Image.Image) -> Image.Image:
        ticks = np.linspace(0, 1, MESH_CELLS + 1)
        corners = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        source = (corners - self.target) @ np.linalg.inv(self.matrix).T + self.centre + self.drape
        grid = source.reshape(MESH_CELLS + 1, MESH_CELLS + 1, 2) * self.side_px
        pixel = np.round(ticks * self.side_px).astype(int).tolist()
        mesh = []
        for row, column in np.ndindex(MESH_CELLS, MESH_CELLS):
            quad = grid[[row, row + 1, row + 1, row], [column, column, column + 1, column + 1]]
            if (quad.max(axis=0) >= self.low).all() and (quad.min(axis=0) <= self.high).all():  # else it is empty
                box = (pixel[column], pixel[row], pixel[column + 1], pixel[row + 1])
                mesh.append((box, tuple(quad.ravel().tolist())))
        return flat.transform(flat.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _lit(figure: Figure, view: View) -> Image.Image:
    """Return the figure in the view's light: Lambert's law, linear in the slope of the relief."""
    angle = math.radians(view.light_deg)
    slope = figure.slope_x * np.float32(math.cos(angle)) + figure.slope_y * np.float32(math.sin(angle))
    light = np.clip(1 - slope * np.float32(0.34 * view.contrast), 0.45, 1.32)
    in_128ths = np.round(light * 128).astype(np.uint16)
    lit = np.empty((*figure.cover.shape, 4), np.uint8)
    lit[..., :3] = np.minimum(figure.albedo * in_128ths[..., None] >> 7, 255)
    lit[..., 3] = figure.cover
    return Image.fromarray(lit)


def _cast_shadow(scene: Image.Image, visible: Image.Image, view: View) -> None:
    side_px = scene.width
    angle = math.radians(view.light_deg)
    dx, dy = round(-math.cos(angle) * side_px * 0.025), round(side_px * (0.022 - 0.012 * math.sin(angle)))
    small = visible.reduce(4).filter(ImageFilter.BoxBlur(side_px * 0.004))
    shadow = Image.new("L", visible.size)
    shadow.paste(small.resize(visible.size, Image.Resampling.BILINEAR), (dx, dy))
    scene.paste((16, 14, 22), mask=shadow.point([round(v * 0.42) for v in range(256)]))


def _stand(scene: Image.Image, garment: Garment, pose: _Pose) -> None:
    """Draw a hanger behind the product; it is not part of the mask."""
    if garment.shown_on == "nothing":
        return
    pen = ImageDraw.Draw(scene)
    x, y = garment.neck
    wire = max(2, round(pose.side_px * 0.012))
    hook = np.linspace(-0.2, 1.15, 14) * math.pi
    bend = np.stack([x + 0.03 * np.cos(hook - math.pi), y - 0.09 + 0.03 * np.sin(hook - math.pi)], axis=1)
    neck = np.array([[x, y + 0.05], [x, y - 0.03], [x + 0.02, y - 0.07]])
    arms = np.array([[x - 0.17, y + 0.07], [x, y - 0.005], [x + 0.17, y + 0.07]])
    pen.line(pose.place(np.concatenate([neck, bend[::-1]])), fill=(96, 98, 104), width=wire, joint="curve")
    pen.line(pose.place(arms), fill=(150, 104, 62), width=wire * 2, joint="curve")


def _hang_tag(scene: Image.Image, garment: Garment, pose: _Pose) -> Image.Image:
    """Draw a price tag before the product; return the mask of what it hides."""
    x, y = (garment.neck[0] + 0.11, garment.neck[1] + 0.2) if garment.shown_on != "nothing" else (0.62, 0.5)
    card = np.array([[0, 0.045], [0.035, 0.0], [0.07, 0.045], [0.07, 0.16], [0, 0.16]]) + np.array([x, y])
    hidden = Image.new("L", scene.size)
    thread = pose.place(np.array([[x - 0.03, y - 0.08], [x + 0.035, y + 0.025]]))
    for pen, paper, ink in ((ImageDraw.Draw(scene), (246, 242, 232), (90, 84, 80)), (ImageDraw.Draw(hidden), 255, 255)):
        pen.line(thread, fill=ink, width=max(1, round(pose.side_px * 0.005)))
        pen.polygon(pose.place(card), fill=paper)
        for k in range(3):
            line = np.array([[x + 0.014, y + 0.075 + 0.022 * k], [x + 0.056 - 0.012 * k, y + 0.075 + 0.022 * k]])
            pen.line(pose.place(line), fill=ink, width=max(1, round(pose.side_px * 0.007)))
    return hidden


def _develop(scene: Image.Image, view: View) -> Pixels:
    """Apply the exposure, the colour of the light and the grain of a sensor."""
    gains = (view.exposure * (1 + view.warmth), view.exposure, view.exposure * (1 - view.warmth))
    exposed = scene.point([min(round(v * gain), 255) for gain in gains for v in range(256)])
    grain = np.random.default_rng(view.noise_seed).integers(-4, 5, size=(*scene.size, 1), dtype=np.int16)
    return np.asarray(np.clip(np.asarray(exposed, dtype=np.int16) + grain, 0, 255), dtype=np.uint8)
