"""Encode a picture or a text as the release encoded its items: mask or crop, backbone, head."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TypeVar

import numpy as np

from retrieval_core.arrays import Float32, Int32, UInt8
from retrieval_core.artifacts.manifests import Artifact, Backbone, Classifier, Detector, Head, Ref, Release, Segmenter
from retrieval_core.embed.classes import ClassifierEngine
from retrieval_core.embed.engine import Engine, open_engine
from retrieval_core.embed.text.encoder import embed_texts
from retrieval_core.errors import BadConfig, ShardCorrupt
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.images import RGB, Box, apply_mask, box_around, crop_to_mask, fit
from retrieval_core.mask import detect
from retrieval_core.mask.apply import SegmenterEngine, segment
from retrieval_core.mask.quality import Mask
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

T = TypeVar("T")


class opened_once(cached_property[T]):  # noqa: N801 (a decorator)
    """A property computed once, at its first use, also with many threads; its object needs a `_lock`."""

    def __get__(self, instance: object, owner: type | None = None) -> T:  # type: ignore[override]
        if instance is None:
            return self  # type: ignore[return-value]
        with instance._lock:  # type: ignore[attr-defined]
            return super().__get__(instance, owner)


class QueryEncoder:
    """The models of a release, each loaded at its first use; many threads may call it."""

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self._lock = RLock()
        self._store, self._release, self._settings = store, release, settings
        self._config = release.nightly_config()
        self._backbone = Backbone.open(store, release.backbone)

    def prepare(self) -> Float32:
        """Load the models that a picture query needs, so that damage is found here; return a white picture's vector."""
        white = np.full((64, 64, 3), 255, np.uint8)
        if self._release.classes:
            self.classify(white)
        return self.embed_picture(white)

    def apply_view(self, image: RGB) -> RGB:
        """Return the view that the release embeds of an upright (h, w, 3) uint8 picture: raw, masked or cropped."""
        mask = None if self._release.variant.view == "raw" else self._mask(image)
        if mask is None:
            return image
        is_crop = self._release.variant.view == "crop"
        return crop_to_mask(image, mask, self._config.crop.margin) if is_crop else apply_mask(image, mask)

    def product_box(self, image: RGB) -> Box | None:
        """Return the box around the product in an upright (h, w, 3) uint8 picture, also where the view is raw.

        None where no mask or box is trusted, and for a release without a segmenter or detector.
        """
        can_find = self._release.detector or self._release.segmenter
        mask = self._mask(image) if can_find else None
        return None if mask is None else box_around(mask, self._config.crop.margin)

    def embed_picture(self, image: RGB, whole: bool = False) -> Float32:
        """Return (dim,) unit-length float32 for an upright (h, w, 3) uint8 picture; `whole` skips mask and crop."""
        return self.embed(self.fit_picture(image, whole)[None])[0]

    def fit_picture(self, image: RGB, whole: bool = False) -> UInt8:
        """Return the (size, size, 3) uint8 square of a picture that the backbone receives."""
        return fit(image if whole else self.apply_view(image), self._engine.preprocess)

    def embed(self, pixels: UInt8) -> Float32:
        """Return (n, dim) unit-length float32 for (n, size, size, 3) uint8 squares of `fit_picture`."""
        return self._boost(self._engine.embed(pixels))

    @property
    def batch_size(self) -> int:
        """How many squares one forward pass takes."""
        return self._engine.max_rows

    def embed_text(self, text: str) -> Float32:
        """Return (dim,) unit-length float32 for a text. Raises `BadConfig` where the backbone reads no text."""
        if not self._backbone.has_text:
            raise BadConfig(
                f"release {self._release.fingerprint[:12]} was embedded with {self._backbone.card}, which reads no "
                "text; search by picture, or publish with --set embed.backbone=clip_vit_b32"
            )
        with self._lock:  # the first call loads the text side
            return self._boost(embed_texts(self._folder(self._release.backbone), [text]))[0]

    def classify(self, image: RGB) -> Int32:
        """Return the likeliest classes of a picture, as many as a classified search looks in. Raises `BadConfig`."""
        if self._release.classes is None:
            raise BadConfig(
                f"release {self._release.fingerprint[:12]} knows no classes of its items; search without "
                "--mode classified, or publish with --set classify.enabled=true"
            )
        classes, _ = self._classifier.classify(fit(image, self._classifier.preprocess)[None])
        return classes[0, : self._config.classify.top_classes]

    def _boost(self, vectors: Float32) -> Float32:
        return boost(self._head_weights, vectors) if self._head_weights else vectors

    def _mask(self, image: RGB) -> Mask | None:
        """Return where the product is; None where no mask or box is trusted."""
        if self._release.detector:
            mask, reason = detect.detect(self._detector, self._config.crop, image)
        else:
            mask, reason = segment(self._segmenter, self._config.mask, image)
        return None if reason else mask

    @opened_once
    def _engine(self) -> Engine:
        folder = self._folder(self._release.backbone)
        return open_engine(folder, self._settings.torch_device, self._settings.n_threads)

    @opened_once
    def _segmenter(self) -> SegmenterEngine:
        segmenter = require(self._release.segmenter, "segmenter")
        folder = self._folder(segmenter)
        return SegmenterEngine(folder / ONNX_FILE, self._config.mask.size_px, self._settings.n_threads)

    @opened_once
    def _detector(self) -> detect.DetectorEngine:
        detector = require(self._release.detector, "detector")
        weights = self._folder(detector) / detect.WEIGHTS_FILE
        model = Detector.open(self._store, detector).model
        return detect.DetectorEngine(model, weights, self._settings.torch_device, self._settings.n_threads)

    @opened_once
    def _classifier(self) -> ClassifierEngine:
        folder = self._folder(require(self._release.classifier, "classifier"))
        return ClassifierEngine(open_engine(folder, self._settings.torch_device, self._settings.n_threads))

    @opened_once
    def _head_weights(self) -> dict[str, Float32] | None:
        if not self._release.variant.boosted:
            return None
        return load_head(self._folder(require(self._release.head, "head")) / WEIGHTS_FILE)

    def _folder(self, ref: Ref) -> Path:
        """Return a local folder with every part of a fitted model, each verified by its checksum."""
        kinds: dict[str, type[Artifact]] = {
            kind.__name__: kind for kind in (Backbone, Classifier, Detector, Head, Segmenter)
        }
        return kinds[ref.kind].open(self._store, ref).local_folder(self._store)


def require(ref: Ref | None, role: str) -> Ref:
    """Return `ref`. Raises `ShardCorrupt` where the release names no artifact for this role."""
    if ref is None:
        raise ShardCorrupt(f"the release names no {role}, but its variant needs one; run `vitrine rollback`")
    return ref
