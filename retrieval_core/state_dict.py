"""Networks as files: weights that are downloaded once, read without running code and copied into a network with every
key accounted for; and the graph of a network for ONNX Runtime.

Importing this module imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from retrieval_core.errors import WeightsInvalid

PROBE_TIMEOUT_S = 5.0  # for the first answer of a server that weights are downloaded from
EXPORT_OPSET = 20
STEP_COUNTER = "num_batches_tracked"  # of a batch norm; not used here, and files older than PyTorch 0.4.1 lack it


def cached_download(url: str, sha256: str) -> Path:
    """Return the file at `url` in torch's cache, downloading it first if needed.

    A download must match `sha256`, which may be only the first digits; a file already in the cache is not checked.
    Raises `OSError` where the server does not answer, `RuntimeError` for another checksum.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        # torch waits for ever for a server that does not answer; one request with a timeout fails soon.
        urlopen(Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    return path


def export_graph(module: nn.Module, pixels: Tensor, output_name: str, path: Path) -> None:
    """Write the graph of a network that maps `pixels`, whose first axis is of any length, to its one output.

    The same network gives the same file on every machine.
    """
    program = torch.onnx.export(
        module,
        (pixels,),
        dynamo=True,
        opset_version=EXPORT_OPSET,
        input_names=["pixels"],
        output_names=[output_name],
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    for graph in program.model.graphs():
        for node in graph.all_nodes():
            # Source paths and stack traces of this machine are of no use to a reader and differ between exports.
            node.metadata_props.clear()
            node.doc_string = None
    program.save(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a torch file that holds nothing but tensors.

    Raises `WeightsInvalid`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsInvalid(f"cannot read weights file {path}: {error.strerror}") from error
    try:
        if head[8:] == b"{":  # safetensors: eight bytes of length, then a JSON header
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling an arbitrary file fails in many ways; in each, these are no weights
        raise WeightsInvalid(
            f"{path} holds no plain tensors ({why_refused(error)}); "
            "expected a safetensors file or a torch state dict; TorchScript must be converted first"
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsInvalid(f"{path} is no state dict: expected tensors by name, alone or under 'state_dict'")
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str, description: str) -> None:
    """Copy the tensors of the file `source` into `network`, which messages call `description`.

    Raises `WeightsInvalid` that names the missing keys, the unknown ones and those of another shape.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(STEP_COUNTER)]
    unknown = [key for key in state if key not in expected]
    other_shape = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for fault, keys in (("missing", missing), ("unknown", unknown), ("of another shape", other_shape))
        if keys
    ]
    if faults:
        raise WeightsInvalid(f"{source} is not {description}: keys {'; '.join(faults)}")
    network.load_state_dict(dict(state), strict=False)


def why_refused(error: Exception) -> str:
    """Return why torch did not read a file; its own message advises to let the file run any code."""
    if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"opening it would call {called[1]}, which no weights need"
    return "it does not hold tensors alone" if "weights_only" in str(error) else first_line(error)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
