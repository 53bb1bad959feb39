"""Time the networks of a variant on pictures of the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.manifests import Backbone, Classifier, Detector, Ref, Segmenter
from retrieval_core.artifacts.pictures import PictureReader, usable_pictures
from retrieval_core.config.stages import CropConfig, Precision
from retrieval_core.embed.classes import ClassifierEngine
from retrieval_core.embed.engine import open_engine
from retrieval_core.errors import ImageRefused, NotFound
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.images import RGB, Preprocess, decode, fit
from retrieval_core.mask.apply import SegmenterEngine, square_of
from retrieval_core.mask.detect import WEIGHTS_FILE, DetectorEngine
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.settings import Settings

N_TIMED = 32
N_RUNS = 3


def decode_sample(items: Sequence[Mapping[str, Any]], pictures: PictureReader, max_pixels: int) -> list[RGB]:
    """Return the first 32 pictures of `items` that can be read. Raises `NotFound` if none can."""
    images = list(islice(_readable(items, pictures, max_pixels), N_TIMED))
    if not images:
        raise NotFound(
            f"none of {len(items)} pictures can be read any more; compare again to take a new snapshot of the source"
        )
    return images


def _readable(items: Sequence[Mapping[str, Any]], pictures: PictureReader, max_pixels: int) -> Iterator[RGB]:
    for item in items:
        try:
            yield decode(pictures.read(item), max_pixels=max_pixels)
        except (ImageRefused, NotFound):
            continue


def time_network(
    settings: Settings, catalog: Ref, network: Ref, config: ComparisonConfig, precision: Precision
) -> float:
    """Return the milliseconds that a network takes for a picture, measured on a random sample of the catalogue."""
    store = settings.open_store()
    shuffled = usable_pictures(store, catalog).sort("item_id").sample(fraction=1.0, shuffle=True, seed=0)
    images = decode_sample(shuffled.to_dicts(), PictureReader(store), config.ingest.max_pixels)
    return ms_per_picture(settings, network, images, config.crop, precision)


def ms_per_picture(
    settings: Settings, network: Ref, images: Sequence[RGB], crop: CropConfig, precision: Precision = "float32"
) -> float:
    """Return the milliseconds per picture that a backbone, classifier, segmenter or detector takes for `images`.

    The median of three runs after a warm-up, with all threads of a task. Decoding and resizing are not included, except
    the resizing of a detector. `crop` configures a detector; `precision` is that of a backbone.
    """
    forward = _forward(settings, network, images, crop, precision)
    forward()
    seconds = []
    for _ in range(N_RUNS):
        started = time.perf_counter()
        forward()
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds)) / len(images)


def _forward(
    settings: Settings, network: Ref, images: Sequence[RGB], crop: CropConfig, precision: Precision
) -> Callable[[], object]:
    """Return a function that runs the network once on the pictures, which are resized beforehand."""
    store, device, threads = settings.open_store(), settings.torch_device, settings.n_threads
    if network.kind == "Detector":
        detector = Detector.open(store, network)
        finder = DetectorEngine(detector.model, detector.local_folder(store) / WEIGHTS_FILE, device, threads)
        return lambda: [finder.box(image, crop) for image in images]
    if network.kind == "Segmenter":
        segmenter = Segmenter.open(store, network)
        size_px = int(segmenter.config["size_px"])
        masker = SegmenterEngine(segmenter.local_folder(store) / ONNX_FILE, size_px, threads)
        return partial(masker.predict, _squares(images, square_of(size_px)))
    if network.kind == "Classifier":
        engine = open_engine(Classifier.open(store, network).local_folder(store), device, threads)
        return partial(ClassifierEngine(engine).classify, _squares(images, engine.preprocess))
    engine = open_engine(Backbone.open(store, network).local_folder(store), device, threads, precision)
    return partial(engine.embed, _squares(images, engine.preprocess))


def _squares(images: Sequence[RGB], preprocess: Preprocess) -> UInt8:
    return np.stack([fit(image, preprocess) for image in images])
