"""Facts of reports for tests: the fewest there can be, and runs with every fact."""

from __future__ import annotations

import base64

import numpy as np

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.drift import Drift, DriftFacts
from retrieval_core.evaluate.analysis.embedding_map import MapFacts, MapPoint
from retrieval_core.evaluate.analysis.hygiene import FixExample, HygieneFacts
from retrieval_core.evaluate.analysis.near_duplicates import DuplicateFacts, DuplicatePair
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts, MovedItem
from retrieval_core.evaluate.analysis.quality import CategoryFacts, Confusion, MetricFacts, QualityFacts
from retrieval_core.evaluate.analysis.release_diff import (
    ConfigChange,
    GoneCategory,
    ItemChange,
    ModelChange,
    ReleaseDiffFacts,
    ValueChange,
)
from retrieval_core.evaluate.analysis.run_history import PastRun
from retrieval_core.evaluate.analysis.stage_costs import CostFacts, Prediction, StageCost
from retrieval_core.evaluate.analysis.stage_losses import LinkFacts, LossFacts, StepChange
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.measure.filtered import FilterFacts
from retrieval_core.evaluate.measure.golden_queries import GoldenFacts
from retrieval_core.evaluate.measure.index_quality import CurvePoint
from retrieval_core.evaluate.measure.known_answer import MissedQuery
from retrieval_core.evaluate.measure.mask_quality import MaskFacts
from retrieval_core.evaluate.measure.measure import VariantFacts
from retrieval_core.evaluate.measure.synthetic_queries import DistortionFacts, SyntheticFacts
from retrieval_core.evaluate.report.schema import IndexFacts, QueryGrid, ReportFacts, TrainingFacts
from retrieval_core.evaluate.run_outputs import CatalogFacts
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.evaluate.variant_choice import VariantChoice, VariantScore
from retrieval_core.images import thumbnail
from retrieval_core.metrics.registry import definitions

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


def minimal(**changes) -> ReportFacts:
    """The first run over three unlabelled pictures: nothing is compared, measured, masked or trained."""
    facts = ReportFacts(
        report="0" * 32,
        production=None,
        created="2026-11-21T07:04:49+00:00",
        gate="published",
        reason="First release: there is no production to compare with.",
        changes=(),
        catalog=CatalogFacts(
            source="folder:photos", rows=3, added=3, changed=0, removed=0, unchanged=0, indexed=3, quarantined=0
        ),
        metrics={},
        definitions={},
        n_queries=0,
        n_gallery=3,
        variants=(),
        training=(),
        masks=MaskFacts(),
        index=IndexFacts(
            variant="raw",
            recipe="Flat",
            why="3 rows: comparing every row is exact.",
            n_rows=3,
            n_shards=1,
            n_shards_built=1,
            index_bytes=6189,
            vector_bytes=6946,
            predicted_index_bytes=6144,
            predicted_vector_bytes=6168,
            dim=512,
            candidate_dim=512,
            nprobe=0,
            rerank_depth=1,
            recall_target=0.99,
            imbalance=1.0,
            latency_ms_p50=0.0,
            latency_ms_p95=0.0,
        ),
        duplicates=DuplicateFacts(n_rows=3, n_asked=3),
        seconds={},
        quarantine=(),
        grids=(),
        backbone="resnet18",
        weights="pretrained",
    )
    return facts.model_copy(update=changes)


def jpeg(seed: int = 0) -> str:
    """The hardest thumbnail to compress: noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (160, 120, 3), dtype=np.uint8)
    return base64.b64encode(thumbnail(noise, 160)).decode()


def picture(item_id="sku-1", caption="dress", score=None, mark=None) -> Thumbnail:
    return Thumbnail(item_id=item_id, caption=caption, jpeg=jpeg(), score=score, mark=mark)


def duplicate(item_id="sku-1", products=("p-1", None)) -> DuplicatePair:
    return DuplicatePair(
        items=(item_id, f"{item_id}-again"),
        products=products,
        similarity=0.9931,
        pictures=(picture(item_id), picture(f"{item_id}-again")),
    )


def change(name="recall@1", difference=-0.034, low=-0.052, high=-0.016, **more) -> MetricChange:
    return MetricChange(
        name=name,
        production=0.728,
        candidate=0.728 + difference,
        difference=difference,
        n_queries=500,
        n_clusters=180,
        n_differing=40,
        low=low,
        high=high,
        largest_loss=0.049,
        unseen_loss=0.018,
        max_loss=0.02,
        **more,
    )


TUNED = (
    CurvePoint(nprobe=4, rerank_depth=1, recall=0.871, query_bytes=31_000, latency_ms=0.21),
    CurvePoint(nprobe=8, rerank_depth=1, recall=0.925, query_bytes=48_000, latency_ms=0.26),
    CurvePoint(nprobe=8, rerank_depth=4, recall=0.961, query_bytes=96_000, latency_ms=0.33),
    CurvePoint(nprobe=16, rerank_depth=4, recall=0.9912, query_bytes=131_000, latency_ms=0.41),
    CurvePoint(nprobe=32, rerank_depth=1, recall=0.968, query_bytes=150_000, latency_ms=None),
    CurvePoint(nprobe=32, rerank_depth=8, recall=0.9987, query_bytes=289_000, latency_ms=0.83),
)
FILTERED = (
    FilterFacts(
        name="where50", meaning="50% of the rows", n_rows=745, recall=0.993, latency_ms_p50=0.5, how="selector"
    ),
    FilterFacts(
        name="where_category", meaning="category dress", n_rows=212, recall=0.903, latency_ms_p50=0.2, how="exact"
    ),
)
PUBLISHED = {"recall@1": 0.694, "map@5": 0.571, "attribute_map@10": 0.336, "label_iou@5": 0.461}
VARIANTS = {
    "raw": PUBLISHED | {"recall@1": 0.5331},
    "masked_boosted": PUBLISHED | {"recall@1": 0.7071},
    "pca64": PUBLISHED | {"recall@1": 0.6982},
}


def full(**changes) -> ReportFacts:
    """A run whose release was held, with every measurement and no analysis."""
    hits = tuple(picture(f"hit-{i}", "shirt", 0.95 - i / 20, i % 2 == 0) for i in range(5))
    values = {
        "production": "77ac01dc8b8630e5",
        "gate": "held",
        "reason": "Held: recall@1 fell from 0.728 to 0.694 on 500 shared queries.",
        "causes": ("recall@1 fell from 0.728 to 0.694 on 500 shared queries",),
        "kinds": ("search",),
        "changes": (
            change(p_holm=0.0021, blocks=True),
            change("map@5", 0.003, -0.01, 0.016, p_holm=0.44),
            change("recall@10", 0.02, 0.01, 0.03),
            MetricChange(name="ann_recall@10", production=0.99, candidate=0.987, difference=-0.003),
            MetricChange(name="recall@1_random", production=0.006, candidate=0.006, difference=0.0),
        ),
        "catalog": CatalogFacts(
            source="ccp:photos",
            rows=1550,
            added=12,
            changed=3,
            removed=15,
            unchanged=1535,
            indexed=1490,
            quarantined=60,
        ),
        "metrics": PUBLISHED
        | {f"{variant}/{name}": value for variant, metrics in VARIANTS.items() for name, value in metrics.items()}
        | {"masked_boosted/f1_example": 0.6613, "f1_example": 0.6613, "mask_iou": 0.842, "ann_recall@10": 0.987}
        | {f"{chosen.name}/ann_recall@10": chosen.recall for chosen in FILTERED}
        | {"recall@1_random": 0.1, "label_iou@5_std": 0.171, "label_iou@5_random": 0.146},
        "definitions": definitions(),
        "n_queries": 500,
        "variants": tuple(VariantFacts(name=name, dim=64, metrics=metrics) for name, metrics in VARIANTS.items()),
        "choice": VariantChoice(
            variant="masked",
            why="masked stays",
            question="asked",
            n_queries=90,
            scores=(
                VariantScore(name="raw", score=0.5, metrics={"map@5": 0.5}, difference=-0.1, low=-0.15, high=-0.05),
                VariantScore(name="masked", score=0.6, metrics={"map@5": 0.6}, difference=0, low=0, high=0),
            ),
        ),
        "training": (
            TrainingFacts(
                name="U-Net segmenter",
                trained=False,
                fitted="2026-11-17T02:44:00+00:00",
                metrics={"mask_iou": 0.842},
                history=tuple({"epoch": e, "loss": 1 / e, "val_iou": 1 - 1 / e, "seconds": 3.0} for e in range(1, 5)),
            ),
            TrainingFacts(
                name="head",
                trained=True,
                fitted="2026-11-21T02:44:00+00:00",
                history=tuple({"epoch": e, "train_loss": 2 / e, "val_loss": 3 / e} for e in range(1, 4)),
            ),
        ),
        "index": minimal().index.model_copy(
            update={"nprobe": 16, "rerank_depth": 4, "imbalance": 1.31, "curve": TUNED, "filters": FILTERED}
        ),
        "duplicates": DuplicateFacts(
            n_rows=1490,
            n_asked=1000,
            n_near=40,
            n_compared=30,
            n_pairs=14,
            pairs=tuple(duplicate(f"sku-{i}") for i in range(12)),
        ),
        "masks": MaskFacts(
            n_masks=1490, n_fallback=46, reasons={"area": 30, "empty": 16}, examples=((picture(), picture("", "21%")),)
        ),
        "seconds": {"ingest": 41.2, "embed": 611.8},
        "quarantine": tuple(
            Reject(
                item_id=f"bad-{i:02}", image_uri=f"photos/{i}.jpg", reason="truncated", last_seen="2026-11-21T02:04:49"
            )
            for i in range(60)
        ),
        "grids": (QueryGrid(query=picture("query-1"), hits=hits, note="same category"),),
    }
    return minimal(**(values | changes))


def metric(name="recall@1", value=0.694, n_queries=500, low=0.652, high=0.733) -> MetricFacts:
    return MetricFacts(name=name, value=value, n_queries=n_queries, low=low, high=high)


def step(difference: float, low: float, high: float, p_holm: float) -> StepChange:
    return StepChange(metric="recall@1", difference=difference, low=low, high=high, p_holm=p_holm, n_queries=500)


LOSSES = LossFacts(
    n_queries=500,
    links=(
        LinkFacts(name="raw", step="", metrics={"recall@1": 0.8}),
        LinkFacts(name="boosted", step="head", metrics={"recall@1": 0.7}, changes=(step(-0.1, -0.14, -0.06, 0.001),)),
        LinkFacts(name="index", step="ANN", metrics={"recall@1": 0.7}, changes=(step(0.0, 0.0, 0.0, 1.0),)),
        LinkFacts(name="reranked", step="rerank", metrics={"recall@1": 0.694}, changes=(step(-0.006, -0.02, 0.01, 1),)),
    ),
    search=(step(-0.006, -0.02, 0.01, 1),),
    lost_most="head",
    lost_metric="recall@1",
    lost=0.1,
)


def drift(name="component 1", psi: float | None = 0.31, p_holm: float | None = 0.001, **more) -> Drift:
    values = {
        "n_then": 1500, "n_now": 1490, "edges": (-1.0, 0.0, 1.0), "then": (0.5, 0.5), "now": (0.8, 0.2), "ks": 0.3,
    }  # fmt: skip
    return Drift(name=name, psi=psi, p_holm=p_holm, **(values | more))


CONSTANT = drift("norm", psi=0.0, p_holm=1.0, now=(0, 1), then=(0, 1))


def analysed(**changes) -> ReportFacts:
    """The run of `full`, with the facts of every analysis."""
    shown = ("new-1", "other-1", "gone-1", "moved-1", "near-1", "near-2", "wrong-1", "alone-1", "bad-00", "map-1")
    unread = Thumbnail(item_id="gone-1", caption="dress", jpeg="")
    values = {
        "production_since": "2026-11-18T03:10:00+00:00",
        "nights": tuple(
            PastRun(
                ended=f"2026-11-{day:02}T03:10:00+00:00",
                release="r",
                gate="held" if day > 18 else "published",
                metrics={"recall@1": 0.7 + day / 1000},
            )
            for day in range(10, 21)
        ),
        "quality": QualityFacts(
            unlabelled=(
                MetricFacts(name="golden/hit@1", value=0.9, n_queries=19, low=0.686, high=0.971),
                MetricFacts(name="synthetic/crop/recall@1", value=0.31, n_queries=100, low=0.228, high=0.406),
            ),
            metrics=(metric(),),
            categories=(
                CategoryFacts(category="dress", n_queries=300, metrics=(metric(),)),
                CategoryFacts(category="hat", n_queries=1, metrics=(metric(n_queries=1, low=None, high=None),)),
            ),
            confusion=Confusion(
                n_queries=301, asked=("dress", "hat"), found=("dress", "hat"), counts=((290, 10), (1, 0))
            ),
        ),
        "worst": (QueryGrid(query=picture("query-bad"), hits=(picture(score=0.9, mark=False),), note="same product"),),
        "best": (QueryGrid(query=picture("query-good"), hits=(picture(score=0.9, mark=True),)),),
        "since": ReleaseDiffFacts(
            release="77ac01dc8b8630e5",
            created="2026-11-18T03:10:00+00:00",
            counts={"added": 12, "changed": 3, "removed": 15},
            values={"price": 3, "picture": 1},
            gone=(GoneCategory(category="dress", n_gone=13, n_before=310),),
            named=(
                ItemChange(item_id="new-1", what="added"),
                ItemChange(
                    item_id="other-1",
                    what="changed",
                    differs=(
                        ValueChange(what="picture", before="a" * 12, now="b" * 12),
                        ValueChange(what="price", before="19.00 EUR", now="15.20 EUR"),
                    ),
                ),
                ItemChange(item_id="gone-1", what="removed"),
            ),
            models=(ModelChange(role="heads", before="a" * 32, now="b" * 32),),
            config=(ConfigChange(key="head.max_epochs", before="60", now="1"),),
        ),
        "losses": LOSSES,
        "churn": ChurnFacts(
            n_shared=1475,
            n_unchanged=1472,
            n_asked=1475,
            churn=0.25,
            by_catalogue=0.05,
            by_model=0.2,
            left={"removed": 30, "changed": 2, "crowded_out": 400},
            entered={"new": 41, "changed": 3, "moved_in": 388},
            histogram=(100, 375, 400, 300, 200, 100, 0, 0, 0, 0, 0),
            moved=(MovedItem(item_id="moved-1", churn=0.9, by_model=0.6, before=("near-1",), after=("near-2",)),),
        ),
        "hygiene": HygieneFacts(
            n_rows=1490,
            n_asked=1490,
            counts={"category": 2, "label": 0, "near_duplicate": 14, "orphan": 1},
            examples=(
                FixExample(
                    item_id="wrong-1",
                    problem="category",
                    evidence="9 of 10 neighbours are shoe, 0 are hat",
                    suggestion="category shoe instead of hat",
                    score=0.93,
                    beside=("near-1",),
                ),
                FixExample(
                    item_id="alone-1",
                    problem="orphan",
                    evidence="nothing is nearer than 0.9",
                    suggestion="look",
                    score=0.7,
                    beside=("near-2",),
                ),
            ),
            median_distance=0.3,
            orphan_distance=0.7,
            not_looked_for={"label": "No item has a label."},
        ),
        "drift": DriftFacts(
            n_rows=1490,
            n_sampled=1490,
            n_arrived=15,
            catalog=(drift(), drift("component 2", psi=0.02, p_holm=0.9), CONSTANT),
        ),
        "map": MapFacts(
            n_rows=1_000_000,
            points=(
                MapPoint(item_id="map-1", x=-0.4, y=0.1, category=0),
                MapPoint(item_id="map-2", x=0.4, y=0.5, category=-1),
            ),
            categories=("dress",),
            explained=0.21,
            kept=0.18,
            kept_by_chance=0.01,
        ),
        "costs": CostFacts(
            before="2026-11-20T03:10:00+00:00",
            stages=(
                StageCost(
                    stage="embed",
                    seconds=611.8,
                    n_pictures=15,
                    n_bytes=3_000_000,
                    seconds_before=40.0,
                    n_pictures_before=1,
                    n_bytes_before=2_900_000,
                ),
            ),
            predictions=(Prediction(what="embedding 15 pictures", unit="s", predicted=600.0, happened=611.8),),
        ),
        "golden": GoldenFacts(file="golden.csv", n_queries=20, n_asked=19, metrics={"golden/hit@1": 0.9}),
        "synthetic": SyntheticFacts(
            n_items=100,
            n_queries=400,
            recall=0.55,
            distortions=(DistortionFacts(name="crop", meaning="a window", n_queries=100, recall=0.31),),
            n_missed=180,
            missed=(MissedQuery(query=picture("cropped"), expected=(picture(),), hits=(picture(score=0.4),)),),
        ),
        "album": {name: picture(name) for name in shown} | {"gone-1": unread, "bad-00": unread},
    }
    return full(**(values | changes))
