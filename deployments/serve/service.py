"""What the page and the JSON API search with: releases opened by name, requests checked, pictures shrunk."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

import numpy as np
import polars as pl
from pydantic import Field, ValidationError

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.artifacts.manifests import Backbone, Ref, Release, Value
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.images import RGB, decode, thumbnail
from retrieval_core.search.hits import Hit
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.query import Mode, Query
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

MAX_K = 100
MAX_PICTURE_BYTES = 20_000_000
MAX_TEXT_CHARS = 1_000
THUMBNAIL_PX, QUERY_PX = 320, 480
N_CACHED_THUMBNAILS = 4_000  # of about 15 kB each
N_OPEN_RELEASES = 3  # besides production
N_EXAMPLES = 12
N_LISTED_RELEASES = 50


class SearchRequest(Value):
    """What a visitor searches for; pictures are the bytes of a file, empty if none was given."""

    picture: bytes = b""
    text: str = Field("", max_length=MAX_TEXT_CHARS)
    item: str = Field("", max_length=MAX_TEXT_CHARS)
    unlike_picture: bytes = b""
    unlike_text: str = Field("", max_length=MAX_TEXT_CHARS)
    where: str = ""
    k: int = Field(10, ge=1, le=MAX_K)
    collapse: bool = False
    all_items: bool = False
    whole: bool = False
    min_confidence: float = Field(0.0, ge=0, le=1)
    mode: Mode = "nearest"

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Check the values of a request. Raises `BadConfig` for a wrong type or a value out of bounds."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise bad_value(error) from error

    def query(self) -> Query:
        """Return the query of this request. Raises `BadConfig` if there is nothing to look for."""
        if self.is_empty:
            raise BadConfig("nothing to look for: give a picture, words, or an item of the catalogue")
        return Query(
            images=(self.picture,) if self.picture else (),
            texts=(self.text,) if self.text else (),
            item_ids=(self.item,) if self.item else (),
            unlike_images=(self.unlike_picture,) if self.unlike_picture else (),
            unlike_texts=(self.unlike_text,) if self.unlike_text else (),
            whole=self.whole,
        )

    @property
    def is_empty(self) -> bool:
        return not (self.picture or self.text or self.item)


def bad_value(error: ValidationError) -> BadConfig:
    """Return the error that names the first value at fault and what is wrong with it."""
    problem = error.errors(include_url=False)[0]
    return BadConfig(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")


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

    @property
    def document(self) -> dict[str, Any]:
        """The document that `vitrine search --json` prints."""
        return {"release": self.release.release.fingerprint, "hits": [hit.model_dump() for hit in self.hits]}


class SearchService:
    """Searches the releases of a store; may be used from many threads."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._production = LiveRelease(store, releases.PRODUCTION, settings)
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
        if name == releases.PRODUCTION:
            return self._production.current
        if not re.fullmatch("[0-9a-f]{4,32}", name):
            raise BadConfig(f"{name!r} names no release; expected production, or a fingerprint or the start of one")
        return self._open_release(releases.get_release(self._store, name).fingerprint)

    def list_releases(self) -> list[Release]:
        """Return the last releases, the newest first."""
        return releases.list_releases(self._store)[: -N_LISTED_RELEASES - 1 : -1]

    def search(self, request: SearchRequest, name: str = releases.PRODUCTION) -> Answer:
        """Search the release of this name. Raises what `OpenRelease.search` raises."""
        release, query = self.open(name), request.query()
        started = time.perf_counter()
        hits = release.search(
            query,
            request.k,
            mode=request.mode,
            where=request.where,
            collapse=request.collapse,
            by_product=not (request.all_items or request.collapse),
            min_confidence=request.min_confidence,
        )
        return Answer(release, hits, time.perf_counter() - started)

    def reads_text(self, release: OpenRelease) -> bool:
        """Return whether a release can be searched by words."""
        return Backbone.open(self._store, release.release.backbone).has_text

    def query_pictures(self, release: OpenRelease, request: SearchRequest) -> list[tuple[str, str]]:
        """Return captions and `data:` URIs: the picture of the query and, if it differs, what the model sees of it."""
        data = request.picture or (release.picture_bytes(request.item) if request.item else b"")
        if not data:
            return []
        picture = decode(data)
        caption = f"item {request.item}" if request.item and not request.picture else "your picture"
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
