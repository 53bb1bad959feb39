"""Pictures to vectors: prepare the backbone once, embed what is missing, seal the set."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import backbone_names, fingerprints
from retrieval_core.artifacts.growing_sets import WorkPlan, WorkShard, plan_work, seal_vectors, shard_pictures
from retrieval_core.artifacts.manifests import Backbone, MaskSet, Ref, Reject, Value, VectorSet
from retrieval_core.artifacts.parts import put_part, put_part_file, read_masks, vectors_bytes
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config import EmbedConfig, IngestConfig, View
from retrieval_core.embed.backbones import (
    backbone_fingerprint,
    backbone_preprocess,
    load_backbone,
    parse_weights,
    save_backbone,
)
from retrieval_core.embed.engine import Engine, open_engine
from retrieval_core.embed.extract import Picture, extract
from retrieval_core.images import RGB, decode, fit
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri
from tasks.mask import usable_pictures
from tasks.stage import progress, stage

PIXEL_SAMPLE_ROWS = 2_000


class ShardOutcome(Value):
    """What one shard gave: rows stored and pictures refused."""

    n_rows: int
    rejects: tuple[Reject, ...] = ()


@stage("prepare backbone")
def prepare_backbone(settings: Settings, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> Ref:
    """The frozen backbone as an artifact, made once; one that is in the store already where the config names it."""
    store = settings.open_store()
    named = backbone_names.named_backbone(store, config)
    if named:
        return named.ref
    name = backbone_fingerprint(config)
    known = Backbone.find(store, name)
    if known:
        return known.ref
    get_run_logger().info("exporting %s with weights %s", config.backbone, config.weights)
    loaded = load_backbone(config, lambda: _pixel_sample(store, catalog, config, ingest))
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(loaded, Path(folder))
        parts = tuple(
            put_part_file(store, f"{Backbone.folder}/{name}/{file.name}", file, 0)
            for file in sorted(Path(folder).iterdir())
        )
    return (
        Backbone(
            fingerprint=name,
            config={"weights": config.weights},
            parts=parts,
            card=config.backbone,
            dim=loaded.module.dim,
            size_px=loaded.preprocess.size_px,
            has_text=loaded.has_text,
        )
        .seal(store)
        .ref
    )


def _pixel_sample(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> RGB:
    """A random sample of the catalogue's pictures at the card's size, for the backbone that is fitted on pixels."""
    pictures = usable_pictures(store, catalog).sort("item_id")
    seed = int(parse_weights(config.weights).value or 0)
    sample = pictures.sample(min(len(pictures), PIXEL_SAMPLE_ROWS), seed=seed, shuffle=False)
    how = backbone_preprocess(config)
    return np.stack([fit(decode(read_uri(uri), max_pixels=ingest.max_pixels), how) for uri in sample["image_uri"]])


@stage("plan vectors")
def plan_vectors(
    settings: Settings,
    catalog: Ref,
    backbone: Ref,
    masks: Ref | None,
    view: View,
    config: EmbedConfig,
    margin: float = 0.0,
) -> WorkPlan:
    """The shards of pictures that have no vector of this backbone (and mask family) yet; `margin` is of view `crop`."""
    store = settings.open_store()
    mask_family = MaskSet.open(store, masks).family if masks else None
    family = fingerprints.vector_family(backbone.name, mask_family, view, margin)
    return plan_work(store, VectorSet.folder, family, usable_pictures(store, catalog), config.shard_rows)


@stage("embed shard")
def embed_shard(
    settings: Settings,
    shard: WorkShard,
    backbone: Ref,
    masks: Ref | None,
    view: View,
    config: EmbedConfig,
    ingest: IngestConfig,
    margin: float = 0.0,
) -> ShardOutcome:
    """Embed one shard of a plan and store it as one part."""
    store = settings.open_store()
    table = shard_pictures(store, shard)
    pictures = [Picture(**row) for row in table.iter_rows(named=True)]
    mask_rows = read_masks(store, MaskSet.open(store, masks), table["content_id"]) if masks else None
    report = progress(f"embed {shard.place}", len(pictures))
    done = extract(
        pictures,
        mask_rows,
        view,
        margin,
        _engine(settings, backbone),
        config.batch_size,
        settings.n_threads,
        ingest.max_pixels,
        report,
    )
    if done.content_ids:
        data = vectors_bytes(done.content_ids, done.vectors)
        put_part(store, shard.part_key, data, len(done.content_ids))
    return ShardOutcome(n_rows=len(done.content_ids), rejects=tuple(done.rejects))


@lru_cache(maxsize=2)
def _engine(settings: Settings, backbone: Ref) -> Engine:
    """Sessions take seconds to open; the shards of one process share them."""
    store = settings.open_store()
    folder = Backbone.open(store, backbone).local_folder(store)
    return open_engine(folder, settings.torch_device, settings.n_threads)


@stage("seal vectors")
def seal_vector_set(settings: Settings, catalog: Ref, plan: WorkPlan, backbone: Ref, view: View) -> Ref:
    """The vectors of this catalogue, as one set."""
    store = settings.open_store()
    wanted = usable_pictures(store, catalog)["content_id"]
    dim = Backbone.open(store, backbone).dim
    return seal_vectors(store, plan.family, Variant(view), dim, catalog.name, wanted).ref


@stage("late rejects")
def rejected_items(settings: Settings, catalog: Ref, rejects: list[Reject]) -> tuple[Reject, ...]:
    """Every item whose picture was refused at embedding: several items may show the same picture."""
    reasons = {reject.content_id: reject.reason for reject in rejects}
    items = usable_pictures(settings.open_store(), catalog).filter(pl.col("content_id").is_in(list(reasons)))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return tuple(
        Reject(**row, reason=reasons[row["content_id"]], last_seen=now)
        for row in items.sort("item_id").iter_rows(named=True)
    )
