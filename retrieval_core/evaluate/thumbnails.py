"""Thumbnails of items, embedded in an HTML page as base64."""

from __future__ import annotations

import base64
import logging

import polars as pl

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import VitrineError
from retrieval_core.images import decode, thumbnail

log = logging.getLogger(__name__)
THUMBNAIL_PX = 160
FROM_SOURCE = PictureReader()


class Thumbnail(Value):
    """A thumbnail with its caption; `jpeg` is base64, "" if the picture cannot be read.

    `mark` says whether a hit shares what the query is judged by, None if that is not known or no hit is shown.
    """

    item_id: str
    caption: str
    jpeg: str
    score: float | None = None
    mark: bool | None = None


def item_picture(
    items: pl.DataFrame,
    row: int,
    score: float | None = None,
    mark: bool | None = None,
    pictures: PictureReader = FROM_SOURCE,
) -> Thumbnail:
    """Return the thumbnail of one row, captioned by its category or else its labels; empty if unreadable."""
    item = items.row(row, named=True)
    try:
        jpeg = jpeg_base64(decode(pictures.read(item)))
    except VitrineError as error:  # a picture removed since it was embedded leaves a gap, it does not fail the run
        log.warning("no thumbnail of %s: %s", item["item_id"], error)
        jpeg = ""
    caption = item["category"] or ", ".join(item["labels"][:6])
    return Thumbnail(item_id=item["item_id"], caption=caption, jpeg=jpeg, score=score, mark=mark)


def jpeg_base64(image: UInt8) -> str:
    """Return a JPEG thumbnail of an (h, w, 3) uint8 picture in base64."""
    return base64.b64encode(thumbnail(image, THUMBNAIL_PX)).decode("ascii")
