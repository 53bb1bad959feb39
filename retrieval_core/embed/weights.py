"""Read a weights file, published or saved here, and split it into network and projection.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import adapter_of
from retrieval_core.errors import WeightsInvalid
from retrieval_core.state_dict import fill, read_state

NETWORK, PROJECTION = "network.", "projection."  # prefixes of the keys in a saved backbone
WRAPPERS = ("model.", "module.")  # prefixes that training loops put before every key of the network they wrap


class SplitState(NamedTuple):
    """Tensors of the network, and of the projection on top of it; most files have no projection."""

    network: dict[str, Tensor]
    projection: dict[str, Tensor]


def read_weights(path: Path, card: Card) -> SplitState:
    """Return the tensors of a saved backbone or of a published file of `card`, under the network's own keys.

    Published keys lose the prefix of a training loop and are converted by the card's adapter. Raises `WeightsInvalid`.
    """
    state = read_state(path)
    if any(key.startswith(NETWORK) for key in state):
        projection = {key.removeprefix(PROJECTION): t for key, t in state.items() if key.startswith(PROJECTION)}
        network = {key.removeprefix(NETWORK): t for key, t in state.items() if not key.startswith(PROJECTION)}
        return SplitState(network, projection)
    wrapper = next((prefix for prefix in WRAPPERS if state and all(key.startswith(prefix) for key in state)), "")
    published = {key.removeprefix(wrapper): tensor for key, tensor in state.items()}
    return SplitState(adapter_of(card).convert_state_dict(card, published), {})


def fill_network(network: nn.Module, state: Mapping[str, Tensor], card: Card, source: str) -> None:
    """Copy the tensors of the file `source` into a card's network, except those that no embedding needs.

    Raises `WeightsInvalid`.
    """
    used = {key: tensor for key, tensor in state.items() if not key.startswith(card.unused_keys)}
    fill(network, used, source, f"a {card.name} ({card.library} {card.model})")


def build_projection(state: Mapping[str, Tensor], card: Card, source: str) -> nn.Linear | None:
    """Return the linear layer of `weight` (dim, card.dim) and an optional `bias`; None where `state` is empty.

    Raises `WeightsInvalid` for other tensors.
    """
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
