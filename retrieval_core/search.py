"""Picture, text or item to hits, through the chain of a published release.

from retrieval_core.search import open_release
hits = open_release("s3://shop/vitrine").search("query.jpg", k=5)
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core import lineage, releases
from retrieval_core.artifacts import Backbone, Head, Hit, IndexSet, Reducer, Ref, Release, Segmenter
from retrieval_core.config import EmbedConfig, NightlyConfig
from retrieval_core.embed.backbones import backbone_preprocess
from retrieval_core.embed.engine import Engine, embed_texts, open_engine
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.images import RGB, Preprocess, apply_mask, decode, fit
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.mask.apply import SegmenterEngine, square_of
from retrieval_core.mask.quality import distrust
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, load_pca
from retrieval_core.settings import Settings
from retrieval_core.shards import Float32
from retrieval_core.store import Store, read_uri

Image = str | os.PathLike[str] | bytes | RGB


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
    """From a picture or a text to the vector the index holds: mask, backbone, head, in the release's order."""

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self._store, self._release, self._settings = store, release, settings
        self._config = NightlyConfig.model_validate(release.config)
        self._backbone = Backbone.open(store, release.backbone)

    def embed_picture(self, image: RGB) -> Float32:
        """(dim,) unit-length float32 of an upright (h, w, 3) uint8 picture."""
        if self._release.variant.startswith("masked"):
            image = self._masked(image)
        return self._boosted(self._engine.embed(fit(image, self._preprocess)[None]))[0]

    def embed_text(self, text: str) -> Float32:
        """(dim,) unit-length float32 of a text. Raises `BadConfig` where the backbone has no text side."""
        if not self._backbone.has_text:
            raise BadConfig(
                f"release {self._release.fingerprint[:12]} was embedded with {self._backbone.card}, which reads no "
                "text; search by picture, or publish with --set embed.backbone=clip_vit_b32"
            )
        return self._boosted(embed_texts(self._backbone.card, self._folder(self._release.backbone), [text]))[0]

    def _boosted(self, vectors: Float32) -> Float32:
        return boost(self._head_weights, vectors) if self._head_weights else vectors

    def _masked(self, image: RGB) -> RGB:
        square = fit(image, square_of(self._config.mask.size_px))
        mask = self._segmenter.predict(square[None])[0]
        return image if distrust(mask, self._config.mask) else apply_mask(image, mask)

    @cached_property
    def _preprocess(self) -> Preprocess:
        return backbone_preprocess(EmbedConfig(backbone=self._backbone.card, size_px=self._backbone.size_px))

    @cached_property
    def _engine(self) -> Engine:
        folder = self._folder(self._release.backbone)
        device, threads = self._settings.torch_device, self._settings.n_threads
        return open_engine(self._backbone.card, self._backbone.size_px, folder, device, threads)

    @cached_property
    def _segmenter(self) -> SegmenterEngine:
        segmenter = _require(self._release.segmenter, "segmenter")
        folder = self._folder(segmenter)
        return SegmenterEngine(folder / ONNX_FILE, self._config.mask.size_px, self._settings.n_threads)

    @cached_property
    def _head_weights(self) -> dict[str, Float32] | None:
        if not self._release.variant.endswith("boosted"):
            return None
        return load_head(self._folder(_require(self._release.head, "head")) / WEIGHTS_FILE)

    def _folder(self, ref: Ref) -> Path:
        """A local folder with every part of a fitted model, checked against their checksums."""
        kinds: dict[str, type[Backbone | Head | Segmenter | Reducer]] = {
            "Backbone": Backbone,
            "Head": Head,
            "Segmenter": Segmenter,
            "Reducer": Reducer,
        }
        parts = kinds[ref.kind].open(self._store, ref).parts
        return next(self._store.local_path(part.key, part.sha256).parent for part in parts)


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

    def search(self, image: Image, k: int = 10) -> list[Hit]:
        """The k items most like a picture: a path, an `s3://` URI, a file's bytes, or an (h, w, 3) uint8 array.

        Raises `ImageRefused` when it cannot be decoded, `NotFound` when there is no such file.
        """
        return self.search_vector(self._chain.embed_picture(_read_picture(image, self._config.ingest.max_pixels)), k)

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
        found = row_ids[0] >= 0
        rows = self._items[np.searchsorted(self._row_ids, row_ids[0][found])]
        columns = ["item_id", "image_uri", "product_id", "category", "labels"]
        return [
            Hit(score=float(score), **row)
            for score, row in zip(scores[0][found], rows.select(columns).iter_rows(named=True), strict=True)
        ]

    def search_vectors(self, vectors: Float32, k: int) -> tuple[Float32, npt.NDArray[np.int64]]:
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
