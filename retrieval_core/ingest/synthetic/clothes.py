"""The cuts of clothes, from dress to trousers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retrieval_core.ingest.synthetic.garment import Garment, Part
from retrieval_core.ingest.synthetic.outlines import box, mirror, motif, strip, symmetric, trace
from retrieval_core.ingest.synthetic.products import Product

NECKLINE_DEPTH = {"v-neck": 0.15, "round": 0.075, "square": 0.09, "turtleneck": 0.02, "collar": 0.07}


@dataclass(frozen=True)
class Bodice:
    """Measures of the upper half of a garment: half widths from the middle line, and heights from the top."""

    shoulder: float = 0.2
    neck: float = 0.08
    chest: float = 0.2
    waist: float = 0.185
    hem: float = 0.2
    hem_y: float = 0.74
    waist_y: float = 0.46
    top: float = 0.12
    armpit_y: float = 0.33


def _upper(garment: Garment, product: Product, size: Bodice, sleeve_width: float = 0.1) -> None:
    """Add the back of the neck, the sleeves, the body and the neckline, in that order."""
    s, middle = size, 0.5
    garment.shown_on, garment.neck = "hanger", (middle, s.top)
    depth = NECKLINE_DEPTH[product.neckline or "round"]
    low = s.top + depth
    back = symmetric((middle, s.top + 0.012), (middle + s.neck, s.top), (middle + s.neck, low), (middle, low))
    garment.add(back, "lining", folds=0.2)
    bare = product.sleeve == "sleeveless"
    if not bare:
        _sleeves(garment, product, s, sleeve_width)
    body = symmetric(
        *_neckline(product.neckline or "round", s, depth),
        (middle + s.neck, s.top),
        (middle + s.shoulder * 0.8, s.top + 0.03) if bare else (middle + s.shoulder, s.top + 0.045),
        (middle + s.chest * 0.78, s.top + 0.15, middle + s.chest, s.armpit_y),
        (middle + s.waist, s.armpit_y + 0.06, middle + s.waist, s.waist_y),
        (middle + s.waist + 0.01, s.waist_y + 0.09, middle + s.hem, s.hem_y),
        (middle + s.hem * 0.5, s.hem_y + 0.022, middle, s.hem_y + 0.022),
    )
    garment.parts.append(Part(body, ribs=34 if product.category == "sweater" else 0))
    if product.neckline in ("round", "v-neck", "square"):
        edge = trace(*_neckline(product.neckline, s, depth), (middle + s.neck, s.top))
        whole = np.concatenate([mirror(edge)[::-1], edge])
        garment.add(strip(whole, 0.02), "plain", folds=0.3)


def _neckline(kind: str, s: Bodice, depth: float) -> list[tuple[float, ...]]:
    low = s.top + depth
    if kind == "v-neck":
        return [(0.5, low)]
    if kind == "square":
        return [(0.5, low), (0.5 + s.neck * 0.92, low)]
    return [(0.5, low), (0.5 + s.neck * 0.85, low, 0.5 + s.neck, s.top)]


def _sleeves(garment: Garment, product: Product, s: Bodice, width: float) -> None:
    long = product.sleeve == "long"
    turn = math.radians(17 + 5 * product.shape[3] if long else 42 + 8 * product.shape[3])
    length = 0.5 if long else 0.17
    shoulder = np.array([0.5 + s.shoulder - 0.02, s.top + 0.04])
    armpit = np.array([0.5 + s.chest - 0.02, s.armpit_y + 0.01])
    along, across = np.array([math.sin(turn), math.cos(turn)]), np.array([-math.cos(turn), math.sin(turn)])
    end_width = width * (0.72 if long else 1.15)
    outer = shoulder + along * length + np.array([0.025, 0])
    inner = outer + across * end_width
    bulge = (shoulder + outer) / 2 + np.array([0.035, -0.03])
    outline = trace((*shoulder,), (*bulge, *outer), (*inner,), (*((inner + armpit) / 2 + [0.004, -0.02]), *armpit))
    degrees = math.degrees(turn)
    garment.add_pair(outline, turn_deg=-degrees, folds=1.1)
    cuff = np.array([outer, inner, inner - along * 0.035, outer - along * 0.035])
    if product.category in ("sweater", "coat") or (product.category == "shirt" and long):
        garment.add_pair(cuff, "plain", -degrees, 0.4)
    else:
        hem = np.array([outer - along * 0.02, inner - along * 0.02])
        garment.sew(hem, mirror(hem), stitched=True)
    hole = trace((0.5 + s.shoulder, s.top + 0.045), (0.5 + s.chest * 0.78, s.top + 0.15, 0.5 + s.chest, s.armpit_y))
    garment.sew(hole, mirror(hole))


def _t_shirt(product: Product) -> Garment:
    garment, (wide, long, *_) = Garment(), product.shape
    s = Bodice(
        waist=0.2 + 0.02 * wide,
        chest=0.21 + 0.015 * wide,
        hem=0.205 + 0.025 * wide,
        hem_y=0.78 + 0.07 * long,
        waist_y=0.55,
    )
    _upper(garment, product, s, 0.16)
    hem = np.array([[0.5, s.hem_y], [0.5 + s.hem, s.hem_y - 0.022]])
    garment.sew(hem, mirror(hem), stitched=True)
    _print_and_pocket(garment, product)
    return garment


def _shirt(product: Product) -> Garment:
    garment, (wide, long, *_) = Garment(), product.shape
    s = Bodice(
        waist=0.19 + 0.02 * wide, chest=0.2 + 0.01 * wide, hem=0.2 + 0.02 * wide, hem_y=0.82 + 0.05 * long, neck=0.065
    )
    _upper(garment, product, s, 0.125)
    garment.add(box(0.478, s.top + 0.06, 0.522, s.hem_y + 0.02, 0.004), folds=0.3)
    garment.button_row(0.5, s.top + 0.12, s.hem_y - 0.06, 6)
    _collar(garment, s)
    _print_and_pocket(garment, product)
    return garment


def _sweater(product: Product) -> Garment:
    garment, (wide, long, *_) = Garment(), product.shape
    s = Bodice(waist=0.215 + 0.02 * wide, chest=0.215, hem=0.19 + 0.015 * wide, hem_y=0.73 + 0.06 * long, waist_y=0.56)
    _upper(garment, product, s, 0.15)
    half = s.hem + 0.004
    garment.parts.append(Part(box(0.5 - half, s.hem_y - 0.04, 0.5 + half, s.hem_y + 0.025), "plain", ribs=46))
    if product.neckline == "turtleneck":
        garment.parts.append(Part(box(0.414, s.top - 0.055, 0.586, s.top + 0.045, 0.025), "plain", ribs=46))
    _print_and_pocket(garment, product)
    return garment


def _coat(product: Product) -> Garment:
    garment, (wide, flare, *_) = Garment(), product.shape
    hem_y = {"short": 0.68, "knee": 0.83, "long": 0.96}[product.length or "knee"]
    s = Bodice(
        shoulder=0.22, chest=0.22, waist=0.2 + 0.02 * wide, hem=0.24 + 0.04 * flare, hem_y=hem_y, neck=0.075, top=0.08
    )
    _upper(garment, product, s, 0.15)
    double_breasted = product.pattern_style == 0
    opening = 0.53 if double_breasted else 0.5
    garment.sew(np.array([[opening, s.top + 0.24], [opening, hem_y + 0.02]]))
    garment.button_row(opening + 0.022, 0.36, min(hem_y - 0.1, 0.7), 4)
    if double_breasted:
        garment.button_row(0.448, 0.36, min(hem_y - 0.1, 0.7), 4)
    lapel = trace(
        (0.5 + s.neck, s.top),
        (0.5 + 0.13, s.top + 0.07),
        (0.5 + 0.1, s.top + 0.11),
        (0.5 + 0.115, s.top + 0.125),
        (opening, 0.34),
    )
    garment.add_pair(np.concatenate([lapel, [[0.5 + s.neck * 0.4, s.top + 0.075]]]), "plain", folds=0.3)
    _belt(garment, product, s.waist_y, s.waist)
    if "pocket" in product.details:
        garment.add_pair(box(0.6, 0.55, 0.69, 0.575, 0.004), folds=0.2)
    return garment


def _dress(product: Product) -> Garment:
    garment, (wide, flare, low, _) = Garment(), product.shape
    hem_y = {"short": 0.7, "knee": 0.83, "long": 0.96}[product.length or "knee"]
    s = Bodice(
        shoulder=0.155, chest=0.15 + 0.01 * wide, waist=0.125 + 0.012 * wide, hem=0.26 + 0.07 * flare, hem_y=hem_y,
        waist_y=0.42 + 0.03 * low, armpit_y=0.26, top=0.07, neck=0.07,
    )  # fmt: skip
    _upper(garment, product, s, 0.1)
    if "ruffle" in product.details:
        w = s.hem + 0.012
        side = (0.5 + w * 0.93, hem_y - 0.075), (0.5 + w, hem_y)
        ruffle = symmetric((0.5, hem_y - 0.05), *side, (0.5, hem_y + 0.06, 0.5, hem_y + 0.035))
        garment.parts.append(Part(ruffle, ribs=16))
    if "buttons" in product.details:
        garment.button_row(0.5, 0.24, s.waist_y - 0.04, 4)
    garment.sew(np.array([[0.5 - s.waist, s.waist_y], [0.5 + s.waist, s.waist_y]]))
    _belt(garment, product, s.waist_y, s.waist)
    return garment


def _skirt(product: Product) -> Garment:
    garment, (wide, flare, *_) = Garment(shown_on="hanger", neck=(0.5, 0.13)), product.shape
    hem_y = {"short": 0.55, "knee": 0.74, "long": 0.94}[product.length or "knee"]
    top, hem = 0.15 + 0.015 * wide, 0.28 + 0.08 * flare
    body = symmetric(
        (0.5, 0.14), (0.5 + top, 0.14), (0.5 + top + 0.06, 0.26, 0.5 + hem, hem_y),
        (0.5 + hem * 0.5, hem_y + 0.045, 0.5, hem_y + 0.045),
    )  # fmt: skip
    garment.parts.append(Part(body, folds=1.4, ribs=18 if "pleats" in product.details else 0))
    garment.add(box(0.5 - top - 0.004, 0.1, 0.5 + top + 0.004, 0.155, 0.008), "plain", folds=0.2)
    if "buttons" in product.details:
        garment.sew(np.array([[0.5, 0.155], [0.5, hem_y + 0.04]]))
        garment.button_row(0.5, 0.2, hem_y - 0.05, 5)
    _belt(garment, product, 0.127, top)
    return garment


def _trousers(product: Product) -> Garment:
    garment, (wide, flare, *_) = Garment(shown_on="hanger", neck=(0.5, 0.07)), product.shape
    hem_y = 0.52 if product.length == "short" else 0.96
    top, leg = 0.15 + 0.012 * wide, (0.125 if product.length == "short" else 0.085) + 0.028 * flare
    centre = 0.625 if product.length == "short" else 0.615
    leg_outline = trace(
        (0.5, 0.09), (0.5 + top, 0.09), (0.5 + top + 0.045, 0.22, centre + leg, hem_y), (centre - leg, hem_y + 0.006),
        (0.512, 0.46 if hem_y > 0.6 else 0.4, 0.5, 0.36),
    )  # fmt: skip
    garment.add_pair(leg_outline, turn_deg=-4, folds=1.0)
    cuff = np.array([[centre - leg, hem_y - 0.022], [centre + leg, hem_y - 0.028]])
    garment.sew(cuff, mirror(cuff), stitched=True)
    garment.sew(trace((0.5, 0.12), (0.5, 0.36)))
    garment.sew(trace((0.53, 0.12), (0.535, 0.25, 0.5, 0.27)), stitched=True)
    if "pocket" in product.details:
        pocket = trace((0.5 + top - 0.05, 0.12), (0.5 + top - 0.035, 0.2, 0.5 + top + 0.026, 0.215))
        garment.sew(pocket, mirror(pocket))
    if "crease" in product.details:
        crease = np.array([[centre - 0.03, 0.2], [centre, hem_y - 0.02]])
        garment.sew(crease, mirror(crease))
    garment.add(box(0.5 - top - 0.004, 0.07, 0.5 + top + 0.004, 0.122, 0.006), "plain", folds=0.2)
    garment.buttons.append((0.5, 0.096, 0.011))
    _belt(garment, product, 0.096, top)
    return garment


def _collar(garment: Garment, s: Bodice) -> None:
    flap = trace(
        (0.5 + s.neck * 0.2, s.top + 0.075),
        (0.5 + s.neck, s.top - 0.022),
        (0.5 + s.neck + 0.035, s.top + 0.03),
        (0.5 + s.neck * 0.9, s.top + 0.135),
    )
    garment.add_pair(flap, "fabric", 28, 0.3)


def _belt(garment: Garment, product: Product, y: float, half_width: float) -> None:
    if "belt" not in product.details:
        return
    garment.add(box(0.5 - half_width - 0.008, y - 0.02, 0.5 + half_width + 0.008, y + 0.02, 0.006), "trim", folds=0.3)
    garment.add(box(0.47, y - 0.028, 0.53, y + 0.028, 0.008), "accent", folds=0.1)  # the buckle
    garment.add(box(0.484, y - 0.015, 0.516, y + 0.015, 0.004), "trim", folds=0.1)


def _print_and_pocket(garment: Garment, product: Product) -> None:
    if "print" in product.details:
        x, y = 0.5 + 0.05 * product.motif_at[0], 0.42 + 0.06 * product.motif_at[1]
        outline = motif(product.motif, x, y, 0.085 + 0.02 * product.shape[2])
        garment.parts.append(Part(outline, "accent", folds=0.6, casts=False))
    if "pocket" in product.details:
        garment.add(box(0.565, 0.33, 0.65, 0.42, 0.012), folds=0.3)
        garment.sew(np.array([[0.568, 0.347], [0.647, 0.347]]), stitched=True)


CLOTHES: dict[str, Callable[[Product], Garment]] = {
    "dress": _dress,
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "sweater": _sweater,
    "coat": _coat,
    "skirt": _skirt,
    "trousers": _trousers,
}
