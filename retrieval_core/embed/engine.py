"""Running a saved backbone: ONNX Runtime on the CPU, torch on CUDA, the same vectors to 1e-4."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt

from retrieval_core.embed.backbones import GRAPH_FILE, WEIGHTS_FILE
from retrieval_core.embed.cards import get_card
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt, WeightsInvalid
from retrieval_core.shards import unit_length

if TYPE_CHECKING:
    import onnxruntime
    from open_clip import CLIP

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

# A forward pass of a few pictures stays in the cache: at 32, MobileNetV3 costs a seventh more.
ONNX_ROWS = 8
CUDA_ROWS = 1024


class Engine(Protocol):
    """A backbone ready to embed. `max_rows` is the largest batch that one forward pass takes."""

    dim: int
    max_rows: int

    def embed(self, pixels: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB to (n, dim) float32 of unit length, for any n.

        Raises `DimensionMismatch` for squares of another size, `WeightsInvalid` when the weights give no finite vector.
        """

    def for_worker(self) -> Engine:
        """The engine that each of several threads may call at the same time without getting in the others' way."""


class OnnxEngine:
    """ONNX Runtime on the CPU; each call of `embed` spreads over `threads` threads."""

    max_rows = ONNX_ROWS

    def __init__(self, graph: Path, dim: int, size_px: int, threads: int) -> None:
        self.dim, self._graph, self._size_px, self._threads = dim, graph, size_px, threads

    def embed(self, pixels: UInt8) -> Float32:
        _check_pixels(pixels, self._size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), ONNX_ROWS):
            rows = slice(start, start + ONNX_ROWS)
            vectors[rows] = self._session.run(None, {"pixels": pixels[rows]})[0]
        return _unit(vectors)

    def for_worker(self) -> OnnxEngine:
        return self if self._threads == 1 else self._single_threaded

    @cached_property
    def _single_threaded(self) -> OnnxEngine:
        return OnnxEngine(self._graph, self.dim, self._size_px, 1)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # Threads that spin while they wait take the core from the one that decodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ShardCorrupt(f"{self._graph} cannot be opened by ONNX Runtime: {error}") from error


class TorchEngine:
    """torch in full float32, on CUDA or (for comparison) on the CPU."""

    max_rows = CUDA_ROWS

    def __init__(self, card: str, size_px: int, folder: Path, device: str) -> None:
        import torch

        from retrieval_core.embed.networks import ImageEmbedder, build_network
        from retrieval_core.embed.weights import fill, read_state

        known = get_card(card)
        network = build_network(known, size_px, seed=0)
        fill(network, read_state(folder / WEIGHTS_FILE), known, WEIGHTS_FILE)
        self.dim, self._size_px, self._device = known.dim, size_px, torch.device(device)
        self._module = ImageEmbedder(known, network.to(memory_format=torch.channels_last)).to(self._device)
        self._one_at_a_time = Lock()  # more would only fill the device's memory

    def embed(self, pixels: UInt8) -> Float32:
        import torch

        _check_pixels(pixels, self._size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        # cuDNN's default is TF32, whose 10-bit mantissa would part these vectors from the CPU's.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with self._one_at_a_time, torch.inference_mode(), exact:
            for start in range(0, len(pixels), CUDA_ROWS):
                rows = slice(start, start + CUDA_ROWS)
                vectors[rows] = self._module(torch.from_numpy(pixels[rows]).to(self._device)).cpu().numpy()
        return _unit(vectors)

    def for_worker(self) -> Self:
        return self


def open_engine(card: str, size_px: int, folder: Path, device: str, threads: int) -> Engine:
    """The engine of a backbone that `save_backbone` wrote to `folder`; `device` is `cpu` or `cuda`.

    `threads` CPU threads serve one call of `embed`. Raises `BadConfig` for an unknown card or device.
    """
    if device == "cpu":
        return OnnxEngine(folder / GRAPH_FILE, get_card(card).dim, size_px, threads)
    if device.startswith("cuda"):
        return TorchEngine(card, size_px, folder, device)
    raise BadConfig(f"unknown device {device!r}; expected cpu or cuda")


def embed_texts(card: str, folder: Path, texts: Sequence[str]) -> Float32:
    """(len(texts), dim) float32 of unit length, in the space of the card's pictures. A text is cut after 77 tokens.

    The text side stays open for the next call. Raises `BadConfig` when the card has no text side.
    """
    known = get_card(card)
    if not known.has_text:
        raise BadConfig(f"{card} has no text side; search by picture or by item, or embed with clip_vit_b32")
    if not texts:
        return np.empty((0, known.dim), np.float32)
    import torch
    from open_clip import get_tokenizer

    network = _text_side(card, folder)
    with torch.inference_mode():
        return _unit(network.encode_text(get_tokenizer(known.model)(list(texts))).numpy())


@lru_cache(maxsize=1)
def _text_side(card: str, folder: Path) -> CLIP:
    """The network without its image side, which a text search would keep in memory for nothing."""
    from torch import nn

    from retrieval_core.embed.networks import build_network
    from retrieval_core.embed.weights import fill, read_state

    known = get_card(card)
    network = build_network(known, known.size_px, seed=0)
    network.visual = nn.Identity()
    state = {key: tensor for key, tensor in read_state(folder / WEIGHTS_FILE).items() if not key.startswith("visual.")}
    fill(network, state, known, WEIGHTS_FILE)
    return network.eval()


def _check_pixels(pixels: UInt8, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size_px, size_px, 3):
        raise DimensionMismatch(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 (n, {size_px}, {size_px}, 3)"
        )


def _unit(vectors: Float32) -> Float32:
    """Rows of length 1. Raises `WeightsInvalid` for rows that have no finite length."""
    if not np.isfinite(np.linalg.norm(vectors, axis=1)).all():
        raise WeightsInvalid("the backbone gave vectors that are not finite; its weights are damaged")
    return unit_length(vectors)
