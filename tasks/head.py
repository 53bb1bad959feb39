"""The multi-task head: train it on labelled rows, apply it to every vector."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.catalog_rows import HELD_OUT, load_items
from retrieval_core.artifacts.growing_sets import derive_vectors, indexable_items
from retrieval_core.artifacts.manifests import Fitted, Head, Ref, VectorSet
from retrieval_core.artifacts.parts import load_vectors, put_part_file
from retrieval_core.config import HeadConfig
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head, save_head
from retrieval_core.head.targets import build_targets
from retrieval_core.head.train import train_head
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.stage import stage


@stage("train head")
def fit_head(settings: Settings, catalog: Ref, vectors: Ref, config: HeadConfig) -> Fitted | None:
    """The head to use on these vectors tonight; None where the catalogue has nothing to learn from."""
    store, logger = settings.open_store(), get_run_logger()
    vector_set = VectorSet.open(store, vectors)
    name = fingerprints.head_fingerprint(config, catalog.name, vector_set.family)
    items = load_items(store, catalog.name)
    known = Head.find(store, name) or _earlier_head(store, vector_set, config, items)
    if known:
        return Fitted(ref=known.ref, trained=False)
    usable = indexable_items(store, items, vector_set)
    targets = build_targets(usable, config.min_count)
    if not targets.tasks:
        logger.warning("no label is frequent enough to learn from: no head, vectors stay as they are")
        return None
    rows = load_vectors(store, vector_set, usable["content_id"].to_list())
    held_out = usable["split"].is_in(HELD_OUT).to_numpy()
    trained = train_head(rows, targets, held_out, config)
    logger.info(
        "head over %s: %s", vector_set.variant, {key: round(value, 3) for key, value in trained.metrics.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        save_head(trained.weights, Path(folder, WEIGHTS_FILE))
        part = put_part_file(store, f"{Head.folder}/{name}/{WEIGHTS_FILE}", Path(folder, WEIGHTS_FILE), 0)
    head = Head(
        fingerprint=name,
        config=fingerprints.head_question(config),
        parents={"catalog": catalog.name, "vectors": vector_set.family},
        parts=(part,),
        counts={"rows": len(usable), "held_out": int(held_out.sum())},
        variant=vector_set.full_variant(),
        input_dim=vector_set.dim,
        dim=trained.dim,
        tasks=targets.tasks,
        metrics=trained.metrics,
        history=trained.history,
    ).seal(store)
    return Fitted(ref=head.ref, trained=True)


def _earlier_head(store: Store, vectors: VectorSet, config: HeadConfig, items: pl.DataFrame) -> Head | None:
    """The head of an earlier night, if it boosts these vectors and still serves."""
    release = releases.read_reference(store)
    for ref in release.heads if release else ():
        head = Head.open(store, ref)
        parents = {"vectors": vectors.family}
        if fingerprints.still_serves(store, head, fingerprints.head_question(config), parents, config, items):
            return head
    return None


@stage("apply head")
def apply_head(settings: Settings, vectors: Ref, head: Ref) -> Ref:
    """The boosted vectors of a set; parts boosted before are kept."""
    store = settings.open_store()
    source, fitted = VectorSet.open(store, vectors), Head.open(store, head)
    weights = load_head(store.local_path(fitted.part(WEIGHTS_FILE).key, fitted.part(WEIGHTS_FILE).sha256))
    family = fingerprints.boosted_family(fitted.fingerprint, source.family)
    made_by = {"head": fitted.fingerprint}
    return derive_vectors(
        store, source, family, fitted.variant.boost(), fitted.dim, partial(boost, weights), made_by
    ).ref
