"""Where a card's weights are had, and how a published file divides into network and projection.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retrieval_core.embed import openclip
from retrieval_core.embed.cards import Card
from retrieval_core.errors import WeightsInvalid, WeightsUnavailable
from retrieval_core.state_dict import fill, first_line

PROBE_TIMEOUT_S = 5.0
WRAPPERS = ("model.", "module.")  # what training loops put before every key of the network they hold


class SplitState(NamedTuple):
    """A weights file's tensors: of the network, and of the projection on top, which is empty for most."""

    network: dict[str, Tensor]
    projection: dict[str, Tensor]


def split_state(state: Mapping[str, Tensor]) -> SplitState:
    """The tensors of a saved backbone (`network.*`, `projection.*`) or of a published file, by the network's own keys.

    A prefix that a training loop put before every key is dropped.
    """
    if any(key.startswith("network.") for key in state):
        inner = {key.removeprefix("network."): tensor for key, tensor in state.items() if key[:11] != "projection."}
        outer = {key.removeprefix("projection."): t for key, t in state.items() if key.startswith("projection.")}
        return SplitState(inner, outer)
    wrapper = next((prefix for prefix in WRAPPERS if state and all(key.startswith(prefix) for key in state)), "")
    return SplitState({key.removeprefix(wrapper): tensor for key, tensor in state.items()}, {})


def projection_of(state: Mapping[str, Tensor], card: Card, source: str) -> nn.Linear | None:
    """The linear layer of `weight` (dim, card.dim) and perhaps `bias`; None without. Raises `WeightsInvalid`."""
    if not state:
        return None
    weight = state.get("weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] != card.dim or set(state) - {"weight", "bias"}:
        shapes = ", ".join(f"projection.{key} {tuple(tensor.shape)}" for key, tensor in state.items())
        raise WeightsInvalid(
            f"{source} projects by {shapes}; expected projection.weight (dim, {card.dim}) on a {card.name}"
        )
    projection = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias="bias" in state)
    projection.load_state_dict(dict(state))
    return projection


def fill_card(network: nn.Module, state: Mapping[str, Tensor], card: Card, source: str) -> None:
    """Copy a published file into a card's network, but for keys no embedding needs. Raises `WeightsInvalid`."""
    given = {key: tensor for key, tensor in state.items() if not key.startswith(card.unused_keys)}
    fill(network, given, source, f"a {card.name} ({card.library} {card.model})")


def pretrained_file(card: Card) -> Path:
    """The card's published weights on this machine: its own folder's, or in the local caches, fetched if need be.

    Raises `WeightsUnavailable`.
    """
    if card.model.startswith(openclip.LOCAL):
        return openclip.folder_weights(Path(card.model.removeprefix(openclip.LOCAL)))
    names = openclip.WEIGHTS_FILES if card.model_cfg else (card.hub_file,)
    source = card.url or card.hub_repo
    try:
        return _url_file(card.url, card.sha256) if card.url else hub_path(card.hub_repo, names)
    except Exception as error:  # each client fails in many ways; in each, the weights cannot be had now
        raise WeightsUnavailable(
            f"cannot fetch pretrained {card.name} ({source}): {first_line(error)}; "
            f"give a copy of its {(card.url or card.hub_file).rsplit('/', 1)[-1]} as --set embed.weights=file:PATH, "
            "or do without pretraining by --set embed.weights=random:0"
        ) from error


def hub_path(repo: str, names: Sequence[str]) -> Path:
    """The first of the files `names` that a repository has, in the hub's cache, fetched if need be.

    Raises what the hub's client raises.
    """
    from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached)
    # The hub's client retries for most of a minute when there is no internet; one question tells sooner.
    get_session().head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
    for name in names[:-1]:
        try:
            return Path(hf_hub_download(repo, name))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repo, names[-1]))


def _url_file(url: str, sha256: str) -> Path:
    """A published file in torch's cache, its checksum checked when it is fetched."""
    from huggingface_hub import get_session

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        get_session().head(url, timeout=PROBE_TIMEOUT_S)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    return path
