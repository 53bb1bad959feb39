"""Everything the report says, as data: written to `metrics.json` as it is, and drawn as `report.html`."""

from __future__ import annotations

from typing import Literal

from retrieval_core.artifacts import Reject, TunePoint, Value
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


class CurvePoint(TunePoint):
    """A way to search that was tried, and the median of single queries; None where it was not timed."""

    latency_ms: float | None = None


class FilterFacts(Value):
    """Recall@10 inside a selection of `n_rows`, searched row by row or by the index that passes over the others.

    `name` is the prefix of its metric, `meaning` says in words what passes.
    """

    name: str
    meaning: str
    n_rows: int
    recall: float
    latency_ms_p50: float
    how: Literal["exact", "selector"]


class IndexFacts(Value):
    """The published index as predicted, as built and as measured.

    `index_bytes` are those of the files that find candidates, `vector_bytes` those of the full vectors they are
    reranked by. `curve` are the ways to search that were tried, the cheapest first: `nprobe` and `rerank_depth` is the
    cheapest that reached `recall_target`, or the best. `imbalance` is 1 where all inverted lists are equally long.
    """

    variant: str
    recipe: str
    why: str
    n_rows: int
    n_shards: int
    n_shards_built: int
    index_bytes: int
    vector_bytes: int
    predicted_index_bytes: int
    predicted_vector_bytes: int
    dim: int
    candidate_dim: int
    nprobe: int
    rerank_depth: int
    recall_target: float
    imbalance: float
    curve: tuple[CurvePoint, ...] = ()
    filters: tuple[FilterFacts, ...] = ()
    latency_ms_p50: float
    latency_ms_p95: float

    @property
    def chosen(self) -> CurvePoint | None:
        """The point of the curve that is published; None where nothing was tuned."""
        here = (self.nprobe, self.rerank_depth)
        return next((point for point in self.curve if (point.nprobe, point.rerank_depth) == here), None)


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


class DuplicatePair(Value):
    """Two items that show the same picture, their products (None where unknown) and the cosine of their vectors."""

    items: tuple[str, str]
    products: tuple[str | None, str | None]
    similarity: float
    pictures: tuple[Picture, Picture]


class DuplicateFacts(Value):
    """Pictures that several products share: `n_pairs` were confirmed among the `n_compared` pairs that were looked at.

    Those stand out most of the `n_near` pairs of neighbours, which `n_asked` of `n_rows` rows found by searching the
    index. `pairs` are the most similar.
    """

    n_rows: int = 0
    n_asked: int = 0
    n_near: int = 0
    n_compared: int = 0
    n_pairs: int = 0
    pairs: tuple[DuplicatePair, ...] = ()


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
    duplicates: DuplicateFacts
    seconds: dict[str, float]
    quarantine: tuple[Reject, ...]
    grids: tuple[QueryGrid, ...]
    backbone: str
    weights: str


MaskFacts.model_rebuild()
