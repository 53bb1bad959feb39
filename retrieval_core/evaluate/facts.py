"""Everything the report says, as data: written to `metrics.json` as it is, and drawn as `report.html`."""

from __future__ import annotations

from typing import Literal

from retrieval_core.artifacts import Reject, TunePoint, Value
from retrieval_core.evaluate.catalog_map import MapFacts
from retrieval_core.evaluate.changes import MetricChange
from retrieval_core.evaluate.churn import ChurnFacts
from retrieval_core.evaluate.cost import CostFacts
from retrieval_core.evaluate.drift import DriftFacts
from retrieval_core.evaluate.hygiene import HygieneFacts
from retrieval_core.evaluate.losses import LossFacts
from retrieval_core.evaluate.night import CatalogFacts
from retrieval_core.evaluate.past import PastNight
from retrieval_core.evaluate.quality import QualityFacts
from retrieval_core.evaluate.since import SinceFacts


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
    """A real query and what the published search answered; `metrics` are the headlines of this query alone."""

    query: Picture
    hits: tuple[Picture, ...]
    note: str = ""
    metrics: dict[str, float] = {}


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


class MissedQuery(Value):
    """A query of known answer whose first hit was wrong: what was expected, up to five, and what was found."""

    query: Picture
    expected: tuple[Picture, ...]
    hits: tuple[Picture, ...]
    note: str = ""


class GoldenFacts(Value):
    """The queries that the team keeps in `file`: of `n_queries`, the `n_asked` could be searched and judged.

    `problems` are the first of the `n_problems` things to mend in the file, one sentence each. `missing` says why
    nothing was asked, "" where something was. `missed` are some of the `n_missed` queries whose first hit was wrong.
    """

    file: str = ""
    n_queries: int = 0
    n_asked: int = 0
    metrics: dict[str, float] = {}
    n_problems: int = 0
    problems: tuple[str, ...] = ()
    n_missed: int = 0
    missed: tuple[MissedQuery, ...] = ()
    missing: str = ""


class DistortionFacts(Value):
    """One way to change pictures, and the share of the `n_queries` changed so that find their item first."""

    name: str
    meaning: str
    n_queries: int
    recall: float


class SyntheticFacts(Value):
    """Pictures of `n_items` drawn items, each changed in the ways of `distortions`, that ought to find their item.

    `recall` is averaged over items. `problems` are the first of the `n_problems` pictures that could not be read.
    `missing` says why nothing was asked. `missed` are some of the `n_missed` queries whose first hit was wrong.
    """

    n_items: int = 0
    n_queries: int = 0
    recall: float = 0.0
    distortions: tuple[DistortionFacts, ...] = ()
    n_problems: int = 0
    problems: tuple[str, ...] = ()
    n_missed: int = 0
    missed: tuple[MissedQuery, ...] = ()
    missing: str = ""


class Facts(Value):
    """A whole report.

    `nights` are the runs before this one, the latest last; `production_since` is when production was sealed. `best` and
    `worst` are the queries that were answered so, the best and the worst first; `grids` are drawn at random. `album`
    holds the thumbnails of the items that other facts name. What is None was not looked at.
    """

    report: str
    production: str | None
    created: str
    gate: str
    reason: str
    causes: tuple[str, ...] = ()
    changes: tuple[MetricChange, ...]
    category_changes: tuple[MetricChange, ...] = ()
    n_shared_gallery: int = 0  # items that both releases were compared on, 0 for all
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
    quality: QualityFacts = QualityFacts()
    best: tuple[QueryGrid, ...] = ()
    worst: tuple[QueryGrid, ...] = ()
    production_since: str = ""
    nights: tuple[PastNight, ...] = ()
    since: SinceFacts | None = None
    losses: LossFacts | None = None
    churn: ChurnFacts | None = None
    golden: GoldenFacts = GoldenFacts()
    synthetic: SyntheticFacts = SyntheticFacts()
    hygiene: HygieneFacts | None = None
    drift: DriftFacts | None = None
    map: MapFacts | None = None
    costs: CostFacts = CostFacts()
    album: dict[str, Picture] = {}


MaskFacts.model_rebuild()
