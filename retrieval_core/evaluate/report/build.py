"""From what a night made and measured to the facts of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl

from retrieval_core.artifacts.manifests import (
    Backbone,
    Catalog,
    Head,
    IndexSet,
    Reducer,
    Reject,
    Segmenter,
    VectorSet,
)
from retrieval_core.artifacts.parts import read_table
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.analysis.analyse import Analysis
from retrieval_core.evaluate.analysis.embedding_map import map_cells
from retrieval_core.evaluate.analysis.quality import rank_queries
from retrieval_core.evaluate.gate.decide import Verdict
from retrieval_core.evaluate.measure.measure import Measured
from retrieval_core.evaluate.report.image_grids import album, grids_of, query_grids
from retrieval_core.evaluate.report.schema import Facts, IndexFacts, QueryGrid, TrainingFacts
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.index.build import INDEX_FILE, VECTORS_FILE
from retrieval_core.metrics.registry import HEADLINES, MASK_IOU, definitions
from retrieval_core.store.base import Store

N_GRIDS = 4
N_BEST, N_WORST = 4, 8
N_MOVED = 4  # items whose old and new neighbours are shown
N_BESIDE = 5
N_FIXES = 4  # of each problem
N_QUARANTINED = 6


def gather_facts(
    store: Store,
    night: RunOutputs,
    measured: Measured,
    analysis: Analysis,
    verdict: Verdict,
    config: NightlyConfig,
    name: str,
) -> Facts:
    """Everything the report called `name` says."""
    best, worst = _extremes(measured, config.evaluate.seed)
    positions, scores = measured.published.positions, measured.published.scores
    quarantine, against = _quarantine(store, night), analysis.against
    return Facts(
        report=name,
        production=against.fingerprint if against else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        gate=verdict.gate,
        reason=verdict.reason,
        causes=verdict.causes,
        changes=verdict.rows,
        category_changes=verdict.categories,
        catalog=night.catalog_facts,
        metrics=measured.metrics,
        definitions=definitions(),
        n_queries=len(measured.protocol.queries),
        n_gallery=len(measured.protocol.gallery),
        variants=measured.variants,
        training=_training_facts(store, night),
        masks=measured.masks,
        index=_index_facts(store, night, measured, config.index.recall_target),
        duplicates=analysis.duplicates.facts,
        seconds=night.seconds,
        quarantine=quarantine,
        grids=query_grids(measured.items, measured.protocol, positions, scores, N_GRIDS, config.evaluate.seed),
        backbone=config.embed.backbone,
        weights=config.embed.weights,
        quality=analysis.quality,
        best=best,
        worst=worst,
        production_since=against.created if against else "",
        nights=analysis.past,
        since=analysis.diff.facts if analysis.diff else None,
        losses=analysis.losses,
        churn=analysis.churn,
        hygiene=analysis.hygiene.facts,
        golden=measured.unlabelled.golden,
        synthetic=measured.unlabelled.synthetic,
        drift=analysis.drift,
        map=analysis.map,
        costs=analysis.costs,
        album=_album(measured, analysis, quarantine),
    )


def _extremes(measured: Measured, seed: int) -> tuple[tuple[QueryGrid, ...], tuple[QueryGrid, ...]]:
    """The queries answered best and worst, none of them twice."""
    protocol, published = measured.protocol, measured.published
    row_ids = measured.items["row_id"].to_numpy()[protocol.queries]
    ranked = rank_queries(measured.per_query, row_ids, seed)
    n_best = min(N_BEST, len(ranked) // 2)
    n_worst = min(N_WORST, len(ranked) - n_best)
    sides = ranked[:n_best], ranked[::-1][:n_worst]
    known = [name for name in HEADLINES if name in measured.per_query.columns]
    found = []
    for chosen in sides:
        grids = grids_of(measured.items, protocol, published.positions, published.scores, chosen)
        values = measured.per_query.select(known)[chosen].to_dicts()
        found.append(
            tuple(
                grid.model_copy(update={"metrics": {name: value for name, value in row.items() if value is not None}})
                for grid, row in zip(grids, values, strict=True)
            )
        )
    return found[0], found[1]


def _album(measured: Measured, analysis: Analysis, quarantine: Sequence[Reject]) -> dict[str, Thumbnail]:
    """Of the items that are shown beside what is said of them."""
    wanted = [reject.item_id for reject in quarantine[:N_QUARANTINED]]
    if analysis.diff:
        wanted += [change.item_id for change in analysis.diff.facts.named]
    for moved in analysis.churn.moved[:N_MOVED] if analysis.churn else ():
        wanted += [moved.item_id, *moved.before[:N_BESIDE], *moved.after[:N_BESIDE]]
    wanted += [item_id for item_id, _, _ in map_cells(analysis.map)]
    shown: Counter[str] = Counter()
    for example in analysis.hygiene.facts.examples:
        shown[example.problem] += 1
        if (
            shown[example.problem] <= N_FIXES and example.problem != "near_duplicate"
        ):  # those have pictures of their own
            wanted += [example.item_id, *example.beside[:N_BESIDE]]
    rejected = pl.DataFrame(
        [(reject.item_id, reject.image_uri, "", []) for reject in quarantine[:N_QUARANTINED]],
        schema={"item_id": pl.String, "image_uri": pl.String, "category": pl.String, "labels": pl.List(pl.String)},
        orient="row",
    )
    earlier = [analysis.diff.production_items] if analysis.diff else []
    return album(wanted, measured.items, rejected, *earlier)


def _quarantine(store: Store, night: RunOutputs) -> tuple[Reject, ...]:
    ledger = read_table(store, Catalog.open(store, night.catalog).part("quarantine.parquet"))
    return (*(Reject(**row) for row in ledger.iter_rows(named=True)), *night.rejects)


def _training_facts(store: Store, night: RunOutputs) -> tuple[TrainingFacts, ...]:
    facts = []
    backbone = Backbone.open(store, night.backbone)
    if backbone.objective:
        facts.append(
            TrainingFacts(
                name=f"{backbone.card} trained by {backbone.objective}",
                trained=False,
                fitted=backbone.created,
                metrics=backbone.metrics,
                history=backbone.history,
            )
        )
    if night.segmenter:
        segmenter = Segmenter.open(store, night.segmenter.ref)
        facts.append(
            TrainingFacts(
                name="U-Net segmenter",
                trained=night.segmenter.trained,
                fitted=segmenter.created,
                metrics={MASK_IOU.name: segmenter.val_iou},
                history=segmenter.history,
            )
        )
    for outcome in night.heads:
        head = Head.open(store, outcome.ref)
        facts.append(
            TrainingFacts(
                name=f"head of {head.dim} over {head.variant}",
                trained=outcome.trained,
                fitted=head.created,
                metrics=head.metrics,
                history=head.history,
            )
        )
    reducer = Reducer.open(store, night.reducer.ref)
    explained = {f"variance explained by {dim}": share for dim, share in reducer.explained_variance.items()}
    facts.append(TrainingFacts(name="PCA", trained=night.reducer.trained, fitted=reducer.created, metrics=explained))
    return tuple(facts)


def _index_facts(store: Store, night: RunOutputs, measured: Measured, recall_target: float) -> IndexFacts:
    index = IndexSet.open(store, night.index)
    vectors = VectorSet.open(store, night.vectors)
    latency_ms = measured.published.latency_ms
    p50, p95 = np.percentile(latency_ms, [50, 95]) if len(latency_ms) else (0.0, 0.0)
    return IndexFacts(
        variant=str(vectors.variant),
        recipe=index.recipe,
        why=str(index.config["why"]),
        n_rows=index.counts["rows"],
        n_shards=index.counts["shards"],
        n_shards_built=night.n_shards_built,
        index_bytes=_bytes_of(index, INDEX_FILE),
        vector_bytes=_bytes_of(index, VECTORS_FILE),
        predicted_index_bytes=index.config["index_bytes"],
        predicted_vector_bytes=index.config["vector_bytes"],
        dim=index.dim,
        candidate_dim=index.candidate_dim,
        nprobe=index.nprobe,
        rerank_depth=index.rerank_depth,
        recall_target=recall_target,
        imbalance=index.imbalance,
        curve=measured.curve,
        filters=measured.filters,
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
    )


def _bytes_of(index: IndexSet, file: str) -> int:
    """Of all its files of this name, one a shard."""
    return sum(part.n_bytes for part in index.parts if part.key.endswith(f"/{file}"))
