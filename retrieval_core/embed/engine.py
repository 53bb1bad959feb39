"""Running a saved backbone: ONNX Runtime on the CPU, torch on CUDA, the same vectors to 1e-4."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.backbones import GRAPH_FILE, WEIGHTS_FILE, Description, describe, read_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt, WeightsInvalid
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    import onnxruntime
    from open_clip import CLIP


# A forward pass of a few pictures stays in the cache: at 32, MobileNetV3 costs a seventh more.
ONNX_ROWS = 8
CUDA_ROWS = 1024


class Engine(Protocol):
    """A backbone ready to embed pictures cut by `preprocess`; a forward pass takes at most `max_rows` of them."""

    card: Card
    preprocess: Preprocess
    dim: int
    max_rows: int

    def outputs(self, pixels: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB to (n, dim) float32 as the network gives them, for any n.

        Raises `DimensionMismatch` for squares of another size, `WeightsInvalid` when the weights give no finite vector.
        """

    def embed(self, pixels: UInt8) -> Float32:
        """`outputs` of unit length."""

    def for_worker(self) -> Engine:
        """The engine that each of several threads may call at the same time without getting in the others' way."""


class OnnxEngine:
    """ONNX Runtime on the CPU; each call of `embed` spreads over `threads` threads."""

    max_rows = ONNX_ROWS

    def __init__(self, folder: Path, known: Description, threads: int) -> None:
        self.card, self.preprocess, self.dim = known.card, known.preprocess, known.dim
        self._folder, self._known, self._threads = folder, known, threads

    def outputs(self, pixels: UInt8) -> Float32:
        _check_pixels(pixels, self.preprocess.size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), ONNX_ROWS):
            rows = slice(start, start + ONNX_ROWS)
            vectors[rows] = self._session.run(None, {"pixels": pixels[rows]})[0]
        return _finite(vectors)

    def embed(self, pixels: UInt8) -> Float32:
        return unit_length(self.outputs(pixels))

    def for_worker(self) -> OnnxEngine:
        return self if self._threads == 1 else self._single_threaded

    @cached_property
    def _single_threaded(self) -> OnnxEngine:
        return OnnxEngine(self._folder, self._known, 1)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # Threads that spin while they wait take the core from the one that decodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        graph = self._folder / GRAPH_FILE
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ShardCorrupt(f"{graph} cannot be opened by ONNX Runtime: {error}") from error


class TorchEngine:
    """torch in full float32, on CUDA or (for comparison) on the CPU."""

    max_rows = CUDA_ROWS

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        loaded = read_backbone(folder)
        self.card, self.preprocess, self.dim = loaded.card, loaded.preprocess, loaded.module.dim
        self._device = torch.device(device)
        self._module = loaded.module.to(memory_format=torch.channels_last).to(self._device)
        self._one_at_a_time = Lock()  # more would only fill the device's memory

    def outputs(self, pixels: UInt8) -> Float32:
        import torch

        _check_pixels(pixels, self.preprocess.size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        # cuDNN's default is TF32, whose 10-bit mantissa would part these vectors from the CPU's.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with self._one_at_a_time, torch.inference_mode(), exact:
            for start in range(0, len(pixels), CUDA_ROWS):
                rows = slice(start, start + CUDA_ROWS)
                vectors[rows] = self._module(torch.from_numpy(pixels[rows]).to(self._device)).cpu().numpy()
        return _finite(vectors)

    def embed(self, pixels: UInt8) -> Float32:
        return unit_length(self.outputs(pixels))

    def for_worker(self) -> Self:
        return self


def open_engine(folder: Path, device: str, threads: int) -> Engine:
    """The engine of a backbone that `save_backbone` wrote to `folder`; `device` is `cpu` or `cuda`.

    `threads` CPU threads serve one call of `embed`. Raises `BadConfig` for an unknown device, `ShardCorrupt` for a
    folder that holds no backbone.
    """
    if device == "cpu":
        return OnnxEngine(folder, describe(folder), threads)
    if device.startswith("cuda"):
        return TorchEngine(folder, device)
    raise BadConfig(f"unknown device {device!r}; expected cpu or cuda")


def embed_texts(folder: Path, texts: Sequence[str]) -> Float32:
    """(len(texts), dim) float32 of unit length, in the space of the saved backbone's pictures.

    A text longer than the model's context is cut. The text side stays open for the next call. Raises `BadConfig` when
    the backbone has no text side.
    """
    known = describe(folder)
    if not known.has_text:
        raise BadConfig(
            f"this {known.card.name} has no text side; search by picture or by item, or embed with clip_vit_b32"
        )
    if not texts:
        return np.empty((0, known.dim), np.float32)
    import torch

    from retrieval_core.embed.openclip import tokenize

    tokens = tokenize(known.card, texts)
    with torch.inference_mode():
        return unit_length(_finite(_text_side(folder).encode_text(tokens).numpy()))


@lru_cache(maxsize=1)
def _text_side(folder: Path) -> CLIP:
    """The network without its image side, which a text search would keep in memory for nothing."""
    from torch import nn

    from retrieval_core.embed.networks import build_network
    from retrieval_core.embed.weights import fill_card, split_state
    from retrieval_core.state_dict import read_state

    known = describe(folder)
    network = build_network(known.card, known.preprocess.size_px, seed=0)
    network.visual = nn.Identity()
    state = split_state(read_state(folder / WEIGHTS_FILE)).network
    text_side = {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}
    fill_card(network, text_side, known.card, WEIGHTS_FILE)
    return network.eval()


def _check_pixels(pixels: UInt8, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size_px, size_px, 3):
        raise DimensionMismatch(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 (n, {size_px}, {size_px}, 3)"
        )


def _finite(vectors: Float32) -> Float32:
    """The rows as they are. Raises `WeightsInvalid` for rows that have no finite length."""
    if not np.isfinite(np.linalg.norm(vectors, axis=1)).all():
        raise WeightsInvalid("the backbone gave vectors that are not finite; its weights are damaged")
    return vectors
