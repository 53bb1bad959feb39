"""What the HTTP API answers with: releases opened by name, searches, counts of values, and pictures made small."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Sequence
from functools import lru_cache
from weakref import WeakValueDictionary

from deployments.serve.api.answers import (
    FacetsAnswer,
    ItemsAnswer,
    ReleaseAnswer,
    ReleaseDetails,
    SearchAnswer,
    ViewAnswer,
)
from deployments.serve.api.cursors import Cursor, write_cursor
from deployments.serve.api.requests import FacetsRequest, ItemsRequest, PictureRequest, SearchRequest, ViewRequest
from deployments.serve.metrics import Exporter
from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Backbone, Release
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.filters import one_of_each, parse_where
from retrieval_core.images import RGB, cut, thumbnail
from retrieval_core.search.hits import Hit
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.query import MODES, Mode, Query
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

THUMBNAIL_PX = 480  # larger pictures are not cached
N_CACHED_THUMBNAILS = 4_000  # of about 20 kB each
N_OPEN_RELEASES = 3  # besides production
N_LISTED_RELEASES = 50


class SearchService:
    """Searches the releases of a store; may be used from many threads."""

    def __init__(self, store: Store, settings: Settings, exporter: Exporter) -> None:
        self._store, self._settings, self.measurements = store, settings, exporter.measurements
        self._production = exporter.live = LiveRelease(store, releases.PRODUCTION, settings)
        self._open_release = lru_cache(N_OPEN_RELEASES)(lambda fingerprint: open_release(store, fingerprint, settings))
        # The cache outlives the releases: two of them with one catalogue show the same pictures.
        self._shown: WeakValueDictionary[str, OpenRelease] = WeakValueDictionary()
        self._thumbnail = lru_cache(N_CACHED_THUMBNAILS)(self._read_thumbnail)

    def close(self) -> None:
        """Stop following production."""
        self._production.close()

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
            facets = {name: self._counts_of(release, request, name) for name in request.facets}
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

    def _counts_of(self, release: OpenRelease, request: SearchRequest | FacetsRequest, name: str) -> dict[str, int]:
        """Return the counts of the values of one name, among the items that match everything chosen of the others."""
        return release.facets([name], filter_of(request, name))[name]

    def check(self) -> None:
        """Search production for a picture. Raises `VitrineError` where that fails."""
        self._production.current.prepare()

    def facets(self, request: FacetsRequest) -> FacetsAnswer:
        """Count values. Raises what `OpenRelease.facets` raises."""
        release = self.open(request.release)
        counts = release.facets(request.names, filter_of(request))
        chosen = {name: self._counts_of(release, request, name) for name in counts if name in request.filters}
        return FacetsAnswer(release=release.release.fingerprint, facets=counts | chosen)

    def details(self, name: str) -> ReleaseDetails:
        """Return what a release is and what it can be searched by."""
        release = self.open(name).release
        modes: list[Mode] = [mode for mode in MODES if mode != "classified" or release.classes]
        reads_text = Backbone.open(self._store, release.backbone).has_text
        return ReleaseDetails(**self.listed(release).model_dump(), reads_text=reads_text, modes=modes)

    def listed(self, release: Release) -> ReleaseAnswer:
        """Return a release as a list of releases shows it."""
        return ReleaseAnswer(
            release=release.fingerprint,
            created=release.created,
            gate=release.gate,
            rows=release.counts["rows"],
            is_production=self.production(release.fingerprint) is not None,
        )

    def items(self, request: ItemsRequest) -> ItemsAnswer:
        """Return items to start from. Raises what `OpenRelease.sample` raises."""
        release = self.open(request.release)
        items = release.sample(request.k, filter_of(request))
        return ItemsAnswer(release=release.release.fingerprint, items=items)

    def picture(self, request: PictureRequest, item_id: str) -> bytes:
        """Return an item's picture as a JPEG. Raises `NotFound`, `ImageRefused`."""
        release = self.open(request.release)
        if request.side_px > THUMBNAIL_PX:
            return _jpeg(release, item_id, request.side_px)
        catalog = release.release.catalog.name
        self._shown[catalog] = release
        return self._thumbnail(catalog, item_id, request.side_px)

    def _read_thumbnail(self, catalog: str, item_id: str, side_px: int) -> bytes:
        return _jpeg(self._shown[catalog], item_id, side_px)

    def view(self, request: ViewRequest, release: OpenRelease, data: bytes | None) -> ViewAnswer:
        """Return what a search makes of a picture, the file `data` or that of the request's item.

        Raises `ImageRefused`, `NotFound`.
        """
        picture = release.read_picture(data or release.picture_bytes(request.item_ids[0]))
        part = cut(picture, request.box) if request.box else picture
        view = part if is_whole(request, release) else release.apply_view(part)
        return ViewAnswer(
            release=release.release.fingerprint,
            picture=_uri(picture, request.side_px),
            view=None if view is picture else _uri(view, request.side_px),
            box=release.encoder.product_box(picture),
        )


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


def is_whole(request: SearchRequest | ViewRequest, release: OpenRelease) -> bool:
    """Return whether pictures stay as they are: as asked, or where a release that crops them is given the box."""
    return request.whole or (request.box is not None and release.release.variant.view == "crop")


def filter_of(request: SearchRequest | FacetsRequest | ItemsRequest, without: str = "") -> str:
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


def _uri(image: RGB, side_px: int) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(image, side_px)).decode()


def _jpeg(release: OpenRelease, item_id: str, side_px: int) -> bytes:
    return thumbnail(release.read_picture(release.picture_bytes(item_id)), side_px)
