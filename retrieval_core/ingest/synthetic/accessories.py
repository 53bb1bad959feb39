"""The cuts of bags, shoes and hats."""

from __future__ import annotations

import numpy as np

from retrieval_core.ingest.synthetic.garment import Garment, Part
from retrieval_core.ingest.synthetic.outlines import box, ellipse, mirror, motif, strip, symmetric, trace
from retrieval_core.ingest.synthetic.products import Product


def bag(product: Product) -> Garment:
    garment = Garment()
    {"tote": _tote, "satchel": _satchel, "backpack": _backpack}[product.style or "tote"](garment, product)
    if "print" in product.details:
        x, y = (
            0.5 + 0.1 * product.motif_at[0],
            {"tote": 0.62, "satchel": 0.76, "backpack": 0.4}[product.style or "tote"],
        )
        garment.parts.append(Part(motif(product.motif, x, y, 0.075), "accent", folds=0.4, casts=False))
    return garment


def _tote(garment: Garment, product: Product) -> None:
    w, top, bottom = 0.3 + 0.04 * product.shape[0], 0.4 - 0.05 * product.shape[1], 0.88
    handle = trace((0.36, top + 0.05), (0.36, 0.08, 0.5, 0.08), (0.64, 0.08, 0.64, top + 0.05))
    garment.add(strip(handle - [0, 0.02], 0.034), "lining", folds=0.3)
    garment.add(strip(handle, 0.034), "trim", folds=0.3)
    body = symmetric(
        (0.5, top),
        (0.5 + w * 0.88, top),
        (0.5 + w, bottom - 0.05),
        (0.5 + w, bottom, 0.5 + w - 0.06, bottom),
        (0.5, bottom),
    )
    garment.add(body, folds=1.1)
    garment.add(box(0.5 - w * 0.885, top, 0.5 + w * 0.885, top + 0.05, 0.006), "plain", folds=0.3)
    if "pocket" in product.details:
        garment.add(box(0.36, 0.6, 0.64, 0.8, 0.02), folds=0.3)
        garment.sew(np.array([[0.37, 0.63], [0.63, 0.63]]), stitched=True)


def _satchel(garment: Garment, product: Product) -> None:
    w, top, bottom = 0.3 + 0.04 * product.shape[0], 0.4 - 0.05 * product.shape[1], 0.84
    handle = trace(
        (0.5 - w * 0.9, top + 0.06),
        (0.5 - w * 0.8, 0.08, 0.5, 0.08),
        (0.5 + w * 0.8, 0.08, 0.5 + w * 0.9, top + 0.06),
    )
    garment.add(strip(handle, 0.026), "trim", folds=0.3)
    garment.add(box(0.5 - w, top, 0.5 + w, bottom, 0.06), folds=0.5)
    if "pocket" in product.details:
        garment.add_pair(box(0.5 + w * 0.35, 0.71, 0.5 + w * 0.85, bottom - 0.02, 0.02), folds=0.3)
    flap = symmetric(
        (0.5, top - 0.012),
        (0.5 + w * 0.94, top - 0.012),
        (0.5 + w * 1.06, top, 0.5 + w * 1.02, top + 0.16),
        (0.5 + w * 0.9, top + 0.27, 0.5, top + 0.28),
    )
    garment.add(flap, folds=0.4)
    middle = np.array([0.5, top + 0.12])
    garment.sew((flap - middle) * 0.9 + middle, stitched=True)
    garment.add(box(0.47, top + 0.22, 0.53, top + 0.34, 0.012), "trim", folds=0.2)
    garment.buttons.append((0.5, top + 0.3, 0.016))


def _backpack(garment: Garment, product: Product) -> None:
    w, top, bottom = 0.26 + 0.035 * product.shape[0], 0.16, 0.88
    garment.add(strip(trace((0.44, 0.19), (0.44, 0.05, 0.5, 0.05), (0.56, 0.05, 0.56, 0.19)), 0.026), "trim", folds=0.2)
    garment.add_pair(box(0.5 + w * 0.9, 0.45, 0.5 + w + 0.045, 0.85, 0.03), "trim", folds=0.5)
    body = symmetric(
        (0.5, top - 0.03),
        (0.5 + w * 0.95, top - 0.03, 0.5 + w, top + 0.2),
        (0.5 + w * 1.02, bottom - 0.05),
        (0.5 + w, bottom + 0.02, 0.5, bottom + 0.02),
    )
    garment.add(body, folds=0.7)
    zip_line = trace(
        (0.5 - w * 0.86, 0.42),
        (0.5 - w * 0.7, top + 0.02, 0.5, top + 0.02),
        (0.5 + w * 0.7, top + 0.02, 0.5 + w * 0.86, 0.42),
    )
    garment.add(strip(zip_line, 0.014), "trim", folds=0.1)
    if "pocket" in product.details:
        garment.add(box(0.5 - w * 0.7, 0.56, 0.5 + w * 0.7, 0.82, 0.04), folds=0.4)
        garment.sew(np.array([[0.5 - w * 0.62, 0.605], [0.5 + w * 0.62, 0.605]]), stitched=True)


def shoe(product: Product) -> Garment:
    garment = Garment()
    {"sneaker": _sneaker, "boot": _boot, "pump": _pump}[product.style or "sneaker"](garment, product)
    return garment


def _sneaker(garment: Garment, product: Product) -> None:
    ankle = 0.3 + 0.04 * product.shape[0]
    garment.add(ellipse(0.265, ankle + 0.02, 0.115, 0.03), "lining", folds=0.1)
    upper = trace(
        (0.12, 0.68), (0.13, 0.5, 0.145, ankle), (0.2, ankle + 0.06, 0.38, ankle + 0.02), (0.5, 0.47, 0.66, 0.5),
        (0.88, 0.53, 0.9, 0.68),
    )  # fmt: skip
    garment.add(upper, folds=0.5)
    garment.add(trace((0.74, 0.68), (0.72, 0.56, 0.7, 0.507), (0.87, 0.54, 0.895, 0.68)), "plain", folds=0.2)
    garment.add(trace((0.12, 0.68), (0.125, 0.56, 0.13, 0.5), (0.2, 0.53, 0.24, 0.68)), "trim", folds=0.2)
    tongue = trace(
        (0.34, ankle - 0.045), (0.41, ankle - 0.02), (0.66, 0.5), (0.6, 0.535), (0.4, 0.46), (0.345, ankle + 0.05)
    )
    garment.add(tongue, "plain", folds=0.2)
    for k in range(5):
        x, y = 0.4 + 0.052 * k, ankle + 0.06 + (0.47 - ankle - 0.04) * k / 4
        garment.add(strip(np.array([[x - 0.03, y + 0.06], [x + 0.035, y - 0.02]]), 0.018), "trim", folds=0.1)
    swoosh = {
        0: trace((0.3, 0.64), (0.45, 0.66, 0.6, 0.53), (0.5, 0.6, 0.37, 0.56), (0.3, 0.64)),
        1: box(0.3, 0.5, 0.34, 0.67, 0.004),
        2: motif(product.motif, 0.36, 0.59, 0.06),
    }[product.pattern_style]
    garment.add(swoosh, "accent", folds=0.1)
    sole = trace((0.1, 0.66), (0.92, 0.665), (0.95, 0.7, 0.92, 0.755), (0.5, 0.77, 0.11, 0.76), (0.08, 0.7, 0.1, 0.66))
    garment.add(sole, "trim", folds=0.1)
    garment.sew(trace((0.105, 0.715), (0.93, 0.715)))


def _boot(garment: Garment, product: Product) -> None:
    top, heel = 0.12 - 0.05 * product.shape[0], 0.03 + 0.02 * product.shape[1]
    garment.add(ellipse(0.32, top + 0.01, 0.15, 0.03), "lining", folds=0.1)
    upper = trace(
        (0.17, top), (0.32, top + 0.045, 0.47, top), (0.455, 0.4, 0.5, 0.55), (0.6, 0.6, 0.76, 0.63),
        (0.9, 0.67, 0.9, 0.82), (0.16, 0.82), (0.2, 0.6, 0.17, top),
    )  # fmt: skip
    garment.add(upper, folds=1.0)
    garment.add(trace((0.7, 0.82), (0.68, 0.7, 0.7, 0.615), (0.9, 0.67, 0.9, 0.82)), "plain", folds=0.2)
    for y in np.linspace(top + 0.1, 0.54, 5):
        garment.add(strip(np.array([[0.36, y + 0.01], [0.465, y - 0.012]]), 0.014), "trim", folds=0.1)
    garment.add(
        trace(
            (0.15, 0.81),
            (0.91, 0.81),
            (0.93, 0.835, 0.91, 0.85),
            (0.4, 0.855),
            (0.37, 0.86 + heel),
            (0.15, 0.86 + heel),
        ),
        "trim",
        folds=0.1,
    )


def _pump(garment: Garment, product: Product) -> None:
    heel = 0.24 + 0.08 * product.shape[0]
    y = 0.78 - heel  # where the back of the foot stands
    mouth = trace((0.19, y - 0.03), (0.33, y + 0.11), (0.45, 0.7, 0.6, 0.66), (0.7, 0.62), (0.48, 0.6, 0.27, y - 0.04))
    garment.add(mouth, "lining", folds=0.1)
    upper = trace(
        (0.155, y - 0.12), (0.2, y + 0.02, 0.36, y + 0.1), (0.48, 0.66, 0.62, 0.6),
        (0.8, 0.64, 0.92, 0.775), (0.7, 0.79, 0.58, 0.775),
        (0.42, 0.74, 0.3, y + 0.12), (0.2, y + 0.06, 0.17, y + 0.08), (0.13, y, 0.155, y - 0.12),
    )  # fmt: skip
    garment.add(
        trace(
            (0.15, y + 0.04),
            (0.3, y + 0.12),
            (0.235, y + 0.2, 0.225, 0.785),
            (0.18, 0.785),
            (0.185, y + 0.2, 0.15, y + 0.04),
        ),
        "trim",
        folds=0.1,
    )
    garment.add(upper, folds=0.4)
    garment.add(strip(trace((0.58, 0.782), (0.75, 0.792, 0.925, 0.78)), 0.016), "trim", folds=0.1)
    if product.pattern_style:
        garment.add(motif(product.motif, 0.66, 0.645, 0.05), "accent", folds=0.1)


def hat(product: Product) -> Garment:
    garment, w = Garment(), 0.25 + 0.02 * product.shape[0]
    {"brim": _brimmed, "cap": _cap, "beanie": _beanie}[product.style or "brim"](garment, product, w)
    if "ribbon" in product.details:
        x = 0.5 + w * 0.75
        for side in (-1, 1):
            garment.add(ellipse(x + side * 0.04, 0.64, 0.045, 0.026), "trim", folds=0.3)
        garment.buttons.append((x, 0.64, 0.018))
    return garment


def _brimmed(garment: Garment, product: Product, w: float) -> None:
    top, brim = 0.26 - 0.05 * product.shape[1], 0.42 + 0.03 * product.shape[2]
    garment.add(ellipse(0.5, 0.64, brim, 0.12), folds=0.5)
    crown = symmetric(
        (0.5, top + 0.04),
        (0.5 + w * 0.4, top - 0.03, 0.5 + w * 0.75, top),
        (0.5 + w, top + 0.05, 0.5 + w, 0.62),
        (0.5 + w * 0.6, 0.69, 0.5, 0.69),
    )
    garment.add(crown, folds=0.7)
    band = symmetric(
        (0.5, 0.615),
        (0.5 + w * 0.6, 0.615, 0.5 + w, 0.55),
        (0.5 + w * 1.01, 0.625),
        (0.5 + w * 0.6, 0.695, 0.5, 0.695),
    )
    garment.add(band, "accent", folds=0.2)


def _cap(garment: Garment, product: Product, w: float) -> None:
    top = 0.26 - 0.05 * product.shape[1]
    dome = symmetric((0.5, top), (0.5 + w * 1.25, top, 0.5 + w * 1.2, 0.6), (0.5 + w * 0.6, 0.64, 0.5, 0.64))
    garment.add(dome, folds=0.5)
    panel = trace((0.5, top), (0.5 + w * 0.7, top + 0.03, 0.5 + w * 0.72, 0.6))
    garment.sew(trace((0.5, top), (0.5, 0.6)))
    garment.sew(panel, mirror(panel), stitched=True)
    garment.buttons.append((0.5, top, 0.02))
    visor = symmetric(
        (0.5, 0.57),
        (0.5 + w * 0.7, 0.57, 0.5 + w * 1.15, 0.6),
        (0.5 + w * 1.45, 0.72, 0.5 + w * 0.8, 0.735),
        (0.5 + w * 0.3, 0.71, 0.5, 0.71),
    )
    garment.add(visor, "plain", folds=0.3)
    garment.parts.append(Part(motif(product.motif, 0.5, 0.45, 0.075), "accent", folds=0.3, casts=False))


def _beanie(garment: Garment, product: Product, w: float) -> None:
    top = 0.26 - 0.05 * product.shape[1]
    garment.add(ellipse(0.5, top - 0.035, 0.085, 0.08), "accent", folds=1.4)
    dome = symmetric((0.5, top), (0.5 + w * 1.2, top, 0.5 + w * 1.08, 0.66), (0.5, 0.66))
    garment.parts.append(Part(dome, ribs=20))
    garment.parts.append(Part(box(0.5 - w * 1.12, 0.58, 0.5 + w * 1.12, 0.74, 0.03), "plain", ribs=24))
