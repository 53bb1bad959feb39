"""Open what finds the product in the pictures of a catalogue: a segmenter, or a detector whose box is the mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from threading import Lock

from retrieval_core.artifacts.manifests import Detector, Ref, Segmenter
from retrieval_core.config.stages import CropConfig, MaskConfig
from retrieval_core.images import RGB
from retrieval_core.mask.apply import SegmenterEngine, segment
from retrieval_core.mask.detect import WEIGHTS_FILE, DetectorEngine, detect
from retrieval_core.mask.quality import Mask
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.settings import Settings

_DETECTION = Lock()  # a second one at the same time would only compete for the cores or the device's memory


def open_masker(
    settings: Settings, model: Ref, mask: MaskConfig, crop: CropConfig
) -> Callable[[RGB], tuple[Mask, str]]:
    """Return what finds the product in an upright (h, w, 3) uint8 picture by the segmenter or detector `model`.

    It returns a mask to be stretched over the picture, and why that is not trusted, "" where it is. Several threads may
    call it at the same time: each segments on a core of its own, while detections wait for each other.
    """
    if model.kind == "Detector":
        return partial(_detect, _detector_engine(settings, model), crop)
    return partial(segment, _segmenter_engine(settings, model, mask.size_px), mask)


def _detect(engine: DetectorEngine, config: CropConfig, image: RGB) -> tuple[Mask, str]:
    with _DETECTION:
        return detect(engine, config, image)


# Sessions take seconds to open; the shards of one process share them.
@lru_cache(maxsize=1)
def _segmenter_engine(settings: Settings, segmenter: Ref, size_px: int) -> SegmenterEngine:
    store = settings.open_store()
    part = Segmenter.open(store, segmenter).part(ONNX_FILE)
    return SegmenterEngine(store.local_path(part.key, part.sha256), size_px, threads=1)


@lru_cache(maxsize=1)
def _detector_engine(settings: Settings, detector: Ref) -> DetectorEngine:
    store = settings.open_store()
    artifact = Detector.open(store, detector)
    part = artifact.part(WEIGHTS_FILE)
    weights = store.local_path(part.key, part.sha256)
    return DetectorEngine(artifact.model, weights, settings.torch_device, settings.n_threads)
