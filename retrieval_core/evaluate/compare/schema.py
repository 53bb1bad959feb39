"""The facts of a comparison's report, written to `facts.json` and rendered as `report.html`."""

from __future__ import annotations

from typing import Literal

from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.compare.tables import Table
from retrieval_core.evaluate.report.schema import QueryGrid, TrainingFacts
from retrieval_core.evaluate.thumbnails import Thumbnail

Cost = Literal["ms_per_picture", "n_bytes_per_item"]


class MeasuredVariant(Value):
    """A variant, the width of its vectors, its costs and all its metrics."""

    spec: VariantConfig
    dim: int
    ms_per_picture: float
    n_bytes_per_item: int
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        return self.spec.name


class ModelFacts(TrainingFacts):
    """A model of the comparison: its objective, backbone and initial weights, and the pictures it was trained on."""

    objective: str
    backbone: str
    start: str
    n_pictures: int
    seconds: float

    @property
    def collapsed_since(self) -> int | None:
        """The epoch since which the vectors are collapsed into one point; None if they are not at the end."""
        since = None
        for row in reversed(self.history):
            if not row.get("collapsed"):
                break
            since = int(row["epoch"])
        return since


class Front(Value):
    """The Pareto front: the variants that no other beats in both quality and this cost, the cheapest first."""

    cost: Cost
    variants: tuple[str, ...]


class SideBySide(Value):
    """One query and the hits of some variants, by name."""

    query: Thumbnail
    answers: dict[str, QueryGrid]


class CropBand(Value):
    """Queries whose crop keeps a share of `low` to `high` (0 to 1) of their picture.

    `difference` is the mean of cropped less raw, `interval` its 95% interval.
    """

    low: float
    high: float
    difference: float
    interval: tuple[float, float]
    n_queries: int
    n_better: int
    n_worse: int


class CropExample(Value):
    """A query's picture before and after cropping, with the metric of each search."""

    before: Thumbnail
    after: Thumbnail
    raw: float
    crop: float


class CropFacts(Value):
    """Where cropping helped and hurt; `raw` and `crop` name two variants that differ only in it."""

    raw: str
    crop: str
    bands: tuple[CropBand, ...]
    helped: tuple[CropExample, ...] = ()
    hurt: tuple[CropExample, ...] = ()


class ComparisonFacts(Value):
    """A whole comparison; `quality` names the metric that ranks the variants, "" if none is defined."""

    comparison: str
    title: str
    about: str
    source: str
    created: str
    n_items: int
    n_queries: int
    n_gallery: int
    quality: str
    variants: tuple[MeasuredVariant, ...]
    random: dict[str, float]
    tables: tuple[Table, ...]
    fronts: tuple[Front, ...]
    models: tuple[ModelFacts, ...]
    crops: tuple[CropFacts, ...]
    definitions: dict[str, str]
    seconds: dict[str, float]
    grids: tuple[SideBySide, ...] = ()

    @property
    def ranked(self) -> tuple[MeasuredVariant, ...]:
        """The variants by descending quality, equal ones in their order; empty without a quality."""
        if not self.quality:
            return ()
        return tuple(sorted(self.variants, key=lambda variant: -variant.metrics[self.quality]))

    def json_bytes(self) -> bytes:
        """Return the facts without pictures as JSON, the content of `facts.json`; `model_validate_json` reads it."""
        examples = {"helped", "hurt"}
        return self.model_dump_json(indent=1, exclude={"grids": True, "crops": {"__all__": examples}}).encode()
