"""Embed pictures, decoding some while others are in their forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from retrieval_core.arrays import Bool, Float32, UInt8
from retrieval_core.artifacts.manifests import Reject
from retrieval_core.artifacts.parts import MaskRow
from retrieval_core.artifacts.pictures import Picture, read_picture
from retrieval_core.config import View
from retrieval_core.embed.engine import Engine
from retrieval_core.errors import ImageRefused, NotFound
from retrieval_core.images import RGB, Preprocess, apply_mask, crop_to_mask, fit, prepare_for_many

Result = TypeVar("Result")


class Extracted(NamedTuple):
    """`vectors` is (n, dim) float32 of unit length, one row for each of `content_ids`."""

    content_ids: list[str]
    vectors: Float32
    rejects: list[Reject]


def extract(
    pictures: Sequence[Picture],
    masks: Mapping[str, MaskRow] | None,
    view: View,
    margin: float,
    engine: Engine,
    batch_size: int,
    threads: int,
    max_pixels: int,
    on_batch: Callable[[int], None] | None = None,
) -> Extracted:
    """Return vectors of the pictures that can be read, in their order, and a `Reject` for each of the others.

    A picture is refused when its file is missing, its bytes no longer have its content id, or they cannot be decoded;
    the reject's `last_seen` is left empty, so that the result does not depend on the date. Where a mask is trusted (its
    `reason` is empty) the picture is embedded in the given view, otherwise raw. `on_batch` is called with the number of
    pictures of each batch. Raises `StoreUnavailable`.
    """
    worker = engine.for_worker()
    load = SquareLoader(masks, view, margin, engine.preprocess, max_pixels)

    def embed(batch: Sequence[Picture]) -> Extracted:
        loaded = load(batch)
        return Extracted(loaded.content_ids, worker.embed(loaded.pixels), loaded.rejects)

    done = Extracted([], np.empty((len(pictures), engine.dim), np.float32), [])
    for part in in_batches(pictures, embed, min(batch_size, worker.max_rows), threads, on_batch):
        n_done = len(done.content_ids)
        done.vectors[n_done : n_done + len(part.vectors)] = part.vectors
        done.content_ids.extend(part.content_ids)
        done.rejects.extend(part.rejects)
    return done._replace(vectors=done.vectors[: len(done.content_ids)])


def in_batches(
    pictures: Sequence[Picture],
    work: Callable[[Sequence[Picture]], Result],
    n_rows: int,
    threads: int,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """Yield `work(batch)` for batches of `n_rows` pictures, in their order; call `on_batch` with the size of each.

    Each thread decodes a batch and embeds it: while one waits for the device or the disk, the others work, and each
    holds one batch in memory. The batches do not depend on the number of threads.
    """
    batches = [pictures[start : start + n_rows] for start in range(0, len(pictures), n_rows)]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="embed")
    try:
        for batch, result in zip(batches, pool.map(work, batches), strict=True):
            yield result
            if on_batch:
                on_batch(len(batch))
    finally:
        pool.shutdown(cancel_futures=True)


class Loaded(NamedTuple):
    """`pixels` is (n, size, size, 3) uint8, one square for each of `content_ids`."""

    content_ids: list[str]
    pixels: UInt8
    rejects: list[Reject]


class SquareLoader:
    """Reads, checks and decodes pictures and cuts them to squares, in the given view where their mask is trusted."""

    def __init__(
        self,
        masks: Mapping[str, MaskRow] | None,
        view: View,
        margin: float,
        preprocess: Preprocess,
        max_pixels: int,
    ) -> None:
        self._masks, self._view, self._margin = masks or {}, view, margin
        self._preprocess, self._max_pixels = preprocess, max_pixels
        prepare_for_many()

    def __call__(self, batch: Sequence[Picture]) -> Loaded:
        size_px = self._preprocess.size_px
        loaded = Loaded([], np.empty((len(batch), size_px, size_px, 3), np.uint8), [])
        for picture in batch:
            try:
                loaded.pixels[len(loaded.content_ids)] = self._square(picture)
            except (ImageRefused, NotFound) as error:
                loaded.rejects.append(_reject(picture, str(error)))
            else:
                loaded.content_ids.append(picture.content_id)
        return loaded._replace(pixels=loaded.pixels[: len(loaded.content_ids)])

    def _square(self, picture: Picture) -> RGB:
        image = read_picture(picture, self._max_pixels)
        mask = self._masks.get(picture.content_id)
        if mask is not None and not mask.reason:
            image = self._apply_view(image, mask.array())
        return fit(image, self._preprocess)

    def _apply_view(self, image: RGB, mask: Bool) -> RGB:
        match self._view:
            case "raw":
                return image
            case "masked":
                return apply_mask(image, mask)
            case "crop":
                return crop_to_mask(image, mask, self._margin)


def _reject(picture: Picture, reason: str) -> Reject:
    return Reject(
        item_id=picture.item_id,
        image_uri=picture.image_uri,
        content_id=picture.content_id,
        reason=reason,
        last_seen="",
    )
