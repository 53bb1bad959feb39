"""Fit the head of a vector set, or reuse an earlier one, and boost the set with it in shards."""

from __future__ import annotations

import logging
from functools import partial

import polars as pl

from retrieval_core.artifacts.catalog_rows import bounded_sample, inner_validation, load_items, without_held_out
from retrieval_core.artifacts.fingerprints import boosted_family, head_fingerprint, head_question
from retrieval_core.artifacts.fitted import FitQuestion, fit_or_reuse
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Fitted, Head, Ref, VectorSet
from retrieval_core.artifacts.mapped_rows import beside, in_batches, mapped
from retrieval_core.artifacts.parts import load_vectors, put_part_files
from retrieval_core.artifacts.shards import DerivationPlan, DerivedSet, PartShard, derive_shard, plan_derivation
from retrieval_core.config.stages import HeadConfig
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head, save_head
from retrieval_core.head.targets import build_targets
from retrieval_core.head.train import train_head
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

COLUMNS = ["item_id", "product_id", "content_id", "status", "split", "category", "attributes", "labels"]
IS_VALIDATION = "is_validation"


def fit_head(store: Store, catalog: Ref, vectors: VectorSet, config: HeadConfig) -> Fitted | None:
    """Return the head for these vectors; None when no label of the catalogue is frequent enough to learn from."""
    question = FitQuestion(
        fingerprint=head_fingerprint(config, catalog.name, vectors.family),
        config=head_question(config),
        parents={"catalog": catalog.name, "vectors": vectors.family},
        refit_after_change=config.refit_after_change,
    )
    return fit_or_reuse(store, Head, question, lambda: _fit(store, question, vectors, config))


def plan_boosting(store: Store, vectors: VectorSet, head: Head) -> DerivationPlan:
    """Plan the shards that boost those vectors of a set that were not boosted by this head before."""
    boosted = DerivedSet(
        family=boosted_family(head.fingerprint, vectors.family),
        variant=head.variant.boost(),
        dim=head.dim,
        made_by={"head": head.fingerprint},
    )
    return plan_derivation(store, vectors, [boosted])


def boost_shard(store: Store, shard: PartShard, head: Head) -> None:
    """Boost the parts of one shard of a plan."""
    part = head.part(WEIGHTS_FILE)
    weights = load_head(store.local_path(part.key, part.sha256))
    derive_shard(store, shard, lambda _: partial(boost, weights))


def _learnable_items(store: Store, catalog: str, vectors: VectorSet, config: HeadConfig) -> pl.DataFrame:
    """Return the items with a category, attribute or label to train and to validate on, or a sample of them.

    No held-out picture is among them, so that no query of an evaluation chooses a word, an epoch or a threshold.
    """
    items = load_items(store, catalog, COLUMNS)
    items = beside(items, pl.DataFrame({IS_VALIDATION: inner_validation(items, config.seed)}))
    items = indexable_items(store, without_held_out(items), vectors)
    has_any = pl.col("attributes", "labels").list.len().fill_null(0) > 0
    is_labelled = pl.any_horizontal(pl.col("category").is_not_null(), has_any)
    labelled = mapped(batch.filter(is_labelled) for batch in in_batches(items))
    return bounded_sample(labelled, config.max_rows, config.seed)


def _fit(store: Store, question: FitQuestion, vectors: VectorSet, config: HeadConfig) -> Head | None:
    items = _learnable_items(store, question.parents["catalog"], vectors, config)
    targets = build_targets(items, config.min_count, config.max_labels)
    if not targets.tasks:
        log.warning("no label is frequent enough to learn from: no head, vectors stay as they are")
        return None
    rows = load_vectors(store, vectors, items["content_id"])
    is_validation = items[IS_VALIDATION].to_numpy()
    trained = train_head(rows, targets, is_validation, config)
    log.info("head over %s: %s", vectors.variant, {key: round(value, 3) for key, value in trained.metrics.items()})
    return Head(
        fingerprint=question.fingerprint,
        config=question.config,
        parents=question.parents,
        parts=put_part_files(
            store,
            f"{Head.folder}/{question.fingerprint}",
            lambda folder: save_head(trained.weights, folder / WEIGHTS_FILE),
        ),
        counts={"rows": len(items), "validation": int(is_validation.sum())},
        variant=vectors.full_variant(),
        input_dim=vectors.dim,
        dim=trained.dim,
        tasks=targets.tasks,
        metrics=trained.metrics,
        history=trained.history,
    )
