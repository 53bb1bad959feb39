"""Weights from a file into a network, every key accounted for. Importing this module imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.errors import WeightsInvalid

STEP_COUNTER = "num_batches_tracked"  # of a batch norm; files older than PyTorch 0.4.1 lack it and nothing is lost


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds nothing but tensors. Raises `WeightsInvalid`."""
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
    except Exception as error:  # unpickling a stranger's file fails in many ways; in each, these are no weights
        raise WeightsInvalid(
            f"{path} holds no plain tensors ({why_refused(error)}); "
            "expected a safetensors file or a torch state dict; TorchScript must be converted first"
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsInvalid(f"{path} is no state dict: expected tensors by name, alone or under 'state_dict'")
    return dict(state)


def fill(network: nn.Module, given: Mapping[str, Tensor], source: str, what: str) -> None:
    """Copy the tensors of `source` into a network, called `what`. Raises `WeightsInvalid` that names keys at fault."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in given and not key.endswith(STEP_COUNTER)]
    unknown = [key for key in given if key not in wanted]
    other_shape = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for fault, keys in (("missing", missing), ("unknown", unknown), ("of another shape", other_shape))
        if keys
    ]
    if faults:
        raise WeightsInvalid(f"{source} is not {what}: keys {'; '.join(faults)}")
    network.load_state_dict(dict(given), strict=False)


def why_refused(error: Exception) -> str:
    """Why torch does not read a file; its own words advise to let the file run what it likes."""
    if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"opening it would call {called[1]}, which no weights need"
    return "it is no file of tensors alone" if "weights_only" in str(error) else first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error's words, at most 200 characters, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
