"""A learner trains a U-Net step by step, and predicts with the running mean of its weights."""

import math

import numpy as np
import pytest
import torch

from retrieval_core.config.stages import MaskConfig
from retrieval_core.mask.learner import PREDICT_BATCH, WEIGHT_DECAY, Learner
from retrieval_core.mask.schedule import Epoch
from retrieval_core.mask.unet import build_unet, rebuild_unet

SIZE_PX = 64
BATCH_SIZE = 4
CONFIG = MaskConfig(encoder="resnet18", weights="random:0", size_px=SIZE_PX, batch_size=BATCH_SIZE)
WHOLE = Epoch(SIZE_PX, 0.0, 1.0)


def new_learner(**changes):
    config = CONFIG.model_copy(update=changes)
    return Learner(build_unet(CONFIG), config, "cpu")


def copied(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the same sums in the same order, on any machine


@pytest.fixture(scope="module")
def data(shapes):
    return shapes(2 * BATCH_SIZE, seed=0)


@pytest.fixture(scope="module")
def learner(data):
    """A learner after an epoch of two steps; tests only read it."""
    learner = new_learner()
    learner.learn(data.pixels, data.masks, WHOLE)
    return learner


def test_two_learners_of_one_seed_learn_the_same_weights_and_another_seed_others(data, learner):
    def state(seed):
        twin = new_learner(seed=seed)
        twin.learn(data.pixels, data.masks, WHOLE)
        return twin.state()

    expected, again, other = learner.state(), state(CONFIG.seed), state(1)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    name = "segmentation_head.0.weight"
    assert not torch.equal(other[name], expected[name])


def test_the_average_moves_towards_the_last_weights_by_nine_elevenths_in_the_first_step(data):
    learner = new_learner()
    start = copied(learner.unet.net.state_dict())
    learner.learn(data.pixels[:BATCH_SIZE], data.masks[:BATCH_SIZE], WHOLE)
    last, mean = learner.unet.net.state_dict(), learner.state()
    assert not torch.equal(mean["segmentation_head.0.weight"], last["segmentation_head.0.weight"])
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, start[name].lerp(last[name], 9 / 11), rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, last[name]), name


def test_the_average_differs_from_the_last_weights_and_is_what_predicts(data, learner):
    mean, last = learner.state(), learner.unet.net.state_dict()
    assert mean.keys() == last.keys()
    assert all(not torch.equal(mean[name], last[name]) for name in mean if name.endswith("conv1.weight"))
    with torch.inference_mode():
        expected = rebuild_unet(mean, "resnet18")(torch.from_numpy(data.pixels)) > 0.5
    assert (learner.predict(data.pixels, SIZE_PX) == expected.numpy()).mean() > 0.999


def test_the_state_is_a_copy_that_later_steps_do_not_change(data):
    learner = new_learner()
    state = learner.state()
    before = copied(state)
    learner.learn(data.pixels, data.masks, WHOLE)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert not torch.equal(learner.state()["segmentation_head.0.weight"], before["segmentation_head.0.weight"])


@pytest.mark.parametrize("n", [1, PREDICT_BATCH + 1])
@pytest.mark.parametrize("size_px", [SIZE_PX, SIZE_PX // 2])
def test_predicted_masks_are_bool_and_of_the_size_of_the_pictures(learner, shapes, n, size_px):
    masks = learner.predict(shapes(n, seed=1).pixels, size_px)
    assert masks.dtype == np.bool_
    assert masks.shape == (n, SIZE_PX, SIZE_PX)


def test_a_mask_does_not_depend_on_the_pictures_beside_it(learner, shapes):
    pixels = shapes(PREDICT_BATCH + 1, seed=1).pixels
    together = learner.predict(pixels, SIZE_PX)
    assert 0 < together.mean() < 1
    for row in (0, PREDICT_BATCH):
        assert (learner.predict(pixels[row : row + 1], SIZE_PX)[0] == together[row]).mean() > 0.999


@pytest.mark.parametrize(("n", "n_steps"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2)])
def test_pictures_are_learnt_in_full_batches_or_in_one_smaller_batch(data, n, n_steps):
    learner = new_learner()
    start = copied(learner.unet.net.state_dict())
    loss = learner.learn(data.pixels[:n], data.masks[:n], WHOLE)
    assert learner.n_steps == n_steps
    assert 0 < loss < 1
    last = learner.unet.net.state_dict()
    assert not torch.equal(last["segmentation_head.0.weight"], start["segmentation_head.0.weight"])


def test_weight_decay_shrinks_kernels_and_leaves_biases_and_norms():
    learner = new_learner()
    before = copied(dict(learner.unet.named_parameters()))
    for parameter in learner.unet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    after = dict(learner.unet.named_parameters())
    assert {tensor.ndim for tensor in after.values()} == {1, 4}
    for name, value in after.items():
        kept = 1 - CONFIG.learning_rate * WEIGHT_DECAY if value.ndim == 4 else 1.0
        torch.testing.assert_close(value.detach(), before[name] * kept, msg=name, rtol=1e-6, atol=0)
        assert value.ndim == 4 or torch.equal(value, before[name]), name


def test_the_learning_rate_rises_over_the_first_epoch_and_falls_along_a_cosine(data):
    learner = new_learner()

    def rate_after(epoch, n):
        learner.learn(data.pixels[:n], data.masks[:n], epoch)
        (rate,) = {group["lr"] for group in learner.optimizer.param_groups}
        return rate / CONFIG.learning_rate

    # Each epoch of eight pictures has two steps, and its last step begins halfway through it.
    assert rate_after(Epoch(SIZE_PX, 0.0, 0.5), 8) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rate_after(Epoch(SIZE_PX, 0.5, 1.0), 8) == pytest.approx((1 + math.cos(math.pi * 3 / 4)) / 2)
