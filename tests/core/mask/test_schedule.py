"""The course of a training: half size first, full size last."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.config.stages import MaskConfig
from retrieval_core.mask.schedule import plan_phases

configs = st.builds(MaskConfig, size_px=st.integers(2, 16).map(lambda sides: 32 * sides), max_epochs=st.integers(1, 60))


@given(configs)
def test_phases_hold_every_epoch_once_and_end_at_full_size(config):
    epochs = [epoch for phase in plan_phases(config) for epoch in phase]
    assert len(epochs) == config.max_epochs
    assert epochs[-1].size_px == config.size_px
    assert (epochs[0].begins, epochs[-1].ends) == (0, 1)
    assert all(before.ends == after.begins for before, after in itertools.pairwise(epochs))


@given(configs)
def test_every_size_fits_the_encoder_and_never_falls(config):
    sizes = [epoch.size_px for phase in plan_phases(config) for epoch in phase]
    assert all(size % 32 == 0 and size >= 64 for size in sizes)
    assert sizes == sorted(sizes)
    assert all(len({epoch.size_px for epoch in phase}) == 1 for phase in plan_phases(config))


def test_a_picture_of_64_px_is_never_halved():
    (phase,) = plan_phases(MaskConfig(size_px=64, max_epochs=5))
    assert [epoch.size_px for epoch in phase] == [64] * 5
