"""The optimiser of a training and its learning rate.

Importing this module imports torch.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from retrieval_core.train.config import Training

WARM_UP = 0.05  # share of a training over which the rate of the cosine schedule rises
EMBEDDER = "embedder."
NETWORK = f"{EMBEDDER}network."  # prefix of the parameters that the initial weights give


def build_optimiser(objective: nn.Module, config: Training) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require gradients.

    Those of the network have `config.network_rate` times the learning rate of the layers on top. Biases and norms have
    no weight decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(NETWORK), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        {
            "params": parameters,
            "lr": config.learning_rate * (config.network_rate if is_network else 1.0),
            "weight_decay": config.weight_decay if is_matrix else 0.0,
        }
        for (is_network, is_matrix), parameters in groups.items()
    )


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every learning rate to `factor` times its value at the start of the training."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def cosine_factor(progress: float) -> float:
    """Return the share of the full learning rate at `progress`, 0 to 1, through a training.

    It rises linearly over the first `WARM_UP` and falls to 0 by half a cosine (Loshchilov and Hutter, ICLR 2017).
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
