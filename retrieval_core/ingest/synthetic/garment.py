"""The elements of a cut: parts, seams and buttons in the drawing plane (see `outlines`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from retrieval_core.ingest.synthetic.outlines import Points, mirror

Cloth = Literal["fabric", "plain", "accent", "trim", "lining"]


@dataclass(frozen=True)
class Part:
    """A piece of cloth; later parts lie on earlier ones.

    `turn_deg` turns the pattern and the folds, `folds` is the depth of the folds, `ribs` the number of knitted ribs or
    pleats, and `casts` whether the part casts a contact shadow on the parts below.
    """

    outline: Points
    cloth: Cloth = "fabric"
    turn_deg: float = 0.0
    folds: float = 1.0
    ribs: int = 0
    casts: bool = True


@dataclass(frozen=True)
class Seam:
    """A dark line on the cloth, or a row of stitches."""

    line: Points
    width: float = 0.004
    stitched: bool = False


@dataclass
class Garment:
    """The parts of a product, and what it hangs or stands on."""

    shown_on: Literal["hanger", "stand", "nothing"] = "nothing"
    neck: tuple[float, float] = (0.5, 0.1)
    parts: list[Part] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    buttons: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius

    def add(self, outline: Points, cloth: Cloth = "fabric", turn_deg: float = 0.0, folds: float = 1.0) -> None:
        self.parts.append(Part(outline, cloth, turn_deg, folds))

    def add_pair(self, outline: Points, cloth: Cloth = "fabric", turn_deg: float = 0.0, folds: float = 1.0) -> None:
        self.add(mirror(outline), cloth, -turn_deg, folds)
        self.add(outline, cloth, turn_deg, folds)

    def sew(self, *lines: Points, stitched: bool = False) -> None:
        self.seams.extend(Seam(line, 0.003 if stitched else 0.004, stitched) for line in lines)

    def button_row(self, x: float, top: float, bottom: float, n: int) -> None:
        self.buttons.extend((x, float(y), 0.011) for y in np.linspace(top, bottom, n))
