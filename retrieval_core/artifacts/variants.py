"""Representations of pictures: which view of a picture is embedded, and what is done to its vector."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, get_args

from pydantic import PlainSerializer, PlainValidator

from retrieval_core.config.stages import View

_BOOSTED = "boosted"
_REDUCED = re.compile(r"pca([1-9]\d*)")


@dataclass(frozen=True)
class Variant:
    """Vectors of one view of the pictures, as the backbone gives them or boosted by a head.

    Manifests, metrics and the configuration spell it `raw`, `masked`, `crop`, `boosted`, `masked_boosted` or
    `crop_boosted`, which is what `str` gives.
    """

    view: View = "raw"
    boosted: bool = False

    def __str__(self) -> str:
        if not self.boosted:
            return self.view
        return _BOOSTED if self.view == "raw" else f"{self.view}_{_BOOSTED}"

    def boost(self) -> Variant:
        """Return the variant that a head makes of this one."""
        return Variant(self.view, boosted=True)


@dataclass(frozen=True)
class Reduced:
    """The first `dim` principal components of the published vectors; spelt `pca64`."""

    dim: int

    def __str__(self) -> str:
        return f"pca{self.dim}"


def parse_variant(name: str) -> Variant:
    """Return the variant of that spelling. Raises `ValueError`."""
    for view in get_args(View):
        for variant in (Variant(view), Variant(view, boosted=True)):
            if str(variant) == name:
                return variant
    raise ValueError(f"{name!r} names no variant; expected raw, masked or crop, boosted, or masked_boosted")


def parse_representation(name: str) -> Variant | Reduced:
    """Return the variant, or the reduced vectors, of that spelling. Raises `ValueError`."""
    reduced = _REDUCED.fullmatch(name)
    return Reduced(int(reduced[1])) if reduced else parse_variant(name)


# Fields of manifests: a spelling in JSON, a value in Python.
VariantField = Annotated[
    Variant,
    PlainValidator(lambda value: value if isinstance(value, Variant) else parse_variant(value)),
    PlainSerializer(str, return_type=str),
]
RepresentationField = Annotated[
    Variant | Reduced,
    PlainValidator(lambda value: value if isinstance(value, Variant | Reduced) else parse_representation(value)),
    PlainSerializer(str, return_type=str),
]
