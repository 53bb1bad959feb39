"""Segment pictures: masks of the product, from a trained segmenter on ONNX Runtime."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.pictures import Picture, read_picture
from retrieval_core.config import MaskConfig
from retrieval_core.errors import DimensionMismatch, ImageRefused, NotFound, WeightsInvalid
from retrieval_core.images import DEFAULT_MAX_PIXELS, RGB, Preprocess, fit, prepare_for_many
from retrieval_core.mask.quality import Mask, distrust

BATCHES_AHEAD = 2  # decoded during the forward pass of another


def square_of(size_px: int) -> Preprocess:
    """Return how pictures are squashed to the square of a segmenter of `size_px`, in training and in use."""
    return Preprocess(size_px=size_px, crop="squash", interpolation="bilinear")


class Segmented(NamedTuple):
    """Masks in the order of the pictures, without those that could not be read.

    `masks` are (s, s) bool, True on the product; `reasons` say why a mask is not trusted, "" where it is.
    """

    content_ids: list[str]
    masks: list[Mask]
    reasons: list[str]


class SegmenterEngine:
    """A trained segmenter on ONNX Runtime's CPU provider.

    `threads` 0 uses every core. Raises `WeightsInvalid` when the file is no segmenter of `size_px`.
    """

    def __init__(self, onnx_path: Path, size_px: int, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait for the next batch would take the cores from the decoders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise WeightsInvalid(f"{onnx_path} is not a readable ONNX model: {error}") from error
        shape = self._session.get_inputs()[0].shape
        if shape[1:] != [size_px, size_px, 3]:
            raise WeightsInvalid(f"{onnx_path} takes pixels of shape {shape}; expected (n, {size_px}, {size_px}, 3)")
        self.size_px = size_px

    def predict(self, pixels: UInt8) -> Mask:
        """Return (n, s, s) bool, True on the product, for (n, s, s, 3) uint8. Raises `DimensionMismatch`."""
        expected = (self.size_px, self.size_px, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            raise DimensionMismatch(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 (n, *{expected})")
        if not len(pixels):
            return np.zeros((0, self.size_px, self.size_px), np.bool_)
        (probability,) = self._session.run(None, {"pixels": pixels})
        mask: Mask = probability > 0.5
        return mask


def segment(
    pictures: Sequence[Picture],
    engine: SegmenterEngine,
    config: MaskConfig,
    threads: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_batch: Callable[[int], None] | None = None,
) -> Segmented:
    """Return the masks of pictures, each at the engine's square, to be stretched back over its picture.

    Threads decode during the forward passes; the order is kept. A picture that is absent, cannot be decoded or no
    longer has its content id is left out. `on_batch` is called with the number of pictures of each batch. Raises
    `StoreUnavailable`.
    """
    square = square_of(engine.size_px)
    out = Segmented([], [], [])
    for batch in load_batches(pictures, lambda image: fit(image, square), config.batch_size, threads, max_pixels):
        if batch.images:
            masks = engine.predict(np.stack(batch.images))
            out.content_ids.extend(batch.content_ids)
            out.masks.extend(masks)
            out.reasons.extend(distrust(mask, config) for mask in masks)
        if on_batch:
            on_batch(batch.n_pictures)
    return out


class Batch(NamedTuple):
    """The pictures of a batch that could be read, and how many there were."""

    content_ids: list[str]
    images: list[RGB]
    n_pictures: int


def load_batches(
    pictures: Sequence[Picture], prepare: Callable[[RGB], RGB], batch_size: int, threads: int, max_pixels: int
) -> Iterator[Batch]:
    """Yield batches of decoded pictures in their order, each passed through `prepare`; threads decode ahead.

    A picture that is absent, cannot be decoded or no longer has its content id is left out.
    """

    def load(picture: Picture) -> RGB | None:
        try:
            return prepare(read_picture(picture, max_pixels))
        except (NotFound, ImageRefused):
            return None

    prepare_for_many()
    batches = [pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size)]
    for batch, images in zip(batches, _load_ahead(batches, load, threads), strict=True):
        readable = [(pic.content_id, image) for pic, image in zip(batch, images, strict=True) if image is not None]
        yield Batch([key for key, _ in readable], [image for _, image in readable], len(batch))


def _load_ahead(
    batches: Sequence[Sequence[Picture]], load: Callable[[Picture], RGB | None], threads: int
) -> Iterator[list[RGB | None]]:
    """Yield the loaded pictures of each batch in order, while threads load those of the next few."""
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    pending: deque[list[Future[RGB | None]]] = deque()
    try:
        for batch in batches:
            pending.append([pool.submit(load, picture) for picture in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
