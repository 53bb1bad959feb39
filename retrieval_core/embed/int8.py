"""Calibrate a saved backbone for int8: choose the scales by what its layers compute for pictures of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrieval_core.arrays import UInt8
from retrieval_core.embed.backbones import GRAPH_FILE, INT8_FILE
from retrieval_core.embed.engine import CPU_ROWS, open_engine
from retrieval_core.errors import BadConfig

LEAST_COSINE = 0.98  # on average, to float32; below, neighbours are other ones
# In float: with all layers in int8, OpenVINO's vectors of EfficientNet-Lite0 were at a cosine of 0.8, so at 0.99.
N_FIRST_LAYERS, N_LAST_LAYERS = 3, 1


class _Batches:
    """Hands pictures to the calibration, which asks for one batch after another until it gets None."""

    def __init__(self, pixels: UInt8) -> None:
        starts = range(0, len(pixels), CPU_ROWS)
        self._batches: Iterator[UInt8] = (pixels[start : start + CPU_ROWS] for start in starts)

    def get_next(self) -> dict[str, UInt8] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def calibrate(folder: Path, pixels: UInt8) -> float:
    """Write `model-int8.onnx` beside the `model.onnx` of a saved backbone; return its mean cosine to float32.

    The convolutions between the first and the last compute in int8, with a scale for each channel of their weights and
    one for their inputs, by the range that (n, size, size, 3) uint8 `pixels` give. Equal pictures give equal bytes.
    Raises `BadConfig` where the machine cannot run it, the network has no such convolutions, or the cosine on `pixels`
    is below `LEAST_COSINE`.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    other = "set embed.precision to bfloat16 or float32"
    layers = [node.name for node in onnx.load(folder / GRAPH_FILE).graph.node if node.op_type == "Conv"]
    if len(layers) <= N_FIRST_LAYERS + N_LAST_LAYERS:
        raise BadConfig(f"int8 is for networks of many convolutions, this one has {len(layers)}; {other}")
    quantize_static(
        folder / GRAPH_FILE,
        folder / INT8_FILE,
        _Batches(pixels),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Clip", "Relu"],
        nodes_to_exclude=[*layers[:N_FIRST_LAYERS], *layers[-N_LAST_LAYERS:]],
    )
    exact, rounded = (open_engine(folder, "cpu", 1, precision).embed(pixels) for precision in ("float32", "int8"))
    cosine = float(np.mean((exact * rounded).sum(axis=1)))
    if cosine < LEAST_COSINE:
        raise BadConfig(
            f"int8 vectors are at a mean cosine of {cosine:.3f} from float32 on {len(pixels)} pictures of the "
            f"catalogue, at least {LEAST_COSINE} is expected; {other}"
        )
    return cosine
