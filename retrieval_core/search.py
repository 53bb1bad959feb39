"""Picture, text or item to hits, through the chain of a published release.

from retrieval_core.search import open_release
hits = open_release("s3://shop/vitrine").search("query.jpg", k=5)
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core import lineage, releases
from retrieval_core.artifacts import (
    Artifact,
    Backbone,
    Classifier,
    ClassSet,
    Detector,
    Head,
    Hit,
    IndexSet,
    Reducer,
    Ref,
    Release,
    Segmenter,
)
from retrieval_core.config import NightlyConfig
from retrieval_core.embed.classes import ClassifierEngine
from retrieval_core.embed.engine import Engine, embed_texts, open_engine
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.evaluate.neighbours import exact_topk
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.images import RGB, apply_mask, crop_to_mask, decode, fit
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.mask import detect
from retrieval_core.mask.apply import SegmenterEngine, square_of
from retrieval_core.mask.quality import Mask, distrust
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, load_pca
from retrieval_core.settings import Settings
from retrieval_core.shards import Float32, load_classes
from retrieval_core.store import Store, read_uri

Image = str | os.PathLike[str] | bytes | RGB
Mode = Literal["nearest", "classified"]
MODES: tuple[Mode, ...] = get_args(Mode)
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


def open_release(store: Store | str, name: str = releases.PRODUCTION, settings: Settings | None = None) -> OpenRelease:
    """Open a release for searching: `name` is an alias or a release's fingerprint.

    Raises `NotFound` when nothing is published under that name.
    """
    settings = settings or Settings.load()
    opened = Settings.load(store=store).open_store() if isinstance(store, str) else store
    release = releases.read_release(opened, name) if releases.read_alias(opened, name) else None
    if release is None and name == releases.PRODUCTION:
        raise NotFound(f"nothing is published in {opened.url}; `vitrine run` makes the first release")
    return OpenRelease(opened, release or releases.get_release(opened, name), settings)


class QueryChain:
    """From a picture or a text to the vector the index holds: mask or crop, backbone, head, in the release's order."""

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self._store, self._release, self._settings = store, release, settings
        self._config = NightlyConfig.model_validate(release.config)
        self._backbone = Backbone.open(store, release.backbone)

    def embed_picture(self, image: RGB) -> Float32:
        """(dim,) unit-length float32 of an upright (h, w, 3) uint8 picture."""
        mask = self._mask(image)
        if mask is not None:
            cropped = self._release.variant.startswith("crop")
            image = crop_to_mask(image, mask, self._config.crop.margin) if cropped else apply_mask(image, mask)
        return self._boosted(self._engine.embed(fit(image, self._engine.preprocess)[None]))[0]

    def embed_text(self, text: str) -> Float32:
        """(dim,) unit-length float32 of a text. Raises `BadConfig` where the backbone has no text side."""
        if not self._backbone.has_text:
            raise BadConfig(
                f"release {self._release.fingerprint[:12]} was embedded with {self._backbone.card}, which reads no "
                "text; search by picture, or publish with --set embed.backbone=clip_vit_b32"
            )
        return self._boosted(embed_texts(self._folder(self._release.backbone), [text]))[0]

    def _boosted(self, vectors: Float32) -> Float32:
        return boost(self._head_weights, vectors) if self._head_weights else vectors

    def classify(self, image: RGB) -> Int32:
        """The likeliest classes of a picture, as many as a classified search looks in. Raises `BadConfig`."""
        if self._release.classes is None:
            raise BadConfig(
                f"release {self._release.fingerprint[:12]} knows no classes of its items; search without "
                "--mode classified, or publish with --set classify.enabled=true"
            )
        classes, _ = self._classifier.classify(fit(image, self._classifier.preprocess)[None])
        return classes[0, : self._config.classify.top_classes]

    def _mask(self, image: RGB) -> Mask | None:
        """Where the product is, None where the release shows pictures whole or cannot tell."""
        if not self._release.variant.startswith(("masked", "crop")):
            return None
        if self._release.detector:
            box = self._detector.box(image, self._config.crop)
            return box.mask() if box else None
        square = fit(image, square_of(self._config.mask.size_px))
        mask: Mask = self._segmenter.predict(square[None])[0]
        return None if distrust(mask, self._config.mask) else mask

    @cached_property
    def _engine(self) -> Engine:
        folder = self._folder(self._release.backbone)
        return open_engine(folder, self._settings.torch_device, self._settings.n_threads)

    @cached_property
    def _segmenter(self) -> SegmenterEngine:
        segmenter = _require(self._release.segmenter, "segmenter")
        folder = self._folder(segmenter)
        return SegmenterEngine(folder / ONNX_FILE, self._config.mask.size_px, self._settings.n_threads)

    @cached_property
    def _detector(self) -> detect.DetectorEngine:
        detector = _require(self._release.detector, "detector")
        weights = self._folder(detector) / detect.WEIGHTS_FILE
        model = Detector.open(self._store, detector).model
        return detect.DetectorEngine(model, weights, self._settings.torch_device, self._settings.n_threads)

    @cached_property
    def _classifier(self) -> ClassifierEngine:
        folder = self._folder(_require(self._release.classifier, "classifier"))
        return ClassifierEngine(open_engine(folder, self._settings.torch_device, self._settings.n_threads))

    @cached_property
    def _head_weights(self) -> dict[str, Float32] | None:
        if not self._release.variant.endswith("boosted"):
            return None
        return load_head(self._folder(_require(self._release.head, "head")) / WEIGHTS_FILE)

    def _folder(self, ref: Ref) -> Path:
        """A local folder with every part of a fitted model, checked against their checksums."""
        kinds: dict[str, type[Artifact]] = {
            kind.__name__: kind for kind in (Backbone, Classifier, Detector, Head, Segmenter)
        }
        return kinds[ref.kind].open(self._store, ref).local_folder(self._store)


class OpenRelease:
    """A release opened for searching; its shards are mapped, its models are loaded when first needed."""

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self.release = release
        self._store = store
        self._config = NightlyConfig.model_validate(release.config)
        self._index_set = IndexSet.open(store, release.index)
        self._index = open_index(store, self._index_set)
        self._chain = QueryChain(store, release, settings)
        items = lineage.load_items(store, release.catalog.name)
        self._items = items.filter(pl.col("row_id").is_in(self._index.row_ids().tolist())).sort("row_id")
        self._row_ids = self._items["row_id"].to_numpy()

    def search(self, image: Image, k: int = 10, mode: Mode = "nearest") -> list[Hit]:
        """The k items most like a picture: a path, an `s3://` URI, a file's bytes, or an (h, w, 3) uint8 array.

        Mode `classified` looks exactly among the items whose likeliest class is one of the picture's few likeliest;
        where those are fewer than k, the nearest of the others follow. Raises `ImageRefused` when the picture cannot be
        decoded, `NotFound` when there is no such file, `BadConfig` when the release has no classes.
        """
        if mode not in MODES:
            raise BadConfig(f"unknown search mode {mode!r}; expected {' or '.join(MODES)}")
        picture = _read_picture(image, self._config.ingest.max_pixels)
        if mode == "nearest":
            return self.search_vector(self._chain.embed_picture(picture), k)
        classes = self._chain.classify(picture)
        return self._hits(*self._search_in(classes, self._chain.embed_picture(picture), k))

    def search_text(self, text: str, k: int = 10) -> list[Hit]:
        """The k items most like a text. Raises `BadConfig` where the backbone reads no text."""
        return self.search_vector(self._chain.embed_text(text), k)

    def search_item(self, item_id: str, k: int = 10) -> list[Hit]:
        """The k items most like one of the catalogue, itself left out. Raises `NotFound`."""
        row = self._items.filter(pl.col("item_id") == item_id)
        if row.is_empty():
            raise NotFound(f"item {item_id!r} is not in release {self.release.fingerprint[:12]}")
        vector = self._index.vectors_of(row["row_id"].to_numpy())[0]
        hits = self.search_vector(vector, k + 1)
        return [hit for hit in hits if hit.item_id != item_id][:k]

    def search_vector(self, vector: Float32, k: int = 10) -> list[Hit]:
        """The k items nearest to a (dim,) unit-length float32 vector of the published variant, best first.

        Fewer when the catalogue is smaller. Raises `DimensionMismatch` and, for k below one, `BadConfig`.
        """
        scores, row_ids = self.search_vectors(np.atleast_2d(vector), k)
        return self._hits(scores[0], row_ids[0])

    def _search_in(self, classes: Int32, vector: Float32, k: int) -> tuple[Float32, Int64]:
        """Scores and row ids, (k,) or fewer, of the nearest items of these classes and then of the nearest others."""
        scores, row_ids = (found[0] for found in self.search_vectors(np.atleast_2d(vector), k))
        inside = self._row_ids[(classes[classes >= 0][:, None] == self._likeliest).any(axis=0)]
        best_scores, best = exact_topk(np.atleast_2d(vector), self._index.vectors_of(inside), k)
        found = best[0] >= 0
        others = ~np.isin(row_ids, inside)
        return (
            np.concatenate([best_scores[0][found], scores[others]])[:k],
            np.concatenate([inside[best[0][found]], row_ids[others]])[:k],
        )

    def _hits(self, scores: Float32, row_ids: Int64) -> list[Hit]:
        """The items of these rows, in their order and without the -1 of padding."""
        found = row_ids >= 0
        rows = self._items[np.searchsorted(self._row_ids, row_ids[found])]
        columns = ["item_id", "image_uri", "product_id", "category", "labels"]
        return [
            Hit(score=float(score), **row)
            for score, row in zip(scores[found], rows.select(columns).iter_rows(named=True), strict=True)
        ]

    def search_vectors(self, vectors: Float32, k: int) -> tuple[Float32, Int64]:
        """Scores and row ids, (q, k) each, of (q, dim) queries; short answers are padded with -inf and -1."""
        if vectors.shape[1] != self._index_set.dim:
            raise DimensionMismatch(
                f"the query has {vectors.shape[1]} dimensions, the index {self._index_set.dim}: "
                f"embed it with {self._index_set.dim}-dimensional {self.release.variant} vectors of this release"
            )
        return self._index.search(vectors, self._reduced(vectors), k, self._config.index.rerank_depth)

    def _reduced(self, vectors: Float32) -> Float32:
        if self._index_set.candidate_dim == self._index_set.dim:
            return vectors
        return apply_pca(self._pca, vectors, self._index_set.candidate_dim, self._config.reduce.whiten)

    @cached_property
    def _likeliest(self) -> Int32:
        """(n_items,) int32: the likeliest class of each item, -1 where it has none."""
        classes = ClassSet.open(self._store, _require(self.release.classes, "classes"))
        return load_classes(self._store, classes, self._items["content_id"].to_list())[:, 0]

    @cached_property
    def _pca(self) -> Pca:
        reducer = Reducer.open(self._store, _require(self.release.reducer, "reducer"))
        part = reducer.part(PCA_FILE)
        return load_pca(self._store.local_path(part.key, part.sha256))


def open_index(store: Store, index: IndexSet) -> ShardedIndex:
    """Map every shard of an index version, each checked against its checksum. Raises `ShardCorrupt`, `NotFound`."""
    paths = [store.local_path(part.key, part.sha256) for part in index.parts]
    folders = list(dict.fromkeys(path.parent for path in paths))
    return ShardedIndex.open(folders, index.dim, index.candidate_dim, index.nprobe)


def _read_picture(image: Image, max_pixels: int) -> RGB:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise BadConfig(f"a picture must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
        return image
    data = image if isinstance(image, bytes) else read_uri(os.fspath(image))
    return decode(data, max_pixels=max_pixels)


def _require(ref: Ref | None, role: str) -> Ref:
    if ref is None:
        raise ShardCorrupt(f"the release names no {role}, though its variant needs one; `vitrine rollback` to another")
    return ref
