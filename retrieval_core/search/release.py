"""Search a published release by pictures, texts and items.

from retrieval_core import Query, open_release
release = open_release("s3://shop/vitrine")
hits = release.search("query.jpg", k=5)
hits = release.search(Query(images=("query.jpg",), texts=("in red",)), where="category=dress")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from threading import RLock
from typing import NamedTuple

import numpy as np
import polars as pl
from pydantic import ValidationError

from retrieval_core.arrays import Bool, Float32, Int32, Int64, UInt8
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import HIT_COLUMNS, Items, row_id
from retrieval_core.artifacts.manifests import ClassSet, IndexSet, Reducer, Release, Report
from retrieval_core.artifacts.parts import load_classes
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.fields.values import as_json
from retrieval_core.images import RGB, decode, prepare_for_many
from retrieval_core.index.lookup import ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.item_ids.normal_form import normal_name, spellings
from retrieval_core.item_ids.suggestions import did_you_mean
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, load_pca
from retrieval_core.search.confidence import CONFIDENCE_FILE, DEPTH, N_HITS, Confidence, hit_features, mean_cosine
from retrieval_core.search.duplicates import is_new_picture, is_new_product
from retrieval_core.search.facets import Counts, count_facets
from retrieval_core.search.hits import Hit, Item
from retrieval_core.search.query import MODES, Image, Mode, Query
from retrieval_core.search.query_encoder import QueryEncoder, opened_once, require
from retrieval_core.search.selection import Selected, sample, select
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

Hits = tuple[Float32, Int64]  # (n,) scores, falling, and (n,) row ids

UNLIKE_WEIGHT = 0.5  # of the pictures and texts a query should not resemble; the others count 1
MIN_LENGTH = 1e-6  # of a query vector; below it its parts cancel each other
RECENT_SELECTIONS = 8  # filters whose rows are kept
RECENT_COUNTS = 64  # counts of values that are kept
NO_ROWS: Int64 = np.empty(0, np.int64)
KNOWN_DENSITIES = 100_000  # rows whose density is kept


class Ranking(NamedTuple):
    """What a search found, best first, and how likely one of the first is relevant, None where that is unknown."""

    scores: Float32  # (n,) cosines, falling
    row_ids: Int64  # (n,)
    confidence: float | None = None


def open_release(store: Store | str, name: str = releases.PRODUCTION, settings: Settings | None = None) -> OpenRelease:
    """Open a release for searching; `name` is an alias or a release's fingerprint.

    Raises `NotFound` when nothing is published under that name.
    """
    settings = settings or Settings.load()
    opened = Settings.load(store=store).open_store() if isinstance(store, str) else store
    release = releases.read_release(opened, name) or releases.get_release(opened, name)
    return OpenRelease(opened, release, settings)


class OpenRelease:
    """A release opened for searching from any number of threads.

    Its index shards are memory-mapped; the models of its `encoder` are loaded at their first use.
    """

    def __init__(self, store: Store, release: Release, settings: Settings) -> None:
        self.release = release
        self._lock = RLock()
        self._store = store
        self._config = release.nightly_config()
        self._index_set = IndexSet.open(store, release.index)
        self._index = open_index(store, self._index_set)
        self.encoder = QueryEncoder(store, release, settings)
        self._items = Items.open(store, release.catalog, release.fields)
        self._pictures = PictureReader(store)
        self._recent = lru_cache(RECENT_SELECTIONS)(partial(select, self._items, self._index))
        self._counted = lru_cache(RECENT_COUNTS)(partial(_count, self._items, self._index, self._recent))
        self._densities: dict[int, float] = {}
        self._is_new_product = partial(is_new_product, self._items)
        self._is_new_picture = partial(is_new_picture, self._items, self._index)

    def prepare(self) -> None:
        """Load everything that a search by picture needs, so that damage is found here and not in a search."""
        prepare_for_many()
        vector = self.encoder.prepare()
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
        ranking = self.rank(
            query, k, mode=mode, where=where, collapse=collapse, by_product=by_product, min_confidence=min_confidence
        )
        return self.describe(ranking)

    def rank(
        self,
        query: Query,
        k: int = 10,
        *,
        mode: Mode = "nearest",
        where: str = "",
        collapse: bool = False,
        by_product: bool = False,
        min_confidence: float = 0.0,
        seen: Sequence[int] = (),
    ) -> Ranking:
        """Return the rows of what `search` returns; of a long list one page after the other.

        `seen` are the row ids of the pages before, which are left out, as is what is not new beside them.
        """
        if mode not in MODES:
            raise BadConfig(f"unknown search mode {mode!r}; expected {' or '.join(MODES)}")
        if mode == "classified" and not query.images:
            raise BadConfig("mode classified searches among the classes of a picture; add one to the query")
        selected = self._selected(where)
        pictures = [self.read_picture(image) for image in query.images]
        item_rows = np.array([self._find(item_id) for item_id in query.item_ids], np.int64)
        vector = self._encode(query, pictures, item_rows)
        nearest = lru_cache(partial(self._nearest, vector, selected))  # the confidence often needs the same rows
        confidence = None if query.texts or query.unlike_texts else self._confidence(nearest, item_rows)
        if min_confidence and confidence is None:
            raise BadConfig(
                "the confidence of this search is unknown: it is learned for pictures and items, not for words, in a "
                "catalogue with products or categories; search without a least confidence"
            )
        if confidence is not None and confidence < min_confidence:
            return Ranking(np.empty(0, np.float32), np.empty(0, np.int64), confidence)
        if mode == "classified":
            classes = np.concatenate([self.encoder.classify(picture) for picture in pictures])
            nearest = lru_cache(partial(self._classified, vector, self._select_classes(classes, selected), selected))
        is_new = self._is_new_product if by_product else self._is_new_picture if collapse else None
        best = self._best(nearest, k, item_rows, is_new, np.asarray(seen, np.int64))
        return Ranking(*best, confidence)

    def describe(self, ranking: Ranking) -> list[Hit]:
        """Return the items of a ranking as hits."""
        scores, row_ids, confidence = ranking
        rows = self._items.rows(row_ids)
        fields = [{name: as_json(value) for name, value in row.items()} for row in self._items.fields(row_ids)]
        return [
            Hit(score=float(score), confidence=confidence, fields=values, **{name: row[name] for name in HIT_COLUMNS})
            for score, values, row in zip(scores, fields, rows, strict=True)
        ]

    def search_vector(self, vector: Float32, k: int = 10, *, where: str = "", collapse: bool = False) -> list[Hit]:
        """Return the k items nearest to a (dim,) unit-length float32 vector of the published variant, as `search` does.

        Raises `DimensionMismatch`, and `BadConfig` for k below 1 or an invalid filter.
        """
        nearest = partial(self._nearest, vector, self._selected(where))
        best = self._best(nearest, k, NO_ROWS, self._is_new_picture if collapse else None)
        return self.describe(Ranking(*best))

    def search_vectors(self, vectors: Float32, k: int, *, where: str = "") -> tuple[Float32, Int64]:
        """Return (q, k) scores and row ids for (q, dim) queries, padded with -inf and -1 where fewer fit."""
        return self._search(vectors, k, self._selected(where))

    def apply_view(self, image: Image) -> RGB:
        """Return the (h, w, 3) uint8 view of a picture that the release embeds: raw, masked or cropped."""
        return self.encoder.apply_view(self.read_picture(image))

    def fit_picture(self, image: Image, whole: bool = False) -> UInt8:
        """Return the (size, size, 3) uint8 square of a picture that `encoder.embed` takes. Raises as `search` does."""
        return self.encoder.fit_picture(self.read_picture(image), whole)

    def item(self, item_id: str) -> Item:
        """Return what a hit says of an item. Raises `NotFound`."""
        return self._describe_items(np.array([self._find(item_id)], np.int64))[0]

    def sample(self, k: int = 10, where: str = "") -> list[Item]:
        """Return up to k items that match a filter, of different products and as many categories as possible.

        They are always the same ones. Raises `BadConfig` for an invalid filter.
        """
        row_ids, selected = self._index.row_ids(), self._selected(where)
        matching = row_ids[np.isin(row_ids, selected.row_ids)] if selected else row_ids
        return self._describe_items(sample(self._items, matching, k))

    def picture_bytes(self, item_id: str) -> bytes:
        """Return the file of an item's picture. Raises `NotFound` where the item or its picture does not exist."""
        return self._pictures.read(self._items.rows(np.array([self._find(item_id)], np.int64))[0])

    def find_row(self, item_id: str) -> int | None:
        """Return the row id of an item, None where a search cannot find it."""
        for row in map(row_id, spellings(item_id)):
            with suppress(NotFound):
                self._index.vectors_of(np.array([row], np.int64))
                return row
        return None

    def shard_of(self, item_id: str) -> str:
        """Return the name of the index shard that holds an item. Raises `NotFound`."""
        row = np.array([self._find(item_id)], np.int64)
        return next(shard.folder.name for shard in self._index.shards if positions_of(shard.row_ids, row)[1].any())

    def facets(self, names: Sequence[str] = (), where: str = "") -> Counts:
        """Return the commonest values of these names, or of all that a filter knows, with their numbers of items.

        Counted are the items that a search can find and that match the filter `where`. Names whose values differ for
        nearly every item, such as ids, have none. Raises `BadConfig` for an unknown name and an invalid filter.
        """
        return self._counted(tuple(names), where.strip())

    def read_picture(self, image: Image) -> RGB:
        """Return the upright (h, w, 3) uint8 pixels of a picture. Raises as `search` does."""
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise BadConfig(f"a picture must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
            return image
        data = image if isinstance(image, bytes) else read_uri(os.fspath(image))
        return decode(data, max_pixels=self._config.ingest.max_pixels)

    def _describe_items(self, row_ids: Int64) -> list[Item]:
        hits = self.describe(Ranking(np.ones(len(row_ids), np.float32), row_ids))
        return [Item(**hit.model_dump(include=set(Item.model_fields))) for hit in hits]

    def _find(self, item_id: str) -> int:
        """Return the row id of an item. Raises `NotFound`, also for an item in quarantine."""
        row = self.find_row(item_id)
        if row is not None:
            return row
        ids = self._items.columns(["item_id"])["item_id"]
        is_unused = (ids == normal_name(item_id)).any()
        hint = ": its picture could not be used, as `vitrine explain` says" if is_unused else did_you_mean(item_id, ids)
        raise NotFound(f"item {item_id!r} is not in release {self.release.fingerprint[:12]}{hint}")

    def _encode(self, query: Query, pictures: list[RGB], item_rows: Int64) -> Float32:
        """Return the query's (dim,) unit-length float32 vector."""
        embed = partial(self.encoder.embed_picture, whole=query.whole)
        like = [*self._index.vectors_of(item_rows), *query.vectors]
        like += [embed(picture) for picture in pictures]
        like += [self.encoder.embed_text(text) for text in query.texts]
        unlike = [*query.unlike_vectors, *(embed(self.read_picture(image)) for image in query.unlike_images)]
        unlike += [self.encoder.embed_text(text) for text in query.unlike_texts]
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
        self,
        nearest: Callable[[int], Hits],
        k: int,
        excluded: Int64,
        is_new: Callable[[Int64], Bool] | None = None,
        seen: Int64 = NO_ROWS,
    ) -> Hits:
        """Return the first k rows of `nearest(n)` that are not excluded or seen and `is_new`, n doubled until k are."""
        if k < 1:
            raise BadConfig(f"k is at least 1, got {k}")
        n = max(k, DEPTH) + len(excluded) + len(seen)
        while True:
            scores, row_ids = nearest(n)
            keep = ~np.isin(row_ids, [*excluded, *seen])
            if is_new is not None:
                keep[keep] = is_new(np.concatenate([seen, row_ids[keep]]))[len(seen) :]
            if keep.sum() >= k or len(row_ids) < n:
                return scores[keep][:k], row_ids[keep][:k]
            n *= 2

    def _confidence(self, nearest: Callable[[int], Hits], excluded: Int64) -> float | None:
        """Return how likely one of the first hits is relevant, None where the release has no model of that."""
        if self._confidence_model is None:
            return None
        scores, row_ids = self._best(nearest, DEPTH, excluded)
        if not len(row_ids):
            return 0.0
        categories = self._items.values("category", row_ids[:N_HITS])
        codes = [-1 if name is None else categories.index(name) for name in categories]
        padded = np.pad(codes, (0, N_HITS - len(codes)), constant_values=-1)
        density = np.array([self._density(int(row_ids[0]))])
        features = hit_features(scores[None].astype(np.float64), density, padded[None])
        return float(self._confidence_model.probability(features)[0])

    def _density(self, row: int) -> float:
        """Return the mean cosine of a row with its nearest `DEPTH` others; measured once."""
        density = self._densities.get(row)
        if density is None:
            rows = np.array([row], np.int64)
            scores, _ = self._best(partial(self._nearest, self._index.vectors_of(rows)[0], None), DEPTH, rows)
            if len(self._densities) >= KNOWN_DENSITIES:
                self._densities.clear()
            self._densities[row] = density = float(mean_cosine(scores[None].astype(np.float64))[0])
        return density

    @opened_once
    def _confidence_model(self) -> Confidence | None:
        try:
            part = Report.open(self._store, self.release.report).part(CONFIDENCE_FILE)
            return Confidence.model_validate_json(self._store.local_path(part.key, part.sha256).read_bytes())
        except (NotFound, ShardCorrupt, ValidationError):  # an older report, or a lost one: a search does without it
            return None

    def _nearest(self, vector: Float32, selected: Selected | None, n: int) -> Hits:
        """Return the n nearest of the selected rows, or all of them where there are fewer."""
        n_rows = selected.only.n_rows if selected else self._index.n_rows
        scores, row_ids = self._search(np.atleast_2d(vector), max(1, min(n, n_rows)), selected)
        is_hit = row_ids[0] >= 0
        return scores[0][is_hit], row_ids[0][is_hit]

    def _classified(self, vector: Float32, of_classes: Selected, selected: Selected | None, n: int) -> Hits:
        """Return the n nearest rows: those of the query's classes first, then the other selected ones."""
        first_scores, first = self._nearest(vector, of_classes, n)
        scores, row_ids = self._nearest(vector, selected, n)
        is_other = ~np.isin(row_ids, of_classes.row_ids)
        return np.concatenate([first_scores, scores[is_other]])[:n], np.concatenate([first, row_ids[is_other]])[:n]

    def _search(self, vectors: Float32, k: int, selected: Selected | None) -> tuple[Float32, Int64]:
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

    def _selected(self, where: str) -> Selected | None:
        return self._recent(where.strip()) if where.strip() else None

    def _select_classes(self, classes: Int32, selected: Selected | None) -> Selected:
        row_ids, likeliest = self._likeliest_classes
        of_classes = row_ids[np.isin(likeliest, classes[classes >= 0])]
        if selected:
            of_classes = np.intersect1d(of_classes, selected.row_ids, assume_unique=True)
        return Selected(of_classes, self._index.select(of_classes))

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


def _count(
    items: Items, index: ShardedIndex, select: Callable[[str], Selected], names: tuple[str, ...], where: str
) -> Counts:
    rows = index.row_ids()
    return count_facets(items, rows[np.isin(rows, select(where).row_ids)] if where else rows, names)
