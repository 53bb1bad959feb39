"""A projection over features of any scale learns, and folds into a plain layer."""

import pytest
import torch
from torch import Tensor, nn

from retrieval_core.train.objectives.distill import StandardisedLinear


def features(n: int = 64, seed: int = 0) -> Tensor:
    """Large features that differ little from row to row."""
    generator = torch.Generator().manual_seed(seed)
    return 1000 + 30 * torch.randn(n, 8, generator=generator)


def trained() -> StandardisedLinear:
    layer = StandardisedLinear(nn.Linear(8, 3)).train()
    for step in range(200):
        layer(features(seed=step))
    return layer.eval()


def test_the_folded_layer_is_the_same_map() -> None:
    layer = trained()
    rows = features(seed=1000)
    torch.testing.assert_close(layer.folded()(rows), layer(rows), rtol=1e-3, atol=1e-3)
    assert type(layer.folded()) is nn.Linear


def test_a_layer_without_bias_keeps_its_weights() -> None:
    plain = nn.Linear(8, 3, bias=False)
    layer = StandardisedLinear(plain)
    rows = torch.randn(5, 8)
    torch.testing.assert_close(layer(rows), plain(rows), rtol=1e-4, atol=1e-5)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    StandardisedLinear(trained())
    plain = nn.Linear(8, 3)
    torch.set_rng_state(before)
    StandardisedLinear(plain)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_learns_at_one_learning_rate_from_features_of_any_scale(scale: float) -> None:
    truth = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    layer = StandardisedLinear(nn.Linear(8, 3)).train().requires_grad_(True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for step in range(300):
        rows = features(seed=step)
        loss = (layer(rows * scale) - (rows - 1000) / 30 @ truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
