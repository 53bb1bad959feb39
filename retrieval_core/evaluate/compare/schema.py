"""Everything a comparison's report says, as data: written to `facts.json` as it is, and drawn as `report.html`."""

from __future__ import annotations

from typing import Literal

from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.compare.tables import Table
from retrieval_core.evaluate.report.schema import QueryGrid, TrainingFacts
from retrieval_core.evaluate.thumbnails import Thumbnail

Cost = Literal["ms_per_picture", "n_bytes_per_item"]


class MeasuredVariant(Value):
    """A variant, the width of its vectors, what it costs, and all of its metrics."""

    spec: VariantConfig
    dim: int
    ms_per_picture: float
    n_bytes_per_item: int
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        return self.spec.name


class ModelFacts(TrainingFacts):
    """A model of the comparison: its objective, the weights it started from, and how many pictures it learned from."""

    objective: str
    backbone: str
    start: str
    n_pictures: int
    seconds: float

    @property
    def collapsed_since(self) -> int | None:
        """The epoch since which all vectors were all but one point; None where they are not so at the end."""
        since = None
        for row in reversed(self.history):
            if not row.get("collapsed"):
                break
            since = int(row["epoch"])
        return since


class Front(Value):
    """The variants that no other beats in both the quality and this cost, the cheapest first."""

    cost: Cost
    variants: tuple[str, ...]


class SideBySide(Value):
    """One query, and what some variants answered."""

    query: Thumbnail
    answers: dict[str, QueryGrid]


class CropBand(Value):
    """Queries whose crop keeps `low` to `high` of their picture: mean crop less raw, its 95% interval, and wins."""

    low: float
    high: float
    difference: float
    interval: tuple[float, float]
    n_queries: int
    n_better: int
    n_worse: int


class CropExample(Value):
    """A query as it is and as it was cropped, with the metric of either search."""

    before: Thumbnail
    after: Thumbnail
    raw: float
    crop: float


class CropFacts(Value):
    """Where cropping helped one variant and where it hurt: `raw` and `crop` name the two that differ in it alone."""

    raw: str
    crop: str
    bands: tuple[CropBand, ...]
    helped: tuple[CropExample, ...] = ()
    hurt: tuple[CropExample, ...] = ()


class ComparisonFacts(Value):
    """A whole comparison. `quality` is the metric that variants are ranked by, "" where the catalogue defines none."""

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
        """The variants by falling quality, equal ones in their order; empty where none is defined."""
        if not self.quality:
            return ()
        return tuple(sorted(self.variants, key=lambda variant: -variant.metrics[self.quality]))

    def json_bytes(self) -> bytes:
        """The facts without their pictures: what `facts.json` holds, and `model_validate_json` reads again."""
        examples = {"helped", "hurt"}
        return self.model_dump_json(indent=1, exclude={"grids": True, "crops": {"__all__": examples}}).encode()
