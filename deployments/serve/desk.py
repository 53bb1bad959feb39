"""What the search app does between a visitor's question and the page: open releases, ask them, shrink pictures."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, ValidationError

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.artifacts.manifests import Backbone, Hit, Ref, Release, Value
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.images import RGB, decode, thumbnail
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.release import Mode, OpenRelease, Query, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

MAX_K = 100
MAX_BYTES = 20_000_000  # of a picture
MAX_TEXT = 1_000
THUMBNAIL_PX, QUERY_PX = 320, 480
N_THUMBNAILS = 4_000  # kept, some 15 kB each
N_OPENED = 3  # releases beside production
N_EXAMPLES = 12
N_LISTED = 50
COLUMNS = ["item_id", "category", "image_uri"]


class Asked(Value):
    """What a visitor looks for; pictures are a file's bytes, empty where none was given."""

    picture: bytes = b""
    text: str = Field("", max_length=MAX_TEXT)
    item: str = Field("", max_length=MAX_TEXT)
    unlike_picture: bytes = b""
    unlike_text: str = Field("", max_length=MAX_TEXT)
    where: str = ""
    k: int = Field(10, ge=1, le=MAX_K)
    collapse: bool = False
    whole: bool = False
    mode: Mode = "nearest"

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Raises `BadConfig` for a value of another type or out of bounds."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise refused(error) from error

    def query(self) -> Query:
        """Raises `BadConfig` where there is nothing to look for."""
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


def refused(error: ValidationError) -> BadConfig:
    """What is wrong with a visitor's values, in words."""
    problem = error.errors(include_url=False)[0]
    return BadConfig(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")


class Example(NamedTuple):
    """An item to start from."""

    item_id: str
    category: str | None
    image_uri: str


class Answer(NamedTuple):
    """What one release found."""

    release: OpenRelease
    hits: list[Hit]
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        """As `vitrine search --json` prints it."""
        return {"release": self.release.release.fingerprint, "hits": [hit.model_dump() for hit in self.hits]}


class Desk:
    """Answers from the releases of a store; may be used from many threads."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._live = LiveRelease(store, releases.PRODUCTION, settings)
        self._opened = lru_cache(N_OPENED)(lambda fingerprint: open_release(store, fingerprint, settings))
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="thumbnails")

    def close(self) -> None:
        """Look no more for new releases."""
        self._live.close()
        self._pool.shutdown()

    def open(self, name: str = releases.PRODUCTION) -> OpenRelease:
        """Production, as it moves, or a release by the start of its fingerprint. Raises `NotFound`, `BadConfig`."""
        if name == releases.PRODUCTION:
            return self._live.current
        if not re.fullmatch("[0-9a-f]{4,32}", name):
            raise BadConfig(f"{name!r} names no release; expected production, or a fingerprint or the start of one")
        return self._opened(releases.get_release(self._store, name).fingerprint)

    def listed(self) -> list[Release]:
        """The releases to choose from, the newest first."""
        return releases.list_releases(self._store)[: -N_LISTED - 1 : -1]

    def ask(self, asked: Asked, name: str = releases.PRODUCTION) -> Answer:
        """Search one release. Raises what searching raises."""
        release, query = self.open(name), asked.query()
        started = time.perf_counter()
        hits = release.search(query, asked.k, mode=asked.mode, where=asked.where, collapse=asked.collapse)
        return Answer(release, hits, time.perf_counter() - started)

    def reads_text(self, release: OpenRelease) -> bool:
        """Whether a release can be asked in words."""
        return Backbone.open(self._store, release.release.backbone).has_text

    def pictures(self, release: OpenRelease, asked: Asked) -> list[tuple[str, str]]:
        """What was searched with, captions and `data:` URIs: the picture, and what its model sees of it."""
        data = asked.picture or (release.picture(asked.item) if asked.item else b"")
        if not data:
            return []
        picture = decode(data)
        found = [(f"item {asked.item}" if asked.item and not asked.picture else "your picture", picture_uri(picture))]
        seen = picture if asked.whole else release.shown(picture)
        if not np.array_equal(seen, picture):
            found.append(("as it was searched", picture_uri(seen)))
        return found

    def thumbnails(self, release: OpenRelease, image_uris: Sequence[str]) -> list[str]:
        """`data:` URIs of a release's pictures, "" for one that cannot be had now."""
        catalog = release.release.catalog.name
        return list(self._pool.map(lambda image_uri: _thumbnail(catalog, image_uri), image_uris))

    def examples(self, release: OpenRelease) -> list[Example]:
        """Some items of a release, of as many categories as it has; the same ones each time."""
        return _examples(self._store, release.release.catalog)


def picture_uri(image: RGB, max_side_px: int = QUERY_PX) -> str:
    """A JPEG of an (h, w, 3) uint8 picture as a `data:` URI, at most `max_side_px` a side."""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(image, max_side_px)).decode()


def published_at(release: Release) -> str:
    """`21 Nov 2026, 11:51 UTC`."""
    return datetime.fromisoformat(release.created).strftime("%-d %b %Y, %H:%M UTC")


@lru_cache(8)
def _examples(store: Store, catalog: Ref) -> list[Example]:
    items = Items.open(store, catalog).columns([*COLUMNS, "product_id", "status"])
    product, turn = pl.coalesce("product_id", "item_id"), pl.col("item_id").cum_count().over("category")
    ones = items.filter(pl.col("status") == "ok").sort("item_id").unique(product, keep="first", maintain_order=True)
    chosen = ones.with_columns(turn=turn).sort("turn", "category", "item_id", nulls_last=True).head(N_EXAMPLES)
    return [Example(*row) for row in chosen.select(COLUMNS).iter_rows()]


def _thumbnail(catalog: str, image_uri: str) -> str:
    try:
        return _made_thumbnail(catalog, image_uri)
    except VitrineError:
        return ""


@lru_cache(N_THUMBNAILS)
def _made_thumbnail(catalog: str, image_uri: str) -> str:
    """The catalogue is part of the key, as a later one may show another picture under the same address."""
    return picture_uri(decode(read_uri(image_uri)), THUMBNAIL_PX)
