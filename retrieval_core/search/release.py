"""Search a published release by pictures, texts and items.

from retrieval_core import Query, open_release
release = open_release("s3://shop/vitrine")
hits = release.search("query.jpg", k=5)
hits = release.search(Query(images=("query.jpg",), texts=("in red",)), where="category=dress")
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from threading import RLock
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from pydantic import ValidationError

from retrieval_core.arrays import Bool, Float32, Int32, Int64
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import HIT_COLUMNS, Items, row_id
from retrieval_core.artifacts.manifests import ClassSet, Hit, IndexSet, Reducer, Release, Report
from retrieval_core.artifacts.parts import load_classes
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.fields.values import as_json
from retrieval_core.filters import FIELD, SHOWN_FIELDS, VALUE_COLUMNS, commonest_texts, commonest_values, parse_where
from retrieval_core.images import RGB, decode, prepare_for_many
from retrieval_core.index.lookup import RowSelection, ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.item_ids.normal_form import normal_name, spellings
from retrieval_core.item_ids.suggestions import did_you_mean
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, load_pca
from retrieval_core.search.confidence import CONFIDENCE_FILE, DEPTH, N_HITS, Confidence, hit_features, mean_cosine
from retrieval_core.search.query_encoder import QueryEncoder, opened_once, require
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

Image = str | os.PathLike[str] | bytes | RGB
Mode = Literal["nearest", "classified"]
MODES: tuple[Mode, ...] = get_args(Mode)
Hits = tuple[Float32, Int64]  # (n,) scores, falling, and (n,) row ids

UNLIKE_WEIGHT = 0.5  # of the pictures and texts a query should not resemble; the others count 1
COLLAPSE_SIMILARITY = 0.98  # cosine of two pictures that show the same
MIN_LENGTH = 1e-6  # of a query vector; below it its parts cancel each other
RECENT_SELECTIONS = 8  # filters whose rows are kept


@dataclass(frozen=True, eq=False)
class Query:
    """What to search for: the mean of all pictures, texts and items, less half the mean of the `unlike` ones.

    A picture is a path, an `s3://` URI, a file's bytes, or an upright (h, w, 3) uint8 array. `whole` embeds pictures as
    they are even where the release masks or crops them. Raises `BadConfig` for a single value in place of a tuple.
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
                raise BadConfig(f"a query's {field.name} must be a tuple, got a {type(value).__name__}; write (value,)")
        if not (self.images or self.texts or self.item_ids):
            raise BadConfig("a query needs a picture, a text or an item to be like")


class _Selected(NamedTuple):
    """Rows of the catalogue, ascending, and the index's selection of those that it holds."""

    row_ids: Int64
    only: RowSelection


def open_release(store: Store | str, name: str = releases.PRODUCTION, settings: Settings | None = None) -> OpenRelease:
    """Open a release for searching; `name` is an alias or a release's fingerprint.

    Raises `NotFound` when nothing is published under that name.
    """
    settings = settings or Settings.load()
    opened = Settings.load(store=store).open_store() if isinstance(store, str) else store
    release = releases.read_release(opened, name)
    if release is None and name == releases.PRODUCTION:
        raise NotFound(f"nothing is published in {opened.url}; `vitrine run` publishes the first release")
    return OpenRelease(opened, release or releases.get_release(opened, name), settings)


class OpenRelease:
    """A release opened for searching from any number of threads.

    Its index shards are memory-mapped; its models are loaded at their first use.
    """

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self.release = release
        self._lock = RLock()
        self._store = store
        self._config = release.nightly_config()
        self._index_set = IndexSet.open(store, release.index)
        self._index = open_index(store, self._index_set)
        self._encoder = QueryEncoder(store, release, settings)
        self._items = Items.open(store, release.catalog, release.fields)
        self._pictures = PictureReader(store)
        self._recent = lru_cache(RECENT_SELECTIONS)(partial(_select, self._items, self._index))

    def prepare(self) -> None:
        """Load everything that a search by picture needs, so that damage is found here and not in a search."""
        prepare_for_many()
        vector = self._encoder.prepare()
        self.search_vectors(vector[None], 1)
        if self.release.classes:
            self._select_classes(np.empty(0, np.int32), None)

    def search(
        self,
        query: Query | Image,
        k: int = 10,
        *,
        mode: Mode = "nearest",
        where: str = "",
        collapse: bool = False,
        by_product: bool = False,
        min_confidence: float = 0.0,
    ) -> list[Hit]:
        """Return the k items most like a picture or a `Query`, best first, without the items of the query itself.

        `where` filters them, for example `category=dress and price < 30` (see `filters.py`). `by_product` keeps only
        the best item of each product, `collapse` only the best of near-identical pictures of one product. Fewer than k
        are returned where fewer fit. Mode `classified` searches first among the items whose likeliest class is one of
        the few likeliest of the query's pictures; where those are fewer than k, the nearest other items follow.

        The hits carry the `confidence` that one of the first five is relevant, of the same product or else category;
        below `min_confidence` there is no match, and no hits are returned.

        Raises `ImageRefused` when a picture cannot be decoded, `NotFound` when there is no such file or item, and
        `BadConfig` for an invalid filter, k below 1, a text or mode that the release cannot search by, a query
        whose parts cancel each other, and a `min_confidence` where the confidence is not known.
        """
        query = query if isinstance(query, Query) else Query(images=(query,))
        if mode not in MODES:
            raise BadConfig(f"unknown search mode {mode!r}; expected {' or '.join(MODES)}")
        if mode == "classified" and not query.images:
            raise BadConfig("mode classified searches among the classes of a picture; add one to the query")
        selected = self._selected(where)
        pictures = [self._read(image) for image in query.images]
        item_rows = np.array([self._find(item_id) for item_id in query.item_ids], np.int64)
        vector = self._encode(query, pictures, item_rows)
        nearest = partial(self._nearest, vector, selected)
        if mode == "classified":
            classes = np.concatenate([self._encoder.classify(picture) for picture in pictures])
            of_classes = self._select_classes(classes, selected)
            nearest = partial(self._classified, vector, of_classes, selected)
        confidence = None if query.texts or query.unlike_texts else self._confidence(vector, selected, item_rows)
        if min_confidence and confidence is None:
            raise BadConfig(
                "the confidence of this search is unknown: it is learned for pictures and items, not for words, in a "
                "catalogue with products or categories; search without a least confidence"
            )
        if confidence is not None and confidence < min_confidence:
            return []
        is_new = self._is_new_product if by_product else self._is_new_picture if collapse else None
        hits = self._describe(*self._best(nearest, k, item_rows, is_new))
        return [hit.model_copy(update={"confidence": confidence}) for hit in hits]

    def search_vector(self, vector: Float32, k: int = 10, *, where: str = "", collapse: bool = False) -> list[Hit]:
        """Return the k items nearest to a (dim,) unit-length float32 vector of the published variant, as `search` does.

        Raises `DimensionMismatch`, and `BadConfig` for k below 1 or an invalid filter.
        """
        nearest = partial(self._nearest, vector, self._selected(where))
        is_new = self._is_new_picture if collapse else None
        return self._describe(*self._best(nearest, k, np.empty(0, np.int64), is_new))

    def search_vectors(self, vectors: Float32, k: int, *, where: str = "") -> tuple[Float32, Int64]:
        """Return (q, k) scores and row ids for (q, dim) queries, padded with -inf and -1 where fewer fit."""
        return self._search(vectors, k, self._selected(where))

    def apply_view(self, image: Image) -> RGB:
        """Return the (h, w, 3) uint8 view of a picture that the release embeds: raw, masked or cropped."""
        return self._encoder.apply_view(self._read(image))

    def picture_bytes(self, item_id: str) -> bytes:
        """Return the file of an item's picture. Raises `NotFound` where the item or its picture does not exist."""
        (row,) = self._items.rows(np.array([self._find(item_id)], np.int64))
        return self._pictures.read(row)

    def shard_of(self, item_id: str) -> str:
        """Return the name of the index shard that holds an item. Raises `NotFound`."""
        row = np.array([self._find(item_id)], np.int64)
        return next(shard.folder.name for shard in self._index.shards if positions_of(shard.row_ids, row)[1].any())

    def filter_values(self) -> dict[str, list[str]]:
        """Return the columns that a filter can name, each with its commonest values first; ids have none listed."""
        return {name: list(values) for name, values in self._commonest.items()}

    @opened_once
    def _commonest(self) -> dict[str, list[str]]:
        shown = [name for name in self._items.field_names if name not in SHOWN_FIELDS]
        values = self._items.columns(["row_id", *VALUE_COLUMNS], shown)
        texts = {name: commonest_texts(values[FIELD + name]) for name in shown}
        commonest = commonest_values(values)
        return commonest | {name: texts.get(name, []) for name in self._items.field_names if name not in commonest}

    def _read(self, image: Image) -> RGB:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise BadConfig(f"a picture must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
            return image
        data = image if isinstance(image, bytes) else read_uri(os.fspath(image))
        return decode(data, max_pixels=self._config.ingest.max_pixels)

    def _find(self, item_id: str) -> int:
        """Return the row id of an item. Raises `NotFound`, also for an item in quarantine."""
        for spelling in spellings(item_id):
            row = row_id(spelling)
            with suppress(NotFound):
                self._index.vectors_of(np.array([row], np.int64))
                return row
        ids = self._items.columns(["item_id"])["item_id"]
        is_unused = (ids == normal_name(item_id)).any()
        hint = ": its picture could not be used, as `vitrine explain` says" if is_unused else did_you_mean(item_id, ids)
        raise NotFound(f"item {item_id!r} is not in release {self.release.fingerprint[:12]}{hint}")

    def _encode(self, query: Query, pictures: list[RGB], item_rows: Int64) -> Float32:
        """Return the query's (dim,) unit-length float32 vector."""
        embed = partial(self._encoder.embed_picture, whole=query.whole)
        like = [*self._index.vectors_of(item_rows)]
        like += [embed(picture) for picture in pictures]
        like += [self._encoder.embed_text(text) for text in query.texts]
        unlike = [embed(self._read(image)) for image in query.unlike_images]
        unlike += [self._encoder.embed_text(text) for text in query.unlike_texts]
        if len(like) == 1 and not unlike:
            return like[0]
        vector = np.mean(like, axis=0)
        if unlike:
            vector -= np.float32(UNLIKE_WEIGHT) * np.mean(unlike, axis=0)
        length = np.linalg.norm(vector)
        if length < MIN_LENGTH:
            raise BadConfig("the parts of the query cancel each other; leave one out, or add another")
        return vector / length

    def _best(
        self, nearest: Callable[[int], Hits], k: int, excluded: Int64, is_new: Callable[[Int64], Bool] | None
    ) -> Hits:
        """Return the first k rows of `nearest(n)` that are not excluded and `is_new`, with n doubled until k are."""
        if k < 1:
            raise BadConfig(f"k is at least 1, got {k}")
        n = k + len(excluded)
        while True:
            scores, row_ids = nearest(n)
            keep = ~np.isin(row_ids, excluded)
            if is_new is not None:
                keep[keep] = is_new(row_ids[keep])
            if keep.sum() >= k or len(row_ids) < n:
                return scores[keep][:k], row_ids[keep][:k]
            n *= 2

    def _confidence(self, vector: Float32, selected: _Selected | None, excluded: Int64) -> float | None:
        """Return how likely one of the first hits is relevant, None where the release has no model of that."""
        if self._confidence_model is None:
            return None
        scores, row_ids = self._best(partial(self._nearest, vector, selected), DEPTH, excluded, None)
        if not len(row_ids):
            return 0.0
        neighbours = partial(self._nearest, self._index.vectors_of(row_ids[:1])[0], None)
        around, _ = self._best(neighbours, DEPTH, row_ids[:1], None)
        categories = [row["category"] for row in self._items.rows(row_ids[:N_HITS])]
        codes = [-1 if name is None else categories.index(name) for name in categories]
        padded = np.pad(codes, (0, N_HITS - len(codes)), constant_values=-1)
        density = mean_cosine(around[None].astype(np.float64))
        features = hit_features(scores[None].astype(np.float64), density, padded[None])
        return float(self._confidence_model.probability(features)[0])

    @opened_once
    def _confidence_model(self) -> Confidence | None:
        try:
            part = Report.open(self._store, self.release.report).part(CONFIDENCE_FILE)
            return Confidence.model_validate_json(self._store.local_path(part.key, part.sha256).read_bytes())
        except (NotFound, ShardCorrupt, ValidationError):  # an older report, or a lost one: a search does without it
            return None

    def _is_new_product(self, row_ids: Int64) -> Bool:
        """Return, for each row, whether no earlier row is of the same product."""
        products = self._items.products(row_ids)
        first = {product: rank for rank, product in reversed([*enumerate(products)])}
        return np.array([product is None or first[product] == rank for rank, product in enumerate(products)], bool)

    def _is_new_picture(self, row_ids: Int64) -> Bool:
        """Return, for each row, whether no earlier row is a near-identical picture of the same product."""
        products = self._items.products(row_ids)
        counts = Counter(product for product in products if product is not None)
        repeated = [rank for rank, product in enumerate(products) if product is not None and counts[product] > 1]
        keep = np.ones(len(row_ids), bool)
        kept_vectors: dict[str | None, list[Float32]] = {}
        for rank, vector in zip(repeated, self._index.vectors_of(row_ids[repeated]), strict=True):
            earlier = kept_vectors.setdefault(products[rank], [])
            keep[rank] = all(vector @ other < COLLAPSE_SIMILARITY for other in earlier)
            if keep[rank]:
                earlier.append(vector)
        return keep

    def _describe(self, scores: Float32, row_ids: Int64) -> list[Hit]:
        rows = self._items.rows(row_ids)
        fields = [{name: as_json(value) for name, value in row.items()} for row in self._items.fields(row_ids)]
        return [
            Hit(score=float(score), fields=values, **{name: row[name] for name in HIT_COLUMNS})
            for score, values, row in zip(scores, fields, rows, strict=True)
        ]

    def _nearest(self, vector: Float32, selected: _Selected | None, n: int) -> Hits:
        """Return the n nearest of the selected rows, or all of them where there are fewer."""
        n_rows = selected.only.n_rows if selected else self._index.n_rows
        scores, row_ids = self._search(np.atleast_2d(vector), max(1, min(n, n_rows)), selected)
        is_hit = row_ids[0] >= 0
        return scores[0][is_hit], row_ids[0][is_hit]

    def _classified(self, vector: Float32, of_classes: _Selected, selected: _Selected | None, n: int) -> Hits:
        """Return the n nearest rows: those of the query's classes first, then the other selected ones."""
        first_scores, first = self._nearest(vector, of_classes, n)
        scores, row_ids = self._nearest(vector, selected, n)
        is_other = ~np.isin(row_ids, of_classes.row_ids)
        return np.concatenate([first_scores, scores[is_other]])[:n], np.concatenate([first, row_ids[is_other]])[:n]

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

    def _select_classes(self, classes: Int32, selected: _Selected | None) -> _Selected:
        row_ids, likeliest = self._likeliest_classes
        of_classes = row_ids[np.isin(likeliest, classes[classes >= 0])]
        if selected:
            of_classes = np.intersect1d(of_classes, selected.row_ids, assume_unique=True)
        return _Selected(of_classes, self._index.select(of_classes))

    @opened_once
    def _likeliest_classes(self) -> tuple[Int64, Int32]:
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
    parsed = parse_where(where)
    table = items.columns(["row_id", *parsed.columns], parsed.open_names)
    row_ids = np.sort(table["row_id"].filter(parsed.mask(table, items.field_names)).to_numpy())
    return _Selected(row_ids, index.select(row_ids))
