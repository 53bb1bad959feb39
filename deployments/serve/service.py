"""What the page and the HTTP API search with: releases opened by name, searches answered, pictures shrunk."""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import polars as pl

from deployments.serve.api.answers import SearchAnswer
from deployments.serve.api.cursors import Cursor, write_cursor
from deployments.serve.api.requests import SearchRequest
from deployments.serve.metrics import Exporter
from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.artifacts.manifests import Backbone, Ref, Release
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt, VitrineError
from retrieval_core.filters import one_of_each, parse_where
from retrieval_core.images import RGB, decode, thumbnail
from retrieval_core.search.hits import Hit
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

THUMBNAIL_PX, QUERY_PX = 320, 480
N_CACHED_THUMBNAILS = 4_000  # of about 15 kB each
N_OPEN_RELEASES = 3  # besides production
N_EXAMPLES = 12
N_LISTED_RELEASES = 50


class Example(NamedTuple):
    """An item that the page offers to start from."""

    item_id: str
    category: str | None
    image_uri: str


class Answer(NamedTuple):
    """The hits of one release and how long the search took."""

    release: OpenRelease
    hits: list[Hit]
    seconds: float


class SearchService:
    """Searches the releases of a store; may be used from many threads."""

    def __init__(self, store: Store, settings: Settings, exporter: Exporter) -> None:
        self._store, self._settings, self.measurements = store, settings, exporter.measurements
        self._production = exporter.live = LiveRelease(store, releases.PRODUCTION, settings)
        self._open_release = lru_cache(N_OPEN_RELEASES)(lambda fingerprint: open_release(store, fingerprint, settings))
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="thumbnails")
        # The cache outlives the releases: two of them with one catalogue show the same pictures.
        self._shown: WeakValueDictionary[str, OpenRelease] = WeakValueDictionary()
        self._cached_thumbnail = lru_cache(N_CACHED_THUMBNAILS)(self._read_thumbnail)

    def close(self) -> None:
        """Stop following production and release the threads."""
        self._production.close()
        self._pool.shutdown()

    def open(self, name: str = releases.PRODUCTION) -> OpenRelease:
        """Return the current production, or the release whose fingerprint begins with `name`.

        Raises `NotFound`, and `BadConfig` for anything that cannot be a fingerprint.
        """
        if production := self.production(name):
            return production
        if not re.fullmatch("[0-9a-f]{4,32}", name):
            raise BadConfig(f"{name!r} names no release; expected production, or a fingerprint or the start of one")
        try:
            return self._open_release(releases.get_release(self._store, name).fingerprint)
        except NotFound as error:
            raise NotFound(f"there is no release {name!r} any more, or there never was") from error

    def production(self, name: str = releases.PRODUCTION) -> OpenRelease | None:
        """Return the current production if that is its name or its fingerprint, without reading the store."""
        current = self._production.current
        return current if name in (releases.PRODUCTION, current.release.fingerprint) else None

    def list_releases(self) -> list[Release]:
        """Return the last releases, the newest first."""
        return releases.list_releases(self._store)[: -N_LISTED_RELEASES - 1 : -1]

    def search(self, request: SearchRequest) -> Answer:
        """Search with the texts, items and files of pictures of a request. Raises what `OpenRelease.search` raises."""
        release = self.open(request.release)
        started = time.perf_counter()
        hits = self.answer(release, request, query_of(request)).hits
        return Answer(release, hits, time.perf_counter() - started)

    def answer(
        self, release: OpenRelease, request: SearchRequest, query: Query, seen: Sequence[int] = ()
    ) -> SearchAnswer:
        """Search a release; `seen` are the rows of the pages before. Raises what `OpenRelease.search` raises."""
        where = filter_of(request)
        try:
            with self.measurements.stage("search"):
                ranking = release.rank(
                    query,
                    request.k,
                    mode=request.mode,
                    where=where,
                    collapse=request.collapse,
                    by_product=not (request.all_items or request.collapse),
                    min_confidence=request.min_confidence,
                    seen=seen,
                )
            with self.measurements.stage("describe"):
                hits = [_with_fields(hit, request.fields) for hit in release.describe(ranking)]
            facets = {name: release.facets([name], filter_of(request, name))[name] for name in request.facets}
        except NotFound as error:
            if self._store.url in str(error):
                raise ShardCorrupt(f"release {release.release.fingerprint} is incomplete: {error}") from error
            raise
        name = release.release.fingerprint
        cursor = Cursor(name, (*seen, *ranking.row_ids.tolist()))
        return SearchAnswer(
            query_id=uuid.uuid4().hex,
            release=name,
            hits=hits,
            facets=facets if request.facets else None,
            next_cursor=write_cursor(request, cursor) if len(hits) == request.k else None,
        )

    def check(self) -> None:
        """Search production for a picture. Raises `VitrineError` where that fails."""
        self._production.current.prepare()

    def reads_text(self, release: OpenRelease) -> bool:
        """Return whether a release can be searched by words."""
        return Backbone.open(self._store, release.release.backbone).has_text

    def query_pictures(self, release: OpenRelease, request: SearchRequest) -> list[tuple[str, str]]:
        """Return captions and `data:` URIs: the picture of the query and, if it differs, what the model sees of it."""
        if request.images:
            caption, data = "your picture", request.images[0]
        elif request.item_ids:
            caption, data = f"item {request.item_ids[0]}", release.picture_bytes(request.item_ids[0])
        else:
            return []
        picture = decode(data)
        pictures = [(caption, picture_uri(picture))]
        view = picture if request.whole else release.apply_view(picture)
        if not np.array_equal(view, picture):
            pictures.append(("as it was searched", picture_uri(view)))
        return pictures

    def thumbnails(self, release: OpenRelease, item_ids: Sequence[str]) -> list[str]:
        """Return a `data:` URI for the picture of each item of a release, "" for one that cannot be read."""
        catalog = release.release.catalog.name
        self._shown[catalog] = release
        return list(self._pool.map(lambda item_id: self._thumbnail(catalog, item_id), item_ids))

    def _read_thumbnail(self, catalog: str, item_id: str) -> str:
        return picture_uri(decode(self._shown[catalog].picture_bytes(item_id)), THUMBNAIL_PX)

    def _thumbnail(self, catalog: str, item_id: str) -> str:
        try:
            return self._cached_thumbnail(catalog, item_id)
        except VitrineError:
            return ""

    def examples(self, release: OpenRelease) -> list[Example]:
        """Return items of different products and of as many categories as possible, always the same ones."""
        return _examples(self._store, release.release.catalog)


def query_of(
    request: SearchRequest, vectors: Sequence[Float32] | None = None, unlike_vectors: Sequence[Float32] = ()
) -> Query:
    """Return the query of a request, with the vectors of its pictures where they are embedded already."""
    is_embedded = vectors is not None
    return Query(
        images=() if is_embedded else request.images,
        texts=request.texts,
        item_ids=request.item_ids,
        unlike_images=() if is_embedded else request.unlike.images,
        unlike_texts=request.unlike.texts,
        vectors=tuple(vectors or ()),
        unlike_vectors=tuple(unlike_vectors),
        whole=request.whole,
    )


def filter_of(request: SearchRequest, without: str = "") -> str:
    """Return the filter of a request: `where`, and one of the values of every name of `filters` but `without`."""
    chosen = one_of_each({name: values for name, values in request.filters.items() if name != without})
    if request.where.strip() and chosen:
        parse_where(request.where)  # an error names a position in what the client wrote
        return f"({request.where}) and {chosen}"
    return request.where or chosen


def _with_fields(hit: Hit, names: Sequence[str] | None) -> Hit:
    if names is None:
        return hit
    return hit.model_copy(update={"fields": {name: value for name, value in hit.fields.items() if name in names}})


def picture_uri(image: RGB, max_side_px: int = QUERY_PX) -> str:
    """Return an (h, w, 3) uint8 picture as a `data:` URI of a JPEG with sides of at most `max_side_px`."""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(image, max_side_px)).decode()


@lru_cache(8)
def _examples(store: Store, catalog: Ref) -> list[Example]:
    columns = ["item_id", "category", "image_uri"]
    items = Items.open(store, catalog).columns([*columns, "product_id", "status"])
    product = pl.coalesce("product_id", "item_id")
    usable = items.filter(pl.col("status") == "ok").sort("item_id")
    one_per_product = usable.unique(product, keep="first", maintain_order=True)
    rank = pl.col("item_id").cum_count().over("category")  # the first of each category, then the second, ...
    ordered = one_per_product.with_columns(rank=rank).sort("rank", "category", "item_id", nulls_last=True)
    return [Example(*row) for row in ordered.head(N_EXAMPLES).select(columns).iter_rows()]
