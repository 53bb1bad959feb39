"""Pictures, texts and items to hits, through the chain of a published release.

from retrieval_core.search import Query, open_release
release = open_release("s3://shop/vitrine")
hits = release.search("query.jpg", k=5)
hits = release.search(Query(images=("query.jpg",), texts=("in red",)), where="category=dress")
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from threading import RLock
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float32, Int32, Int64
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import Items, row_id
from retrieval_core.artifacts.manifests import ClassSet, Hit, IndexSet, Reducer, Release
from retrieval_core.artifacts.parts import load_classes
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound
from retrieval_core.filters import VALUE_COLUMNS, commonest_values, parse_where
from retrieval_core.images import RGB, decode
from retrieval_core.index.lookup import RowSelection, ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, load_pca
from retrieval_core.search.query_encoder import QueryChain, opened_once, require
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

Image = str | os.PathLike[str] | bytes | RGB
Mode = Literal["nearest", "classified"]
MODES: tuple[Mode, ...] = get_args(Mode)
Found = tuple[Float32, Int64]  # scores, falling, and row ids, (n,) each

UNLIKE_WEIGHT = 0.5  # of what a query is to be unlike, against 1 of what it is to be like
COLLAPSE_SIMILARITY = 0.98  # cosine of two pictures that show the same
NO_LENGTH = 1e-6  # of a query whose parts cancel each other
RECENT_SELECTIONS = 8


@dataclass(frozen=True, eq=False)
class Query:
    """What to look for: the mean of all pictures, texts and items, less half the mean of what it is to be unlike.

    A picture is a path, an `s3://` URI, a file's bytes, or an upright (h, w, 3) uint8 array; `whole` leaves pictures as
    they are where the release masks or crops. Raises `BadConfig` for a single value where a tuple belongs.
    """

    images: tuple[Image, ...] = ()
    texts: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    unlike_images: tuple[Image, ...] = ()
    unlike_texts: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "whole" and not isinstance(value, tuple):
                raise BadConfig(f"a query's {field.name} must be a tuple, got a {type(value).__name__}; write (it,)")
        if not (self.images or self.texts or self.item_ids):
            raise BadConfig("a query needs something to be like: a picture, a text or an item")


class _Selected(NamedTuple):
    """Rows of the catalogue, ascending, and what the index makes of those it holds."""

    row_ids: Int64
    only: RowSelection


def open_release(store: Store | str, name: str = releases.PRODUCTION, settings: Settings | None = None) -> OpenRelease:
    """Open a release for searching: `name` is an alias or a release's fingerprint.

    Raises `NotFound` when nothing is published under that name.
    """
    settings = settings or Settings.load()
    opened = Settings.load(store=store).open_store() if isinstance(store, str) else store
    release = releases.read_release(opened, name)
    if release is None and name == releases.PRODUCTION:
        raise NotFound(f"nothing is published in {opened.url}; `vitrine run` makes the first release")
    return OpenRelease(opened, release or releases.get_release(opened, name), settings)


class OpenRelease:
    """A release opened for searching, from any number of threads.

    Its shards are mapped, its models are loaded when first needed.
    """

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self.release = release
        self._lock = RLock()
        self._store = store
        self._config = release.nightly_config()
        self._index_set = IndexSet.open(store, release.index)
        self._index = open_index(store, self._index_set)
        self._chain = QueryChain(store, release, settings)
        self._items = Items.open(store, release.catalog)
        self._recent = lru_cache(RECENT_SELECTIONS)(partial(_select, self._items, self._index))

    def prepare(self) -> None:
        """Load all that a picture's search goes through, so that what is damaged fails here and not in a search."""
        vector = self._chain.prepare()
        self.search_vectors(vector[None], 1)
        if self.release.classes:
            self._of_classes(np.empty(0, np.int32), None)

    def search(
        self, query: Query | Image, k: int = 10, *, mode: Mode = "nearest", where: str = "", collapse: bool = False
    ) -> list[Hit]:
        """The k items most like a picture or a `Query`, best first; the items of the query are not among them.

        `where` keeps to what it says, for example `category=dress and colour in (red, blue)` (see `where.py`); with
        `collapse` only the best stays of pictures that show one product alike. Fewer than k come where fewer fit. Mode
        `classified` looks first among the items whose likeliest class is one of the pictures' few likeliest; where
        those are fewer than k, the nearest of the others follow.

        Raises `ImageRefused` when a picture cannot be decoded, `NotFound` when there is no such file or item,
        `BadConfig` for a filter that cannot be read, where the release knows no classes or reads no text, where the
        parts of the query cancel each other, and for k below one.
        """
        asked = query if isinstance(query, Query) else Query(images=(query,))
        if mode not in MODES:
            raise BadConfig(f"unknown search mode {mode!r}; expected {' or '.join(MODES)}")
        if mode == "classified" and not asked.images:
            raise BadConfig("mode classified looks among the classes of a picture; add one to the query")
        selected = self._selected(where)
        pictures = [self._read(image) for image in asked.images]
        items = np.array([self._find(item_id) for item_id in asked.item_ids], np.int64)
        vector = self._vector(asked, pictures, items)
        nearest = partial(self._nearest, vector, selected)
        if mode == "classified":
            classes = np.concatenate([self._chain.classify(picture) for picture in pictures])
            inside = self._of_classes(classes, selected)
            nearest = partial(self._classified, vector, inside, selected)
        return self._hits(*self._best(nearest, k, items, collapse))

    def search_vector(self, vector: Float32, k: int = 10, *, where: str = "", collapse: bool = False) -> list[Hit]:
        """The k items nearest to a (dim,) unit-length float32 vector of the published variant, as `search` does.

        Raises `DimensionMismatch`, and `BadConfig` for k below one or a filter that cannot be read.
        """
        nearest = partial(self._nearest, vector, self._selected(where))
        return self._hits(*self._best(nearest, k, np.empty(0, np.int64), collapse))

    def search_vectors(self, vectors: Float32, k: int, *, where: str = "") -> tuple[Float32, Int64]:
        """Scores and row ids, (q, k) each, of (q, dim) queries; short answers are padded with -inf and -1."""
        return self._search(vectors, k, self._selected(where))

    def shown(self, image: Image) -> RGB:
        """An (h, w, 3) uint8 picture as the release shows it to its backbone: masked, cropped or whole."""
        return self._chain.shown(self._read(image))

    def picture(self, item_id: str) -> bytes:
        """The file of an item's picture. Raises `NotFound` without the item, and where its picture is gone."""
        (row,) = self._items.rows(np.array([self._find(item_id)], np.int64))
        return read_uri(row["image_uri"])

    def shard_of(self, item_id: str) -> str:
        """The name of the index shard that an item lies in. Raises `NotFound`."""
        wanted = np.array([self._find(item_id)], np.int64)
        return next(shard.folder.name for shard in self._index.shards if positions_of(shard.row_ids, wanted)[1].any())

    def columns(self) -> dict[str, list[str]]:
        """What a filter can name, with the commonest values of each, the commonest first; ids go without."""
        return {name: list(values) for name, values in self._commonest.items()}

    @opened_once
    def _commonest(self) -> dict[str, list[str]]:
        return commonest_values(self._items.columns(VALUE_COLUMNS))

    def _read(self, image: Image) -> RGB:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise BadConfig(f"a picture must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
            return image
        data = image if isinstance(image, bytes) else read_uri(os.fspath(image))
        return decode(data, max_pixels=self._config.ingest.max_pixels)

    def _find(self, item_id: str) -> int:
        """The row id of an item. Raises `NotFound`, also for one whose picture was put into quarantine."""
        number = row_id(item_id)
        try:
            self._index.vectors_of(np.array([number], np.int64))
        except NotFound as error:
            raise NotFound(f"item {item_id!r} is not in release {self.release.fingerprint[:12]}") from error
        return number

    def _vector(self, query: Query, pictures: list[RGB], items: Int64) -> Float32:
        """(dim,) unit-length float32."""
        embed = partial(self._chain.embed_picture, whole=query.whole)
        like = [*self._index.vectors_of(items)]
        like += [embed(picture) for picture in pictures]
        like += [self._chain.embed_text(text) for text in query.texts]
        unlike = [embed(self._read(image)) for image in query.unlike_images]
        unlike += [self._chain.embed_text(text) for text in query.unlike_texts]
        if len(like) == 1 and not unlike:
            return like[0]
        vector = np.mean(like, axis=0)
        if unlike:
            vector -= np.float32(UNLIKE_WEIGHT) * np.mean(unlike, axis=0)
        length = np.linalg.norm(vector)
        if length < NO_LENGTH:
            raise BadConfig("the parts of the query cancel each other; leave one out, or add another")
        return vector / length

    def _best(self, nearest: Callable[[int], Found], k: int, left_out: Int64, collapse: bool) -> Found:
        """The k first rows that `nearest` finds without those left out, asking for more until k stay."""
        if k < 1:
            raise BadConfig(f"k is at least 1, got {k}")
        n = k + len(left_out)
        while True:
            scores, row_ids = nearest(n)
            keep = ~np.isin(row_ids, left_out)
            if collapse:
                keep[keep] = self._firsts(row_ids[keep])
            if keep.sum() >= k or len(row_ids) < n:
                return scores[keep][:k], row_ids[keep][:k]
            n *= 2

    def _firsts(self, row_ids: Int64) -> Bool:
        """Which rows show no product as a row before them does."""
        products = self._items.products(row_ids)
        counts = Counter(product for product in products if product is not None)
        repeated = [place for place, product in enumerate(products) if product is not None and counts[product] > 1]
        keep = np.ones(len(row_ids), bool)
        shown: dict[str | None, list[Float32]] = {}
        for place, vector in zip(repeated, self._index.vectors_of(row_ids[repeated]), strict=True):
            before = shown.setdefault(products[place], [])
            keep[place] = all(vector @ other < COLLAPSE_SIMILARITY for other in before)
            if keep[place]:
                before.append(vector)
        return keep

    def _hits(self, scores: Float32, row_ids: Int64) -> list[Hit]:
        rows = self._items.rows(row_ids)
        return [Hit(score=float(score), **row) for score, row in zip(scores, rows, strict=True)]

    def _nearest(self, vector: Float32, selected: _Selected | None, n: int) -> Found:
        """The n nearest of what is selected, fewer where that is fewer."""
        n_rows = selected.only.n_rows if selected else self._index.n_rows
        scores, row_ids = self._search(np.atleast_2d(vector), max(1, min(n, n_rows)), selected)
        found = row_ids[0] >= 0
        return scores[0][found], row_ids[0][found]

    def _classified(self, vector: Float32, inside: _Selected, selected: _Selected | None, n: int) -> Found:
        """The n nearest of the rows inside, and after those the nearest of the others."""
        first_scores, first = self._nearest(vector, inside, n)
        scores, row_ids = self._nearest(vector, selected, n)
        others = ~np.isin(row_ids, inside.row_ids)
        return np.concatenate([first_scores, scores[others]])[:n], np.concatenate([first, row_ids[others]])[:n]

    def _search(self, vectors: Float32, k: int, selected: _Selected | None) -> tuple[Float32, Int64]:
        if vectors.ndim != 2 or vectors.shape[1] != self._index_set.dim:
            raise DimensionMismatch(
                f"the query has {vectors.shape[-1]} dimensions, the index {self._index_set.dim}: "
                f"embed it with {self._index_set.dim}-dimensional {self.release.variant} vectors of this release"
            )
        only = selected.only if selected else None
        return self._index.search(vectors, self._reduced(vectors), k, self._index_set.rerank_depth, only=only)

    def _reduced(self, vectors: Float32) -> Float32:
        if self._index_set.candidate_dim == self._index_set.dim:
            return vectors
        return apply_pca(self._pca, vectors, self._index_set.candidate_dim, self._config.reduce.whiten)

    def _selected(self, where: str) -> _Selected | None:
        return self._recent(where.strip()) if where.strip() else None

    def _of_classes(self, classes: Int32, selected: _Selected | None) -> _Selected:
        row_ids, likeliest = self._likeliest
        inside = row_ids[np.isin(likeliest, classes[classes >= 0])]
        if selected:
            inside = np.intersect1d(inside, selected.row_ids, assume_unique=True)
        return _Selected(inside, self._index.select(inside))

    @opened_once
    def _likeliest(self) -> tuple[Int64, Int32]:
        """Ascending row ids, and the likeliest class of each, -1 where it has none."""
        classes = ClassSet.open(self._store, require(self.release.classes, "classes"))
        items = self._items.columns(["row_id", "content_id"]).filter(pl.col("content_id").is_not_null()).sort("row_id")
        return items["row_id"].to_numpy(), load_classes(self._store, classes, items["content_id"].to_list())[:, 0]

    @opened_once
    def _pca(self) -> Pca:
        reducer = Reducer.open(self._store, require(self.release.reducer, "reducer"))
        part = reducer.part(PCA_FILE)
        return load_pca(self._store.local_path(part.key, part.sha256))


def _select(items: Items, index: ShardedIndex, where: str) -> _Selected:
    asked = parse_where(where)
    table = items.columns(["row_id", *asked.columns])
    row_ids = np.sort(table["row_id"].filter(asked.mask(table)).to_numpy())
    return _Selected(row_ids, index.select(row_ids))
