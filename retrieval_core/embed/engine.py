"""Run a saved backbone: ONNX Runtime on the CPU, torch on CUDA; their vectors are equal to 1e-4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.backbones import GRAPH_FILE, WEIGHTS_FILE, Description, describe, read_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import adapter_of
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt, WeightsInvalid
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor


# So few pictures stay in the processor's cache: with 32, MobileNetV3 takes a seventh longer.
ONNX_ROWS = 8
CUDA_ROWS = 1024


class Engine(Protocol):
    """A backbone that embeds pictures cut as `preprocess` says, at most `max_rows` of them in one forward pass."""

    card: Card
    preprocess: Preprocess
    dim: int
    max_rows: int

    def outputs(self, pixels: UInt8) -> Float32:
        """Return the network's (n, dim) float32 outputs for (n, size, size, 3) uint8 RGB, for any n.

        Raises `DimensionMismatch` for squares of another size, `WeightsInvalid` when an output is not finite.
        """

    def embed(self, pixels: UInt8) -> Float32:
        """Return `outputs` scaled to unit length."""

    def for_worker(self) -> Engine:
        """Return an engine that several threads may call at the same time, each call on one thread where possible."""


class OnnxEngine:
    """ONNX Runtime on the CPU; each call uses `threads` threads."""

    max_rows = ONNX_ROWS

    def __init__(self, folder: Path, saved: Description, threads: int) -> None:
        self.card, self.preprocess, self.dim = saved.card, saved.preprocess, saved.dim
        self._folder, self._saved, self._threads = folder, saved, threads

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
        return OnnxEngine(self._folder, self._saved, 1)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # Threads that spin while they wait would take the cores from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        graph = self._folder / GRAPH_FILE
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ShardCorrupt(f"{graph} cannot be opened by ONNX Runtime: {error}") from error


class TorchEngine:
    """torch in full float32, on CUDA or, for comparison, on the CPU."""

    max_rows = CUDA_ROWS

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        loaded = read_backbone(folder)
        self.card, self.preprocess, self.dim = loaded.card, loaded.preprocess, loaded.module.dim
        self._device = torch.device(device)
        self._module = loaded.module.to(memory_format=torch.channels_last).to(self._device)
        self._lock = Lock()  # a second batch at the same time would only fill the device's memory

    def outputs(self, pixels: UInt8) -> Float32:
        import torch

        _check_pixels(pixels, self.preprocess.size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        # cuDNN's default is TF32, whose 10-bit mantissa would make these vectors differ from the CPU's.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with self._lock, torch.inference_mode(), exact:
            for start in range(0, len(pixels), CUDA_ROWS):
                rows = slice(start, start + CUDA_ROWS)
                vectors[rows] = self._module(torch.from_numpy(pixels[rows]).to(self._device)).cpu().numpy()
        return _finite(vectors)

    def embed(self, pixels: UInt8) -> Float32:
        return unit_length(self.outputs(pixels))

    def for_worker(self) -> Self:
        return self


def open_engine(folder: Path, device: str, threads: int) -> Engine:
    """Return the engine of a backbone that `save_backbone` wrote to `folder`; `device` is `cpu` or `cuda`.

    One call of `embed` uses `threads` CPU threads. Raises `BadConfig` for an unknown device, `ShardCorrupt` for a
    folder that holds no backbone.
    """
    if device == "cpu":
        return OnnxEngine(folder, describe(folder), threads)
    if device.startswith("cuda"):
        return TorchEngine(folder, device)
    raise BadConfig(f"unknown device {device!r}; expected cpu or cuda")


def embed_texts(folder: Path, texts: Sequence[str]) -> Float32:
    """Return (len(texts), dim) float32 of unit length, in the space of the saved backbone's pictures.

    A text longer than the model's context is cut. The text side stays loaded for the next call. Raises `BadConfig`
    where the backbone has no text side, and where the libraries that read texts are not installed.
    """
    saved = describe(folder)
    if not saved.has_text:
        raise BadConfig(
            f"this {saved.card.name} has no text side; search by picture or by item, or embed with clip_vit_b32"
        )
    if not texts:
        return np.empty((0, saved.dim), np.float32)
    try:
        import torch

        encode = _text_encoder(folder)
    except ImportError as error:
        raise BadConfig(
            f"a text query for {saved.card.name} needs torch and {saved.card.library} ({error}); "
            "pip install 'vitrine[train]', or search by picture or by item"
        ) from error
    with torch.inference_mode():
        return unit_length(_finite(encode(texts).numpy()))


@lru_cache(maxsize=1)
def _text_encoder(folder: Path) -> Callable[[Sequence[str]], Tensor]:
    import torch

    from retrieval_core.embed.weights import read_weights

    card = describe(folder).card
    state = read_weights(folder / WEIGHTS_FILE, card).network
    with torch.random.fork_rng(devices=[]):  # building a network draws random weights
        return adapter_of(card).open_text_encoder(card, state)


def _check_pixels(pixels: UInt8, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size_px, size_px, 3):
        raise DimensionMismatch(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 (n, {size_px}, {size_px}, 3)"
        )


def _finite(vectors: Float32) -> Float32:
    """Return the rows unchanged. Raises `WeightsInvalid` where one has no finite length."""
    if not np.isfinite(np.linalg.norm(vectors, axis=1)).all():
        raise WeightsInvalid("the backbone returned vectors that are not finite; its weights are damaged")
    return vectors
