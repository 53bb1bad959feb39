"""Random views of pictures: the mask moves with its picture."""

import pytest
import torch

from retrieval_core.mask.augment import augment


def disc(n, size_px):
    """White discs off the centre on black, and their masks."""
    y, x = torch.meshgrid(torch.arange(size_px), torch.arange(size_px), indexing="ij")
    inside = ((x - size_px * 0.4) ** 2 + (y - size_px * 0.55) ** 2 < (size_px * 0.22) ** 2).float()
    masks = inside.repeat(n, 1, 1)
    return masks[:, None].repeat(1, 3, 1, 1) * 255, masks


def test_a_mask_moves_together_with_its_picture():
    images, masks = disc(32, 64)
    views, view_masks = augment(images, masks, torch.Generator().manual_seed(0))
    bright = views.mean(1) > 127
    overlap = (bright & (view_masks > 0.5)).sum() / (bright | (view_masks > 0.5)).sum()
    assert overlap > 0.9


def test_views_differ_from_each_other_and_stay_in_range():
    images, masks = disc(8, 64)
    views, view_masks = augment(images, masks, torch.Generator().manual_seed(1))
    assert views.shape == images.shape
    assert view_masks.shape == masks.shape
    assert 0 <= views.min() < views.max() <= 255
    assert 0 <= view_masks.min() < view_masks.max() <= 1
    assert len({mask.numpy().tobytes() for mask in view_masks}) == 8
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_the_product_mostly_stays_in_the_picture():
    images, masks = disc(64, 64)
    _, view_masks = augment(images, masks, torch.Generator().manual_seed(2))
    kept = view_masks.sum((1, 2)) / masks.sum((1, 2))
    assert kept.mean().item() == pytest.approx(1, abs=0.15)
    assert kept.min() > 0.4


def test_the_same_seed_gives_the_same_views_and_leaves_the_global_state_alone():
    images, masks = disc(4, 64)
    before = torch.get_rng_state()
    first, second = (augment(images, masks, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
