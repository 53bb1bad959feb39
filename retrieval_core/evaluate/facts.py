"""Everything the report says, as data: written to `metrics.json` as it is, and drawn as `report.html`."""

from __future__ import annotations

from retrieval_core.artifacts import Reject, Value
from retrieval_core.evaluate.gate import MetricChange


class CatalogFacts(Value):
    """Where the night's rows went: `rows = indexed + quarantined`, and `rows = added + changed + unchanged`."""

    source: str
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    indexed: int
    quarantined: int

    @property
    def reconciled(self) -> bool:
        return self.rows == self.indexed + self.quarantined == self.added + self.changed + self.unchanged


class VariantFacts(Value):
    """One representation under exact search: `metrics` by their plain names, without the variant's prefix.

    `note` says what was searched where that is not the whole gallery.
    """

    name: str
    dim: int
    metrics: dict[str, float]
    note: str = ""


class TrainingFacts(Value):
    """A model fitted here: `trained` tonight or kept from an earlier night; `history` has one entry an epoch."""

    name: str
    trained: bool
    fitted: str
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()


class MaskFacts(Value):
    """Masks of the catalogue: how many were distrusted and replaced by the raw picture, and why."""

    n_masks: int = 0
    n_fallback: int = 0
    reasons: dict[str, int] = {}
    examples: tuple[tuple[Picture, Picture], ...] = ()

    @property
    def fallback_rate(self) -> float:
        return self.n_fallback / self.n_masks if self.n_masks else 0.0


class IndexFacts(Value):
    """The published index as built and as measured."""

    variant: str
    recipe: str
    why: str
    n_rows: int
    n_shards: int
    n_shards_built: int
    n_bytes: int
    dim: int
    candidate_dim: int
    latency_ms_p50: float
    latency_ms_p95: float


class Picture(Value):
    """A thumbnail with its caption; `jpeg` is base64, `mark` says whether a hit shares what the query was judged by."""

    item_id: str
    caption: str
    jpeg: str
    score: float | None = None
    mark: bool | None = None


class QueryGrid(Value):
    """A real query and what the published search answered."""

    query: Picture
    hits: tuple[Picture, ...]
    note: str = ""


class Facts(Value):
    """A whole report."""

    report: str
    production: str | None
    created: str
    gate: str
    reason: str
    changes: tuple[MetricChange, ...]
    catalog: CatalogFacts
    metrics: dict[str, float]
    definitions: dict[str, str]
    n_queries: int
    n_gallery: int
    variants: tuple[VariantFacts, ...]
    training: tuple[TrainingFacts, ...]
    masks: MaskFacts
    index: IndexFacts
    seconds: dict[str, float]
    quarantine: tuple[Reject, ...]
    grids: tuple[QueryGrid, ...]
    backbone: str
    weights: str


MaskFacts.model_rebuild()
