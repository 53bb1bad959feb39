"""Weights from a file or from the hub into a network, every key accounted for.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.embed.cards import Card
from retrieval_core.errors import WeightsInvalid, WeightsUnavailable

PROBE_TIMEOUT_S = 5.0


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
            f"{path} holds no plain tensors ({_first_line(error)}); "
            "expected a safetensors file or a torch state dict; TorchScript must be converted first"
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsInvalid(f"{path} is no state dict: expected tensors by name, alone or under 'state_dict'")
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], card: Card, source: str) -> None:
    """Copy `state` into `network` as float32. Raises `WeightsInvalid` that names keys which do not fit."""
    wanted = network.state_dict()
    given = {key: tensor for key, tensor in state.items() if not key.startswith(card.unused_keys)}
    # Files older than PyTorch 0.4.1 lack the counters, which inference does not use.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    other_shape = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", other_shape))
        if keys
    ]
    if faults:
        raise WeightsInvalid(f"{source} is not a {card.name} ({card.library} {card.model}): keys {'; '.join(faults)}")
    network.load_state_dict(given, strict=False)


def hub_file(card: Card) -> Path:
    """The card's pretrained weights in the hub's local cache, fetched if need be. Raises `WeightsUnavailable`."""
    from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(card.hub_repo, card.hub_file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # The hub's client retries for most of a minute when there is no internet; one question tells sooner.
        get_session().head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
        return Path(hf_hub_download(card.hub_repo, card.hub_file))
    except Exception as error:  # the hub's client fails in many ways; in each, the weights cannot be had now
        raise WeightsUnavailable(
            f"cannot fetch pretrained {card.name} ({card.hub_repo}) from {constants.ENDPOINT}: {_first_line(error)}; "
            f"give a copy of its {card.hub_file} as --set embed.weights=file:PATH, "
            "or do without pretraining by --set embed.weights=random:0"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
