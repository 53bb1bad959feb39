"""Everything the report says, as data: stored as `metrics.json`, and rendered as `report.html`."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Reject, Value
from retrieval_core.evaluate.analysis.drift import DriftFacts
from retrieval_core.evaluate.analysis.embedding_map import MapFacts
from retrieval_core.evaluate.analysis.hygiene import HygieneFacts
from retrieval_core.evaluate.analysis.near_duplicates import DuplicateFacts
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts
from retrieval_core.evaluate.analysis.quality import QualityFacts
from retrieval_core.evaluate.analysis.release_diff import ReleaseDiffFacts
from retrieval_core.evaluate.analysis.run_history import PastRun
from retrieval_core.evaluate.analysis.stage_costs import CostFacts
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.gate.anchor_comparison import AnchorFacts
from retrieval_core.evaluate.gate.decide import CauseKind
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.measure.confidence import ConfidenceFacts
from retrieval_core.evaluate.measure.filtered import FilterFacts
from retrieval_core.evaluate.measure.golden_queries import GoldenFacts
from retrieval_core.evaluate.measure.index_quality import CurvePoint
from retrieval_core.evaluate.measure.mask_quality import MaskFacts
from retrieval_core.evaluate.measure.measure import VariantFacts
from retrieval_core.evaluate.measure.synthetic_queries import SyntheticFacts
from retrieval_core.evaluate.run_outputs import CatalogFacts
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.evaluate.variant_choice import VariantChoice


class TrainingFacts(Value):
    """A fitted model, `trained` in this run or kept from an earlier one; `history` has one entry for each epoch."""

    name: str
    trained: bool
    fitted: str
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()


class IndexFacts(Value):
    """The published index as predicted, built and measured.

    `index_bytes` are those of the files that find candidates, `vector_bytes` those of the full vectors they are
    reranked with. `curve` holds the search settings that were tried, the cheapest first; `nprobe` and `rerank_depth`
    are the cheapest that reached `recall_target`, or else the best. `imbalance` is 1 if all inverted lists have the
    same length.
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
        """The point of the curve that is published; None if nothing was tuned."""
        setting = (self.nprobe, self.rerank_depth)
        return next((point for point in self.curve if (point.nprobe, point.rerank_depth) == setting), None)


class QueryGrid(Value):
    """A query and the hits of the published search; `note` says what they are judged by."""

    query: Thumbnail
    hits: tuple[Thumbnail, ...]
    note: str = ""


class ItemWords(Value):
    """What a shop calls an item, and the address of its page there; "" where it says nothing."""

    title: str = ""
    link: str = ""


class ReportFacts(Value):
    """A whole report.

    `causes` speak against publishing, each of its kind in `kinds`. `shop` holds what the shop says of the items that
    the page names; `app_url` is where the search page shows an item, before its id, "" if nobody said where it is.
    `nights` are the runs before this one, the latest last; `production_since` is when production was sealed. `best` and
    `worst` are the queries with the best and the worst answers, the extreme ones first; `grids` are sampled at random.
    `album` holds the thumbnails of the items that other facts name. None means that an analysis did not run.
    """

    report: str
    production: str | None
    created: str
    gate: str
    reason: str
    causes: tuple[str, ...] = ()
    kinds: tuple[CauseKind, ...] = ()
    changes: tuple[MetricChange, ...]
    category_changes: tuple[MetricChange, ...] = ()
    anchor: AnchorFacts | None = None
    n_shared_gallery: int = 0  # items that both releases hold and were compared on; 0 for all
    catalog: CatalogFacts
    metrics: dict[str, float]
    definitions: dict[str, str]
    n_queries: int
    n_gallery: int
    variants: tuple[VariantFacts, ...]
    choice: VariantChoice | None = None
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
    nights: tuple[PastRun, ...] = ()
    since: ReleaseDiffFacts | None = None
    losses: LossFacts | None = None
    churn: ChurnFacts | None = None
    golden: GoldenFacts = GoldenFacts()
    synthetic: SyntheticFacts = SyntheticFacts()
    confidence: ConfidenceFacts = ConfidenceFacts()
    hygiene: HygieneFacts | None = None
    drift: DriftFacts | None = None
    map: MapFacts | None = None
    costs: CostFacts = CostFacts()
    album: dict[str, Thumbnail] = {}
    shop: dict[str, ItemWords] = {}
    app_url: str = ""


MaskFacts.model_rebuild()
