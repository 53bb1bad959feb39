"""Run a saved backbone: ONNX Runtime or OpenVINO on the CPU, torch on CUDA.

In float32 their vectors are equal to 1e-4. In bfloat16, with 8 bits of mantissa, they are at a cosine of about 0.999
from float32 and from each other. int8 is for the CPU and for backbones that were calibrated for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Protocol, Self

import numpy as np

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.config.stages import Precision
from retrieval_core.embed.backbones import GRAPH_FILE, INT8_FILE, Description, LoadedBackbone, describe, read_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt, WeightsInvalid
from retrieval_core.images import Preprocess

# So few pictures stay in the processor's cache: with 32, MobileNetV3 takes a seventh longer.
CPU_ROWS = 8
DEVICE_ROWS = 256
DEVICE_CALLS = 2  # one batch is copied while another is in a forward pass
_OPEN_LOCK = Lock()  # first calls of OpenVINO by several threads at the same time have deadlocked
_EXACT_LOCK = Lock()  # torch's switches of precision are the process's, not the thread's

Forward = Callable[[UInt8], Float32]


class Engine(Protocol):
    """A backbone that embeds pictures cut as `preprocess` says, at most `max_rows` of them in one forward pass.

    A device works beside the threads that call it and does best with as many pictures at once, from `DEVICE_CALLS`
    threads.
    """

    card: Card
    preprocess: Preprocess
    dim: int
    max_rows: int
    is_device: bool

    def outputs(self, pixels: UInt8) -> Float32:
        """Return the network's (n, dim) float32 outputs for (n, size, size, 3) uint8 RGB, for any n.

        Raises `DimensionMismatch` for squares of another size, `WeightsInvalid` when an output is not finite.
        """

    def embed(self, pixels: UInt8) -> Float32:
        """Return `outputs` scaled to unit length."""

    def for_worker(self) -> Engine:
        """Return an engine that several threads may call at the same time, each call on one thread where possible."""


class CpuEngine:
    """A saved graph on the CPU: float32 by ONNX Runtime; bfloat16, and the rest of an int8 graph, by OpenVINO.

    `callers` threads may call it at the same time, each call with `threads` threads. Below float32 the bytes of a
    picture's vector depend on neither, nor on the other pictures of a batch.
    """

    max_rows = CPU_ROWS
    is_device = False

    def __init__(
        self, folder: Path, saved: Description, threads: int, precision: Precision = "float32", callers: int = 1
    ) -> None:
        self.card, self.preprocess, self.dim = saved.card, saved.preprocess, saved.dim
        self._folder, self._saved, self._threads = folder, saved, threads
        self._precision, self._callers = precision, callers

    def outputs(self, pixels: UInt8) -> Float32:
        _check_pixels(pixels, self.preprocess.size_px)
        with _OPEN_LOCK:
            forward = self._forward
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), CPU_ROWS):
            rows = slice(start, start + CPU_ROWS)
            vectors[rows] = forward(pixels[rows])
        return finite(vectors)

    def embed(self, pixels: UInt8) -> Float32:
        return unit_length(self.outputs(pixels))

    def for_worker(self) -> CpuEngine:
        return self if self._threads == 1 else self._single_threaded

    @cached_property
    def _single_threaded(self) -> CpuEngine:
        return CpuEngine(self._folder, self._saved, 1, self._precision, callers=self._threads)

    @cached_property
    def _forward(self) -> Forward:
        size_px = self.preprocess.size_px
        if self._precision == "float32":
            return _by_onnx_runtime(self._folder / GRAPH_FILE, self._threads)
        graph = self._folder / (INT8_FILE if self._precision == "int8" else GRAPH_FILE)
        return _by_openvino(graph, self._threads, self._callers, np.zeros((1, size_px, size_px, 3), np.uint8))


def _by_onnx_runtime(graph: Path, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin while they wait would take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ShardCorrupt(f"{graph} cannot be opened by ONNX Runtime: {error}") from error
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def _by_openvino(graph: Path, threads: int, callers: int, example: UInt8) -> Forward:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": callers,
        "INFERENCE_NUM_THREADS": callers * threads,
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = openvino.compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise ShardCorrupt(f"{graph} cannot be opened by OpenVINO: {error}") from error
    requests: SimpleQueue[openvino.InferRequest] = SimpleQueue()

    def forward(pixels: UInt8) -> Float32:
        request = requests.get()
        try:
            return request.infer([pixels])[0]
        finally:
            requests.put(request)

    for _ in range(callers):
        request = compiled.create_infer_request()
        request.infer([example])
        requests.put(request)
    return forward


class TorchEngine:
    """torch on CUDA or, for comparison, on the CPU; bfloat16 by autocast.

    Several threads may call it: while one batch is in a forward pass, another is copied to the device.
    """

    max_rows = DEVICE_ROWS
    is_device = True

    def __init__(self, loaded: LoadedBackbone, device: str, precision: Precision = "float32") -> None:
        import torch

        self.card, self.preprocess, self.dim = loaded.card, loaded.preprocess, loaded.module.dim
        self._device, self._precision = torch.device(device), precision
        self._module = loaded.module.to(memory_format=torch.channels_last).to(self._device)
        # The memory that a stream's batches used is kept for its next one, so there are no more than are needed.
        self._streams: SimpleQueue[torch.cuda.Stream | None] = SimpleQueue()
        for _ in range(DEVICE_CALLS):
            self._streams.put(torch.cuda.Stream(self._device) if self._device.type == "cuda" else None)

    def outputs(self, pixels: UInt8) -> Float32:
        _check_pixels(pixels, self.preprocess.size_px)
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), DEVICE_ROWS):
            rows = slice(start, start + DEVICE_ROWS)
            vectors[rows] = self._forward(pixels[rows])
        return finite(vectors)

    def embed(self, pixels: UInt8) -> Float32:
        return unit_length(self.outputs(pixels))

    def for_worker(self) -> Self:
        return self

    def _forward(self, pixels: UInt8) -> Float32:
        import torch

        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16")
        stream = self._streams.get()
        try:
            with torch.inference_mode(), torch.cuda.stream(stream):
                batch = torch.from_numpy(pixels)
                batch = (batch.pin_memory() if stream else batch).to(self._device, non_blocking=True)
                with _EXACT_LOCK, _exact(), autocast:  # queues the work, which the device does later
                    vectors = self._module(batch).float()
                return vectors.cpu().numpy()  # waits for this stream alone
        finally:
            self._streams.put(stream)


@contextmanager
def _exact() -> Iterator[None]:
    """Compute float32 on CUDA in float32: with TF32, whose mantissa has 10 bits, vectors would not be the CPU's."""
    import torch

    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed


def open_engine(folder: Path, device: str, threads: int, precision: Precision = "float32") -> Engine:
    """Return the engine of a backbone that `save_backbone` wrote to `folder`; `device` is `cpu` or `cuda`.

    One call of `embed` uses `threads` CPU threads. Raises `BadConfig` for an unknown device and for one that does not
    compute in `precision`, `ShardCorrupt` for a folder that holds no backbone.
    """
    check_precision(device, precision)
    if device == "cpu":
        return CpuEngine(folder, describe(folder), threads, precision)
    return TorchEngine(read_backbone(folder), device, precision)


def check_precision(device: str, precision: Precision) -> None:
    """Check that a device, `cpu` or `cuda`, of this machine computes in a precision. Raises `BadConfig`.

    float32 instead would be stored as if it were that, and a catalogue's vectors depend on the machine.
    """
    if device != "cpu" and not device.startswith("cuda"):
        raise BadConfig(f"unknown device {device!r}; expected cpu or cuda")
    if precision == "int8" and device != "cpu":
        raise BadConfig(f"int8 is computed on a CPU, not on {device}; set embed.precision to bfloat16 or float32")
    if precision != "float32" and not (_cpu_has_bfloat16() if device == "cpu" else _cuda_has_bfloat16()):
        raise BadConfig(
            f"this machine's {device} does not compute in bfloat16, which {precision} needs (a CPU needs AVX512 or "
            "AMX, a GPU Ampere or newer); set embed.precision to float32, or run where it does"
        )


def _cpu_has_bfloat16() -> bool:
    try:
        import openvino
    except ImportError as error:
        raise BadConfig(
            f"embed.precision bfloat16 or int8 needs OpenVINO ({error}); pip install openvino, or set it to float32"
        ) from error
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _cuda_has_bfloat16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def _check_pixels(pixels: UInt8, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size_px, size_px, 3):
        raise DimensionMismatch(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 (n, {size_px}, {size_px}, 3)"
        )


def finite(vectors: Float32) -> Float32:
    """Return the rows unchanged. Raises `WeightsInvalid` where one has no finite length."""
    if not np.isfinite(np.linalg.norm(vectors, axis=1)).all():
        raise WeightsInvalid("the backbone returned vectors that are not finite; its weights are damaged")
    return vectors
