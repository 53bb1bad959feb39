"""The optimiser of a training and its learning rate.

Importing this module imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from retrieval_core.train.config import Training

WARM_UP = 0.05  # share of a training over which the rate of the cosine schedule rises
EMBEDDER = "embedder."
NETWORK = f"{EMBEDDER}network."  # prefix of the parameters that the initial weights give


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW that updates and decays, of a parameter with a sparse gradient, only the rows that the gradient has.

    The other rows and their moments stay as they are, as with `torch.optim.SparseAdam`, and cost nothing.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, parameter.grad.coalesce(), group)
                    parameter.grad = None  # done: AdamW's own step refuses it
        super().step()
        return loss

    @torch.no_grad()
    def _update_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rows = self.state[parameter], gradient.indices()[0]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        tables = (parameter, state["exp_avg"], state["exp_avg_sq"])
        parts = tuple(table[rows] for table in tables)
        values, means, squares = ([part] for part in parts)
        beta1, beta2 = group["betas"]
        kept = {key: group[key] for key in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        adamw(values, [gradient.values()], means, squares, [], [state["step"]], beta1=beta1, beta2=beta2, **kept)
        for table, part in zip(tables, parts, strict=True):
            table[rows] = part


def build_optimiser(objective: nn.Module, config: Training) -> RowwiseAdamW:
    """Return AdamW over the parameters that require gradients.

    Those of the network have `config.network_rate` times the learning rate of the layers on top. Biases and norms have
    no weight decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(NETWORK), parameter.ndim > 1), []).append(parameter)
    return RowwiseAdamW(
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
