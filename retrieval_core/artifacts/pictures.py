"""The pictures of a catalogue: which there are, and their pixels."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Ref, Value, content_id
from retrieval_core.errors import ImageRefused
from retrieval_core.images import RGB, decode
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri


class Picture(Value):
    """A picture of the catalogue: the id of its bytes, where its file is, and an item that shows it."""

    content_id: str
    image_uri: str
    item_id: str


def usable_pictures(store: Store, catalog: Ref) -> pl.DataFrame:
    """Return content_id, image_uri and item_id of every catalogue row that is not in quarantine."""
    items = load_items(store, catalog.name)
    return items.filter(pl.col("status") == "ok").select("content_id", "image_uri", "item_id")


def read_picture(picture: Picture, max_pixels: int) -> RGB:
    """Read, check and decode a picture: upright (h, w, 3) uint8.

    Raises `ImageRefused` where its bytes changed or cannot be decoded, `NotFound` without its file, and
    `StoreUnavailable`.
    """
    data = read_uri(picture.image_uri)
    actual = content_id(data)
    if actual != picture.content_id:
        raise ImageRefused(f"the file changed during the run: its bytes are {actual}, expected {picture.content_id}")
    return decode(data, max_pixels=max_pixels)
