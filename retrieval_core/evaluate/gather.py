"""From what a night made and measured to the facts of its report."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from retrieval_core.artifacts import Backbone, Catalog, Head, IndexSet, Reducer, Reject, Segmenter, VectorSet
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.facts import Facts, IndexFacts, TrainingFacts
from retrieval_core.evaluate.gate import Verdict
from retrieval_core.evaluate.grids import query_grids
from retrieval_core.evaluate.measure import Measured, Night
from retrieval_core.evaluate.metrics import METRIC_DEFINITIONS
from retrieval_core.index.build import INDEX_FILE, VECTORS_FILE
from retrieval_core.shards import read_table
from retrieval_core.store import Store

N_GRIDS = 8


def gather_facts(
    store: Store,
    night: Night,
    measured: Measured,
    verdict: Verdict,
    config: NightlyConfig,
    name: str,
    production: str | None,
) -> Facts:
    """Everything the report called `name` says, of a night that the gate judged against `production`."""
    positions, scores = measured.published.positions, measured.published.scores
    grids = query_grids(measured.items, measured.protocol, positions, scores, N_GRIDS, config.evaluate.seed)
    return Facts(
        report=name,
        production=production,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        gate=verdict.gate,
        reason=verdict.reason,
        changes=verdict.rows,
        catalog=night.catalog_facts,
        metrics=measured.metrics,
        definitions=METRIC_DEFINITIONS,
        n_queries=len(measured.protocol.queries),
        n_gallery=len(measured.protocol.gallery),
        variants=measured.variants,
        training=_training_facts(store, night),
        masks=measured.masks,
        index=_index_facts(store, night, measured, config.index.recall_target),
        duplicates=measured.duplicates.facts,
        seconds=night.seconds,
        quarantine=_quarantine(store, night),
        grids=grids,
        backbone=config.embed.backbone,
        weights=config.embed.weights,
    )


def _quarantine(store: Store, night: Night) -> tuple[Reject, ...]:
    ledger = read_table(store, Catalog.open(store, night.catalog).part("quarantine.parquet"))
    return (*(Reject(**row) for row in ledger.iter_rows(named=True)), *night.rejects)


def _training_facts(store: Store, night: Night) -> tuple[TrainingFacts, ...]:
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
                metrics={"mask_iou": segmenter.val_iou},
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


def _index_facts(store: Store, night: Night, measured: Measured, recall_target: float) -> IndexFacts:
    index = IndexSet.open(store, night.index)
    vectors = VectorSet.open(store, night.vectors)
    latency_ms = measured.published.latency_ms
    p50, p95 = np.percentile(latency_ms, [50, 95]) if len(latency_ms) else (0.0, 0.0)
    return IndexFacts(
        variant=vectors.variant,
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
