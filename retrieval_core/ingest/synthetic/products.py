"""Plan the drawn products: their category, attributes and labels, and the differences between any two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "black": (44, 44, 50),
    "white": (238, 236, 230),
    "grey": (140, 143, 150),
    "beige": (212, 188, 152),
    "brown": (122, 80, 52),
    "red": (196, 42, 48),
    "pink": (236, 146, 172),
    "yellow": (234, 192, 62),
    "green": (66, 128, 74),
    "teal": (38, 138, 142),
    "blue": (60, 104, 188),
    "purple": (120, 74, 152),
}
COLOUR_SPREAD = 14  # largest difference in a channel (0 to 255) between a product's colour and the named one
PATTERNS = ("solid", "striped", "dotted", "checked", "floral", "gradient")
MOTIFS = ("star", "heart", "sun", "moon", "bolt", "diamond")
TRIMS: tuple[Rgb, ...] = ((232, 226, 210), (52, 46, 44), (196, 158, 84), (168, 172, 178), (126, 72, 44))


@dataclass(frozen=True)
class Cut:
    """The possible values of each attribute in a category; empty for an attribute that does not apply."""

    sleeve: tuple[str, ...] = ()
    neckline: tuple[str, ...] = ()
    length: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


CUTS: dict[str, Cut] = {
    "dress": Cut(
        sleeve=("sleeveless", "short", "long"),
        neckline=("round", "v-neck", "square"),
        length=("short", "knee", "long"),
        details=("belt", "buttons", "ruffle"),
    ),
    "t-shirt": Cut(sleeve=("sleeveless", "short"), neckline=("round", "v-neck"), details=("print", "pocket")),
    "shirt": Cut(sleeve=("short", "long"), neckline=("collar",), details=("pocket",)),
    "sweater": Cut(sleeve=("long",), neckline=("round", "v-neck", "turtleneck"), details=("print",)),
    "coat": Cut(sleeve=("long",), neckline=("collar",), length=("short", "knee", "long"), details=("belt", "pocket")),
    "skirt": Cut(length=("short", "knee", "long"), details=("pleats", "belt", "buttons")),
    "trousers": Cut(length=("short", "long"), details=("belt", "pocket", "crease")),
    "bag": Cut(style=("tote", "satchel", "backpack"), details=("pocket", "print")),
    "shoe": Cut(style=("sneaker", "boot", "pump"), details=()),
    "hat": Cut(style=("brim", "cap", "beanie"), details=("ribbon",)),
}
CATEGORIES = tuple(CUTS)


@dataclass(frozen=True)
class Product:
    """A product: everything that is the same in all its pictures.

    `shape` holds four numbers from -1 to 1 that widen, narrow or lengthen the cut; `repeats` is the number of pattern
    repeats across the drawing plane; `motif_at` is the position of a print, -1 to 1 around the middle of the chest.
    """

    number: int
    category: str
    colour: str
    pattern: str
    sleeve: str | None
    neckline: str | None
    length: str | None
    style: str | None
    details: tuple[str, ...]
    base: Rgb
    accent: Rgb
    trim: Rgb
    shape: tuple[float, float, float, float]
    repeats: int
    pattern_style: int
    slant_deg: float
    motif: str
    motif_at: tuple[float, float]
    cloth_seed: int

    @property
    def product_id(self) -> str:
        return f"p{self.number:04d}"

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes by name, without those that do not apply to the category."""
        named = {
            "colour": self.colour,
            "length": self.length,
            "neckline": self.neckline,
            "pattern": self.pattern,
            "sleeve": self.sleeve,
            "style": self.style,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def labels(self) -> list[str]:
        """Category, colour, pattern, style and details, sorted."""
        words = {self.category, self.colour, self.pattern, *self.details}
        return sorted(words | ({self.style} if self.style else set()))


def generator(seed: int, number: int, view: int, role: int) -> np.random.Generator:
    """Return random numbers for one purpose; always from four words, as a seed sequence ignores trailing zeros."""
    return np.random.default_rng(np.random.SeedSequence([seed, number, view, role]))


def plan_product(seed: int, number: int) -> Product:
    """Return product `number` of the catalogue of `seed`; categories alternate, everything else is random."""
    rng = generator(seed, number, 0, 0)
    category = CATEGORIES[number % len(CATEGORIES)]
    cut = CUTS[category]
    colour, accent = (str(name) for name in rng.choice(list(PALETTE), size=2, replace=False))
    return Product(
        number=number,
        category=category,
        colour=colour,
        pattern=_one_of(rng, PATTERNS) or "solid",
        sleeve=_one_of(rng, cut.sleeve),
        neckline=_one_of(rng, cut.neckline),
        length=_one_of(rng, cut.length),
        style=_one_of(rng, cut.style),
        details=tuple(detail for detail in cut.details if rng.random() < 0.4),
        base=_nearby(rng, PALETTE[colour]),
        accent=_nearby(rng, PALETTE[accent]),
        trim=TRIMS[int(rng.integers(len(TRIMS)))],
        shape=(_signed(rng), _signed(rng), _signed(rng), _signed(rng)),
        repeats=int(rng.integers(7, 19)),
        pattern_style=int(rng.integers(3)),
        slant_deg=float(rng.choice([0, 0, 90, 90, 45, -30])),
        motif=_one_of(rng, MOTIFS) or MOTIFS[0],
        motif_at=(_signed(rng), _signed(rng)),
        cloth_seed=int(rng.integers(2**31)),
    )


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str | None:
    return choices[int(rng.integers(len(choices)))] if choices else None


def _signed(rng: np.random.Generator) -> float:
    return float(rng.random() * 2 - 1)


def _nearby(rng: np.random.Generator, colour: Rgb) -> Rgb:
    moved = np.clip(np.array(colour) + rng.integers(-COLOUR_SPREAD, COLOUR_SPREAD + 1, size=3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])
