"""Weights from a file into a network, every key accounted for. Imports torch: import this where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.errors import WeightsInvalid

STEP_COUNTER = ".num_batches_tracked"  # of a batch norm; old files and frozen norms lack it and nothing is lost


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a torch state dict. Raises `WeightsInvalid`."""
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # readers fail in many ways on bytes that are no weights
        raise WeightsInvalid(f"cannot read the weights in {path}: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsInvalid(f"{path} holds no state dict; expected parameter names and tensors")
    return state


def fill(network: nn.Module, given: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load the tensors of `path` into a network, called `what`. Raises `WeightsInvalid` naming the keys at fault."""
    expected = network.state_dict()
    missing = sorted(key for key in expected.keys() - given.keys() if not key.endswith(STEP_COUNTER))
    extra = sorted(given.keys() - expected.keys())
    if missing or extra:
        raise WeightsInvalid(
            f"{path} is of another architecture than {what}: {len(missing)} keys missing ({_some(missing)}), "
            f"{len(extra)} unexpected ({_some(extra)}); expected a torchvision state dict"
        )
    try:
        network.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise WeightsInvalid(f"{path} does not fit {what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An error's words as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) or "none"
