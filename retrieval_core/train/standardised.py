"""A projection that learns from features of any scale. Importing this module imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class StandardisedLinear(nn.Linear):
    """A linear layer whose inputs are brought to mean 0 and variance 1 while it is trained.

    The features of a network are of any scale, and most of each is what all pictures have in common; a step that suits
    one network overshoots in another. `folded` is the same map as a plain layer. Who trains it asks for gradients.
    """

    def __init__(self, layer: nn.Linear) -> None:
        with torch.random.fork_rng(devices=[]):  # what is drawn here is written over
            super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict({"weight": layer.weight, "bias": _bias(layer)})
        self.norm = nn.BatchNorm1d(layer.in_features, affine=False)
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(self.norm(features), self.weight, self.bias)

    def folded(self) -> nn.Linear:
        """(n, in_features) to what this layer makes of them in eval mode, up to rounding."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise TypeError("a norm without running statistics cannot be folded")
        weight = self.weight.double() / (variance.double() + self.norm.eps).sqrt()
        layer = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features)
        layer.load_state_dict({"weight": weight.float(), "bias": (self.bias.double() - weight @ mean.double()).float()})
        return layer


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
