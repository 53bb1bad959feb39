"""Vectors and classes of a catalogue's pictures in shards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import polars as pl

from retrieval_core.artifacts.fingerprints import class_family, vector_family
from retrieval_core.artifacts.growing_sets import seal_vectors
from retrieval_core.artifacts.manifests import Backbone, Classifier, ClassSet, MaskSet, Ref, Reject, Value, VectorSet
from retrieval_core.artifacts.parts import classes_bytes, read_masks, vectors_bytes
from retrieval_core.artifacts.pictures import usable_pictures
from retrieval_core.artifacts.shards import (
    Target,
    WorkPlan,
    WorkShard,
    log_progress,
    plan_pictures,
    put_shard,
    shard_pictures,
)
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config import ClassifyConfig, EmbedConfig, IngestConfig, View
from retrieval_core.embed.classes import ClassifierEngine, classify
from retrieval_core.embed.engine import Engine, open_engine
from retrieval_core.embed.extract import extract
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store


class ShardOutcome(Value):
    """What embedding one shard gave: rows stored and pictures refused."""

    n_rows: int
    rejects: tuple[Reject, ...] = ()


def plan_vectors(
    store: Store,
    catalog: Ref,
    backbone: Ref,
    masks: MaskSet | None,
    view: View,
    config: EmbedConfig,
    margin: float,
) -> WorkPlan:
    """Plan the shards of pictures that have no vector of this backbone and view yet; `margin` is of view `crop`."""
    family = vector_family(backbone.name, masks.family if masks else None, view, margin)
    return plan_pictures(store, [Target(folder=VectorSet.folder, family=family)], catalog, config.shard_rows)


def embed_shard(
    settings: Settings,
    shard: WorkShard,
    backbone: Ref,
    masks: MaskSet | None,
    view: View,
    config: EmbedConfig,
    ingest: IngestConfig,
    margin: float,
) -> ShardOutcome:
    """Embed the pictures of a shard and store their vectors as one part."""
    store = settings.open_store()
    pictures = shard_pictures(store, shard)
    done = extract(
        pictures,
        read_masks(store, masks, [picture.content_id for picture in pictures]) if masks else None,
        view,
        margin,
        _engine(settings, backbone),
        config.batch_size,
        settings.n_threads,
        ingest.max_pixels,
        log_progress(f"embed {shard.label}", len(pictures)),
    )
    n_rows = put_shard(
        store, shard, shard.targets[0], done.content_ids, lambda: vectors_bytes(done.content_ids, done.vectors)
    )
    return ShardOutcome(n_rows=n_rows, rejects=tuple(done.rejects))


def seal_view_vectors(store: Store, catalog: Ref, plan: WorkPlan, backbone: Ref, view: View) -> VectorSet:
    """Seal the vectors of one view of a catalogue's pictures as one set."""
    content_ids = usable_pictures(store, catalog)["content_id"]
    dim = Backbone.open(store, backbone).dim
    return seal_vectors(store, plan.targets[0].family, Variant(view), dim, catalog.name, content_ids)


def rejected_items(store: Store, catalog: Ref, rejects: Sequence[Reject]) -> tuple[Reject, ...]:
    """Return a reject for every item whose picture was refused at embedding: items may share a picture."""
    reasons = {reject.content_id: reject.reason for reject in rejects}
    items = usable_pictures(store, catalog).filter(pl.col("content_id").is_in(list(reasons)))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return tuple(
        Reject(**row, reason=reasons[row["content_id"]], last_seen=now)
        for row in items.sort("item_id").iter_rows(named=True)
    )


def plan_classes(store: Store, catalog: Ref, classifier: Ref, config: ClassifyConfig) -> WorkPlan:
    """Plan the shards of pictures that this classifier has not seen yet."""
    target = Target(folder=ClassSet.folder, family=class_family(classifier.name))
    return plan_pictures(store, [target], catalog, config.shard_rows)


def classify_shard(
    settings: Settings, shard: WorkShard, classifier: Ref, config: ClassifyConfig, ingest: IngestConfig
) -> int:
    """Classify the pictures of a shard and store their classes as one part; return the number of pictures."""
    store = settings.open_store()
    pictures, engine = shard_pictures(store, shard), _classifier_engine(settings, classifier)
    report = log_progress(f"classify {shard.label}", len(pictures))
    done = classify(pictures, engine, config.batch_size, settings.n_threads, ingest.max_pixels, report)
    return put_shard(store, shard, shard.targets[0], done.content_ids, lambda: classes_bytes(*done))


# Sessions take seconds to open; the shards of one process share them.
@lru_cache(maxsize=2)
def _engine(settings: Settings, backbone: Ref) -> Engine:
    store = settings.open_store()
    folder = Backbone.open(store, backbone).local_folder(store)
    return open_engine(folder, settings.torch_device, settings.n_threads)


@lru_cache(maxsize=1)
def _classifier_engine(settings: Settings, classifier: Ref) -> ClassifierEngine:
    store = settings.open_store()
    folder = Classifier.open(store, classifier).local_folder(store)
    return ClassifierEngine(open_engine(folder, settings.torch_device, settings.n_threads))
