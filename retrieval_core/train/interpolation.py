"""Average the trained weights of a network with its initial ones (WiSE-FT, Wortsman et al., CVPR 2022).

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from retrieval_core.train.objectives.base import Objective
from retrieval_core.train.optimiser import EMBEDDER, NETWORK

SHARES = (0.25, 0.5, 0.75, 1.0)  # that a choice on the validation part tries


def network_weights(objective: Objective) -> dict[str, Tensor]:
    """Return a copy of the network's weights and running statistics, on the CPU.

    The projection's are among them if the objective `starts_trained`.
    """
    state, prefix = objective.state_dict(), EMBEDDER if objective.starts_trained else NETWORK
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items() if name.startswith(prefix)}


def average_with_start(
    objective: Objective, start: Mapping[str, Tensor], share: float, score: Callable[[], float]
) -> float:
    """Give the network `share` of its trained weights and the rest of the `start` weights; return the share.

    A share of 0 takes the one of `SHARES` with the best `score()`, the largest among equals. Layers on top that have no
    initial weights worth keeping stay as trained.
    """
    trained = network_weights(objective)

    def apply(share: float) -> None:
        mixed = {
            name: start[name].lerp(value, share) if value.is_floating_point() else value
            for name, value in trained.items()
        }
        objective.load_state_dict(mixed, strict=False)

    if share == 0:
        scores = {}
        for candidate in SHARES:
            apply(candidate)
            scores[candidate] = score() if objective.better == "max" else -score()
        share = max(SHARES, key=lambda candidate: (scores[candidate], candidate))
    apply(share)
    return share
