"""Mask and embed pictures, reading each once; some are decoded while others are in a forward pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from retrieval_core.arrays import Bool, Float32, UInt8
from retrieval_core.artifacts.manifests import Reject
from retrieval_core.artifacts.parts import MaskRow
from retrieval_core.artifacts.pictures import Picture, read_picture
from retrieval_core.config.stages import View
from retrieval_core.embed.engine import DEVICE_CALLS, Engine
from retrieval_core.errors import ImageRefused, NotFound
from retrieval_core.images import RGB, Preprocess, apply_mask, crop_to_mask, fit, prepare_for_many

Value = TypeVar("Value")
Cut = TypeVar("Cut")
Result = TypeVar("Result")

READ_ROWS = 8  # pictures that a thread reads at once for a device, whose batches gather many of them
MANY = 300  # pictures whose resizing without torch takes about as long as importing torch
AHEAD = 4  # batches for each thread that may be ready before an earlier one is

# (h, w) bool, True on the product, to be stretched over the picture; and why it is not trusted, "" where it is.
FoundMask = tuple[Bool, str]
# Finds the product in an upright (h, w, 3) uint8 picture; several threads call it at the same time.
Masker = Callable[[RGB], FoundMask]


class Masks(NamedTuple):
    """The content ids of the pictures to mask, what masks them, and the stored masks of other pictures."""

    missing: Collection[str] = ()
    masker: Masker | None = None
    stored: Mapping[str, MaskRow] = {}

    def mask(self, content_id: str, image: RGB) -> FoundMask | None:
        """Return the mask of a picture, found or stored; None where it has none."""
        if self.masker and content_id in self.missing:
            return self.masker(image)
        row = self.stored.get(content_id)
        return (row.array(), row.reason) if row else None


class Vectors(NamedTuple):
    """`vectors` is (n, dim) float32 of unit length, one row for each of `content_ids`."""

    content_ids: list[str]
    vectors: Float32


class ViewToEmbed(NamedTuple):
    """A view of the pictures: the content ids that lack its vector, the margin of a crop, and the engine."""

    view: View
    missing: Collection[str]
    margin: float
    engine: Engine

    def square(self, image: RGB, mask: FoundMask | None) -> RGB:
        """Return the view of a picture as the engine takes it."""
        return fit(show(image, mask, self.view, self.margin), self.engine.preprocess)

    def embed(self, squares: Mapping[str, RGB]) -> Vectors:
        """Return the vectors of squares by content id."""
        if not squares:
            return Vectors([], np.empty((0, self.engine.dim), np.float32))
        return Vectors(list(squares), self.engine.embed(np.stack(list(squares.values()))))


class Extracted(NamedTuple):
    """What was made of pictures, in their order: new masks by content id, the vectors of each view, and rejects."""

    masks: dict[str, FoundMask]
    vectors: dict[View, Vectors]
    rejects: list[Reject]


def extract(
    pictures: Sequence[Picture],
    masks: Masks,
    views: Sequence[ViewToEmbed],
    batch_size: int,
    threads: int,
    max_pixels: int,
    on_batch: Callable[[int], None] | None = None,
) -> Extracted:
    """Read each picture once; return the missing masks and vectors, and a `Reject` for each picture without any.

    A picture is refused when its file is missing, its bytes no longer have its content id, or they cannot be decoded;
    the reject's `last_seen` is left empty, so that the result does not depend on the date. Where a mask is trusted (its
    reason is empty) the picture is embedded in the given view, otherwise raw. A thread holds the pixels of one picture
    at a time. `on_batch` is called with the number of pictures of each batch. Raises `StoreUnavailable`.
    """
    views = [view._replace(engine=view.engine.for_worker()) for view in views]

    def cut(batch: Sequence[Picture]) -> _Cut:
        return _cut_batch(batch, masks, views, max_pixels)

    def embed(cuts: Sequence[_Cut]) -> Extracted:
        return Extracted(
            masks={key: mask for cut in cuts for key, mask in cut.masks.items()},
            vectors={
                view.view: view.embed({key: square for cut in cuts for key, square in cut.squares[number].items()})
                for number, view in enumerate(views)
            },
            rejects=[reject for cut in cuts for reject in cut.rejects],
        )

    batches = list(
        cut_and_run(pictures, cut, embed, pace_of([view.engine for view in views], batch_size, threads), on_batch)
    )
    return Extracted(
        masks={key: mask for batch in batches for key, mask in batch.masks.items()},
        vectors={
            view.view: _join([view.embed({}), *(batch.vectors[view.view] for batch in batches)]) for view in views
        },
        rejects=[reject for batch in batches for reject in batch.rejects],
    )


class _Cut(NamedTuple):
    """The squares of a batch of pictures by content id, for each view; its new masks and its rejects."""

    squares: list[dict[str, RGB]]
    masks: dict[str, FoundMask]
    rejects: list[Reject]


def _cut_batch(batch: Sequence[Picture], masks: Masks, views: Sequence[ViewToEmbed], max_pixels: int) -> _Cut:
    cut = _Cut([{} for _ in views], {}, [])
    for picture, image in _read(batch, max_pixels, cut.rejects):
        key = picture.content_id
        mask = masks.mask(key, image)
        if mask and key in masks.missing:
            cut.masks[key] = mask
        for view, squares in zip(views, cut.squares, strict=True):
            if key in view.missing:
                squares[key] = view.square(image, mask)
    return cut


def _join(batches: Sequence[Vectors]) -> Vectors:
    content_ids = [key for batch in batches for key in batch.content_ids]
    return Vectors(content_ids, np.concatenate([batch.vectors for batch in batches]))


def _read(pictures: Iterable[Picture], max_pixels: int, rejects: list[Reject]) -> Iterator[tuple[Picture, RGB]]:
    """Yield the pictures that can be read, with their pixels; add a reject for each of the others."""
    for picture in pictures:
        try:
            image = read_picture(picture, max_pixels)
        except (ImageRefused, NotFound) as error:
            rejects.append(_reject(picture, str(error)))
        else:
            yield picture, image


def show(image: RGB, mask: FoundMask | None, view: View, margin: float) -> RGB:
    """Return the view of an (h, w, 3) uint8 picture; the picture itself where it has no mask that is trusted."""
    if mask is None or mask[1]:
        return image
    match view:
        case "raw":
            return image
        case "masked":
            return apply_mask(image, mask[0])
        case "crop":
            return crop_to_mask(image, mask[0], margin)


class RunsPictures(Protocol):
    """An engine, or what classifies with one."""

    max_rows: int
    is_device: bool


class Pace(NamedTuple):
    """How pictures are read and run: `n_rows` at a time in each of `threads` threads.

    A device runs `device_batches` of these batches at once; 0 means that each thread runs those it has read.
    """

    n_rows: int
    threads: int
    device_batches: int = 0


def pace_of(engines: Sequence[RunsPictures], batch_size: int, threads: int) -> Pace:
    """Return how fast the engines take pictures, of which a thread reads `batch_size` at most at a time."""
    n_rows = min([batch_size, *(engine.max_rows for engine in engines)])
    if not any(engine.is_device for engine in engines):
        return Pace(n_rows, threads)
    n_read = min(n_rows, READ_ROWS)
    return Pace(n_read, threads, max(1, min(engine.max_rows for engine in engines) // n_read))


def cut_and_run(
    pictures: Sequence[Picture],
    cut: Callable[[Sequence[Picture]], Cut],
    run: Callable[[Sequence[Cut]], Result],
    pace: Pace,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """Yield what `run` makes of what `cut` made of batches of pictures, in their order.

    On the CPU each thread cuts a batch and runs it: while one waits for the disk, the others work. A device takes the
    batches of many threads at once, which cut the next ones meanwhile. No result depends on the number of threads.
    """
    if not pace.device_batches:
        yield from in_batches(pictures, lambda batch: run([cut(batch)]), pace.n_rows, pace.threads, on_batch)
        return
    with closing(in_batches(pictures, cut, pace.n_rows, pace.threads, on_batch)) as cuts:
        groups = iter(lambda: list(islice(cuts, pace.device_batches)), [])
        yield from _in_order(groups, run, DEVICE_CALLS, DEVICE_CALLS + 1)


def in_batches(
    pictures: Sequence[Picture],
    work: Callable[[Sequence[Picture]], Result],
    n_rows: int,
    threads: int,
    on_batch: Callable[[int], None] | None = None,
) -> Generator[Result]:
    """Yield `work(batch)` for batches of `n_rows` pictures, in their order; call `on_batch` with the size of each.

    The batches do not depend on the number of threads, each of which holds one batch in memory.
    """
    if len(pictures) >= MANY:
        prepare_for_many()
    batches = [pictures[start : start + n_rows] for start in range(0, len(pictures), n_rows)]
    with closing(_in_order(batches, work, threads, AHEAD * threads)) as results:
        for batch, result in zip(batches, results, strict=True):
            yield result
            if on_batch:
                on_batch(len(batch))


def _in_order(
    values: Iterable[Value], work: Callable[[Value], Result], threads: int, n_ahead: int
) -> Generator[Result]:
    """Yield `work(value)` for values, in their order, of which at most `n_ahead` are begun, waiting or done."""
    pool, pending = ThreadPoolExecutor(threads, thread_name_prefix="embed"), deque[Future[Result]]()
    try:
        for value in values:
            pending.append(pool.submit(work, value))
            if len(pending) == n_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
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
        self._masks, self._view, self._margin = Masks(stored=masks or {}), view, margin
        self._preprocess, self._max_pixels = preprocess, max_pixels

    def __call__(self, batch: Sequence[Picture]) -> Loaded:
        size_px = self._preprocess.size_px
        loaded = Loaded([], np.empty((len(batch), size_px, size_px, 3), np.uint8), [])
        for picture, image in _read(batch, self._max_pixels, loaded.rejects):
            shown = show(image, self._masks.mask(picture.content_id, image), self._view, self._margin)
            loaded.pixels[len(loaded.content_ids)] = fit(shown, self._preprocess)
            loaded.content_ids.append(picture.content_id)
        return loaded._replace(pixels=loaded.pixels[: len(loaded.content_ids)])


def _reject(picture: Picture, reason: str) -> Reject:
    return Reject(
        item_id=picture.item_id,
        image_uri=picture.image_uri,
        content_id=picture.content_id,
        reason=reason,
        last_seen="",
    )
