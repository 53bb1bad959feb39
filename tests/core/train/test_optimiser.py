"""Which parameters learn at which rate and decay, and the rate over a training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.train.config import RotationTraining
from retrieval_core.train.objectives.base import LinearObjective
from retrieval_core.train.optimiser import WARM_UP, RowwiseAdamW, build_optimiser, cosine_factor, set_rates


class Plain(LinearObjective):
    loss = score = None


Plain.__abstractmethods__ = frozenset()


def test_the_network_learns_slower_and_neither_norms_nor_biases_decay(tiny_embedder):
    config = RotationTraining(learning_rate=1e-2, network_rate=0.1, weight_decay=0.3)
    objective = Plain(tiny_embedder(dim=6), 4, seed=0).requires_grad_(True)
    name_of = {parameter: name for name, parameter in objective.named_parameters()}
    settings = {
        name_of[parameter]: (group["lr"], group["weight_decay"])
        for group in build_optimiser(objective, config).param_groups
        for parameter in group["params"]
    }
    assert settings.keys() == set(name_of.values())
    for name, (rate, decay) in settings.items():
        assert rate == pytest.approx(1e-3 if name.startswith("embedder.network") else 1e-2)
        is_norm = name.startswith(("embedder.network.1.", "embedder.network.4."))
        assert decay == (0.0 if name.endswith("bias") or is_norm else 0.3)


def test_frozen_parameters_are_left_out(tiny_embedder):
    objective = Plain(tiny_embedder(dim=6), 4, seed=0)
    objective.embedder.projection.requires_grad_(True)
    parameters = [p for group in build_optimiser(objective, RotationTraining()).param_groups for p in group["params"]]
    assert {id(p) for p in parameters} >= {id(p) for p in objective.embedder.projection.parameters()}
    assert all(p.requires_grad for p in parameters)


def test_rows_of_a_sparse_gradient_are_updated_as_adamw_does_and_no_others():
    settings, generator = {"lr": 0.1, "weight_decay": 0.5}, torch.Generator().manual_seed(0)
    start, rows = torch.randn(6, 3, generator=generator), torch.tensor([1, 4, 5])
    table, alone = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[rows])
    optimiser, expected = RowwiseAdamW([table], **settings), torch.optim.AdamW([alone], **settings)
    for step in range(3):
        gradient = torch.randn(3, 3, generator=generator)
        table.grad = torch.sparse_coo_tensor(rows[None], gradient, table.shape, check_invariants=True)
        alone.grad = gradient
        if step == 1:  # as after a checkpoint
            optimiser, saved = RowwiseAdamW([table], **settings), optimiser.state_dict()
            optimiser.load_state_dict(saved)
        optimiser.step()
        expected.step()
    assert torch.equal(table[rows], alone)
    assert torch.equal(optimiser.state[table]["exp_avg_sq"][rows], expected.state[alone]["exp_avg_sq"])
    left_out = torch.tensor([0, 2, 3])
    assert torch.equal(table[left_out], start[left_out])


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_cosine_rises_during_the_warm_up_and_falls_afterwards(one, other):
    low, high = sorted((one, other))
    if high <= WARM_UP:
        assert cosine_factor(low) <= cosine_factor(high)
    if low >= WARM_UP:
        assert cosine_factor(low) >= cosine_factor(high)
    assert 0 <= cosine_factor(low) <= 1


def test_the_cosine_is_whole_after_the_warm_up_and_nothing_at_the_end():
    assert cosine_factor(WARM_UP) == pytest.approx(1)
    assert cosine_factor((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert cosine_factor(1) == pytest.approx(0)


def test_rates_are_set_relative_to_the_first_ones():
    one, other = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimiser = torch.optim.AdamW([{"params": [one], "lr": 1.0}, {"params": [other], "lr": 0.1}])
    for factor in (0.5, 0.25):
        set_rates(optimiser, factor)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([factor, factor / 10])
