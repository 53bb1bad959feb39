"""Gather the facts of a report from the outputs of a run, its measurements and their analysis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import QUARANTINE_FILE
from retrieval_core.artifacts.manifests import Backbone, Catalog, Head, IndexSet, Reducer, Reject, Segmenter, VectorSet
from retrieval_core.artifacts.parts import read_table
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.analysis.analyse import Analysis
from retrieval_core.evaluate.analysis.embedding_map import map_cells
from retrieval_core.evaluate.analysis.quality import rank_queries
from retrieval_core.evaluate.gate.decide import Verdict
from retrieval_core.evaluate.measure.measure import Measured
from retrieval_core.evaluate.report.fix_list import read_shop_words
from retrieval_core.evaluate.report.image_grids import album, grids_of, query_grids
from retrieval_core.evaluate.report.schema import IndexFacts, QueryGrid, ReportFacts, TrainingFacts
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from retrieval_core.metrics.registry import MASK_IOU, definitions
from retrieval_core.store.base import Store

N_GRIDS = 4
N_BEST, N_WORST = 4, 8
N_MOVED = 4  # items whose previous and current neighbours are shown
N_BESIDE = 5
N_FIXES = 4  # of each problem
N_QUARANTINED = 6


def gather_facts(
    store: Store,
    outputs: RunOutputs,
    measured: Measured,
    analysis: Analysis,
    verdict: Verdict,
    config: NightlyConfig,
    name: str,
    app_url: str = "",
) -> ReportFacts:
    """Gather everything that the report of fingerprint `name` says; `app_url` is where the search page is."""
    best, worst = _best_and_worst(measured, config.evaluate.seed)
    positions, scores = measured.published.positions, measured.published.similarities
    quarantine, against = _quarantine(store, outputs), analysis.against
    return ReportFacts(
        report=name,
        production=against.fingerprint if against else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        gate=verdict.gate,
        reason=verdict.reason,
        causes=verdict.causes,
        kinds=verdict.kinds,
        changes=verdict.rows,
        category_changes=verdict.categories,
        catalog=outputs.catalog_facts,
        metrics=measured.metrics,
        definitions=definitions(),
        n_queries=len(measured.protocol.queries),
        n_gallery=len(measured.protocol.gallery),
        variants=measured.variants,
        choice=outputs.choice,
        training=_training_facts(store, outputs),
        masks=measured.masks,
        index=_index_facts(store, outputs, measured, config.index.recall_target),
        duplicates=analysis.duplicates.facts,
        seconds=outputs.seconds,
        quarantine=quarantine,
        grids=query_grids(
            measured.items, measured.protocol, positions, scores, N_GRIDS, config.evaluate.seed, measured.setup.pictures
        ),
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
        confidence=measured.confidence.facts,
        drift=analysis.drift,
        map=analysis.map,
        costs=analysis.costs,
        album=_album(measured, analysis, quarantine),
        shop=read_shop_words(store, outputs.fields, _named_items(analysis, quarantine)),
        app_url=f"{app_url}/?item=" if app_url else "",
    )


def _named_items(analysis: Analysis, quarantine: Sequence[Reject]) -> set[str]:
    """Return the items of which a person is told to do or to look at something."""
    item_ids = {reject.item_id for reject in quarantine} | set(analysis.hygiene.fixes["item_id"])
    item_ids |= {change.item_id for change in analysis.diff.facts.named} if analysis.diff else set()
    return item_ids | set(analysis.duplicates.pairs["item_id"]) | set(analysis.duplicates.pairs["other_item_id"])


def _best_and_worst(measured: Measured, seed: int) -> tuple[tuple[QueryGrid, ...], tuple[QueryGrid, ...]]:
    """Return the queries with the best and the worst answers, each query at most once."""
    protocol, published = measured.protocol, measured.published
    row_ids = measured.items["row_id"].to_numpy()[protocol.queries]
    ranked = rank_queries(measured.per_query, row_ids, seed)
    n_best = min(N_BEST, len(ranked) // 2)
    n_worst = min(N_WORST, len(ranked) - n_best)

    def grids(queries: Int64) -> tuple[QueryGrid, ...]:
        return grids_of(
            measured.items,
            protocol,
            published.positions,
            published.similarities,
            queries,
            measured.setup.pictures,
        )

    return grids(ranked[:n_best]), grids(ranked[::-1][:n_worst])


def _album(measured: Measured, analysis: Analysis, quarantine: Sequence[Reject]) -> dict[str, Thumbnail]:
    """Return the thumbnails of the items that the page shows beside its text."""
    item_ids = [reject.item_id for reject in quarantine[:N_QUARANTINED]]
    if analysis.diff:
        item_ids += [change.item_id for change in analysis.diff.facts.named]
    for moved in analysis.churn.moved[:N_MOVED] if analysis.churn else ():
        item_ids += [moved.item_id, *moved.before[:N_BESIDE], *moved.after[:N_BESIDE]]
    item_ids += [item_id for item_id, _, _ in map_cells(analysis.map)]
    n_shown: Counter[str] = Counter()
    for example in analysis.hygiene.facts.examples:
        n_shown[example.problem] += 1
        # Pairs of near-duplicates hold their own pictures.
        if example.problem != "near_duplicate" and n_shown[example.problem] <= N_FIXES:
            item_ids += [example.item_id, *example.beside[:N_BESIDE]]
    rejected = pl.DataFrame(
        [(reject.item_id, reject.image_uri, "", []) for reject in quarantine[:N_QUARANTINED]],
        schema={"item_id": pl.String, "image_uri": pl.String, "category": pl.String, "labels": pl.List(pl.String)},
        orient="row",
    )
    earlier = [analysis.diff.production_items] if analysis.diff else []
    return album(item_ids, measured.items, rejected, *earlier, pictures=measured.setup.pictures)


def _quarantine(store: Store, outputs: RunOutputs) -> tuple[Reject, ...]:
    ledger = read_table(store, Catalog.open(store, outputs.catalog).part(QUARANTINE_FILE))
    return (*(Reject(**row) for row in ledger.iter_rows(named=True)), *outputs.rejects)


def _training_facts(store: Store, outputs: RunOutputs) -> tuple[TrainingFacts, ...]:
    facts = []
    backbone = Backbone.open(store, outputs.backbone)
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
    if outputs.segmenter:
        segmenter = Segmenter.open(store, outputs.segmenter.ref)
        facts.append(
            TrainingFacts(
                name="U-Net segmenter",
                trained=outputs.segmenter.trained,
                fitted=segmenter.created,
                metrics={MASK_IOU.name: segmenter.val_iou},
                history=segmenter.history,
            )
        )
    for outcome in outputs.heads:
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
    reducer = Reducer.open(store, outputs.reducer.ref)
    explained = {f"variance explained by {dim}": share for dim, share in reducer.explained_variance.items()}
    facts.append(TrainingFacts(name="PCA", trained=outputs.reducer.trained, fitted=reducer.created, metrics=explained))
    return tuple(facts)


def _index_facts(store: Store, outputs: RunOutputs, measured: Measured, recall_target: float) -> IndexFacts:
    index = IndexSet.open(store, outputs.index)
    vectors = VectorSet.open(store, outputs.vectors)
    latency_ms = measured.published.latency_ms
    p50, p95 = np.percentile(latency_ms, [50, 95]) if len(latency_ms) else (0.0, 0.0)
    return IndexFacts(
        variant=str(vectors.variant),
        recipe=index.recipe,
        why=str(index.config["why"]),
        n_rows=index.counts["rows"],
        n_shards=index.counts["shards"],
        n_shards_built=outputs.n_shards_built,
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
    """Return the bytes of all files of this name, one for each shard."""
    return sum(part.n_bytes for part in index.parts if part.key.endswith(f"/{file}"))
