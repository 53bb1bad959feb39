"""Masks, vectors and classes of a catalogue's pictures in shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial

import polars as pl

from retrieval_core.artifacts.fingerprints import class_family, masks_family, vector_family
from retrieval_core.artifacts.growing_sets import seal_vectors, stored_masks
from retrieval_core.artifacts.manifests import Backbone, Classifier, ClassSet, MaskSet, Ref, Reject, Value, VectorSet
from retrieval_core.artifacts.parts import classes_bytes, masks_bytes, vectors_bytes
from retrieval_core.artifacts.pictures import usable_pictures
from retrieval_core.artifacts.shards import (
    Target,
    WorkPlan,
    WorkShard,
    log_progress,
    plan_pictures,
    put_shard,
    read_shard,
    shard_pictures,
)
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config.stages import (
    ClassifyConfig,
    CropConfig,
    EmbedConfig,
    IngestConfig,
    MaskConfig,
    Precision,
    View,
)
from retrieval_core.embed.classes import ClassifierEngine, classify
from retrieval_core.embed.engine import Engine, open_engine
from retrieval_core.embed.extract import Masker, Masks, ViewToEmbed, extract
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

OpenMasker = Callable[[Settings, Ref, MaskConfig, CropConfig], Masker]


class PictureWork(Value):
    """What is made of pictures: masks by `masker`, a segmenter or a detector, and vectors of views by `backbone`.

    Without a masker only the raw view is embedded, without a backbone none.
    """

    masker: Ref | None
    backbone: Ref | None
    mask: MaskConfig
    crop: CropConfig
    embed: EmbedConfig
    ingest: IngestConfig

    @property
    def masks(self) -> Target | None:
        """The set that the masks are added to."""
        if self.masker is None:
            return None
        return Target(folder=MaskSet.folder, family=masks_family(self.masker, self.mask, self.crop))

    @property
    def vectors(self) -> dict[View, Target]:
        """The sets that the vectors are added to, by view."""
        if self.backbone is None:
            return {}
        masks = self.masks.family if self.masks else None
        families = {
            view: vector_family(
                self.backbone.name, None if view == "raw" else masks, view, self.crop.margin, self.embed.precision
            )
            for view in self.embed.views(has_masks=masks is not None)
        }
        return {view: Target(folder=VectorSet.folder, family=family) for view, family in families.items()}

    @property
    def shard_rows(self) -> int:
        """The number of pictures in a shard."""
        if self.backbone:
            return self.embed.shard_rows
        is_detector = self.masker is not None and self.masker.kind == "Detector"
        return self.crop.shard_rows if is_detector else self.mask.shard_rows


class ShardOutcome(Value):
    """What one shard gave: masks stored, vectors stored by view, and pictures without a vector that were refused."""

    n_masked: int
    n_embedded: dict[View, int]
    rejects: tuple[Reject, ...] = ()


def plan_work_on_pictures(store: Store, catalog: Ref, work: PictureWork) -> WorkPlan:
    """Plan the shards of a catalogue's pictures that lack a mask or a vector."""
    targets = [*([work.masks] if work.masks else []), *work.vectors.values()]
    return plan_pictures(store, targets, catalog, work.shard_rows)


def mask_and_embed_shard(
    settings: Settings, shard: WorkShard, work: PictureWork, open_masker: OpenMasker
) -> ShardOutcome:
    """Read each picture of a shard once, and store what is missing: a part of masks, and one of vectors for each view.

    `open_masker` opens the work's segmenter or detector, if a mask is missing.
    """
    store = settings.open_store()
    pictures, missing = read_shard(store, shard)
    engine = _engine(settings, work.backbone, work.embed.precision) if work.backbone else None
    views = [
        ViewToEmbed(view, missing[target], work.crop.margin, engine) for view, target in work.vectors.items() if engine
    ]
    done = extract(
        pictures,
        _masks(settings, work, missing, open_masker),
        views,
        work.embed.batch_size,
        settings.n_threads,
        work.ingest.max_pixels,
        log_progress(f"pictures {shard.label}", len(pictures)),
    )
    if work.masks:
        masks, reasons = zip(*done.masks.values(), strict=True) if done.masks else ((), ())
        put_shard(store, shard, work.masks, list(done.masks), lambda: masks_bytes(list(done.masks), masks, reasons))
    for view, target in work.vectors.items():
        put_shard(store, shard, target, done.vectors[view].content_ids, partial(vectors_bytes, *done.vectors[view]))
    unembedded = set[str]().union(*(view.missing for view in views))
    return ShardOutcome(
        n_masked=len(done.masks),
        n_embedded={view: len(vectors.content_ids) for view, vectors in done.vectors.items()},
        rejects=tuple(reject for reject in done.rejects if reject.content_id in unembedded),
    )


def _masks(settings: Settings, work: PictureWork, missing: Mapping[Target, set[str]], open_masker: OpenMasker) -> Masks:
    """Return what masks the pictures of a shard, and the stored masks of those that are embedded only."""
    if work.masker is None or work.masks is None:
        return Masks()
    unmasked = missing[work.masks]
    masker = open_masker(settings, work.masker, work.mask, work.crop) if unmasked else None
    shown = {key for view, target in work.vectors.items() if view != "raw" for key in missing[target]}
    return Masks(unmasked, masker, stored_masks(settings.open_store(), work.masks.family, shown - unmasked))


def seal_view_vectors(store: Store, catalog: Ref, backbone: Ref, view: View, family: str) -> VectorSet:
    """Seal the vectors of one view of a catalogue's pictures as one set."""
    content_ids = usable_pictures(store, catalog)["content_id"]
    dim = Backbone.open(store, backbone).dim
    return seal_vectors(store, family, Variant(view), dim, catalog.name, content_ids)


def rejected_items(store: Store, catalog: Ref, rejects: Sequence[Reject]) -> tuple[Reject, ...]:
    """Return a reject for every item whose picture was refused: items may share a picture."""
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
def _engine(settings: Settings, backbone: Ref, precision: Precision) -> Engine:
    store = settings.open_store()
    folder = Backbone.open(store, backbone).local_folder(store)
    return open_engine(folder, settings.torch_device, settings.n_threads, precision)


@lru_cache(maxsize=1)
def _classifier_engine(settings: Settings, classifier: Ref) -> ClassifierEngine:
    store = settings.open_store()
    folder = Classifier.open(store, classifier).local_folder(store)
    return ClassifierEngine(open_engine(folder, settings.torch_device, settings.n_threads))
