"""Segment pictures: masks of the product, from a trained segmenter on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval_core.arrays import UInt8
from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import DimensionMismatch, WeightsInvalid
from retrieval_core.images import RGB, Preprocess, fit
from retrieval_core.mask.quality import Mask, distrust


def square_of(size_px: int) -> Preprocess:
    """Return how pictures are squashed to the square of a segmenter of `size_px`, in training and in use."""
    return Preprocess(size_px=size_px, crop="squash", interpolation="bilinear")


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


def segment(engine: SegmenterEngine, config: MaskConfig, image: RGB) -> tuple[Mask, str]:
    """Return the mask of an upright (h, w, 3) uint8 picture and why it is not trusted, "" where it is.

    The mask is at the engine's square, to be stretched back over the picture.
    """
    mask: Mask = engine.predict(fit(image, square_of(engine.size_px))[None])[0]
    return mask, distrust(mask, config)
