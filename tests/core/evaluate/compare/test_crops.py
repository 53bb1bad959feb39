"""Where cropping helped and where tight boxes hurt, by how much of a picture the crop keeps."""

import numpy as np
import pytest

from retrieval_core.evaluate.compare.crops import crop_effects

MARGIN = 0.0


def boxes(n: int) -> list[np.ndarray]:
    """Masks of 10 by 10 cells whose boxes keep 4% to 100% of the picture, row after row."""
    masks = []
    for i in range(n):
        side = (2, 4, 6, 8, 10)[i % 5]
        mask = np.zeros((10, 10), np.bool_)
        mask[:side, :side] = True
        masks.append(mask)
    return masks


@pytest.fixture
def shop(open_shop):
    return open_shop(n=360)


@pytest.fixture
def results(shop):
    """Cropping ruins the vectors of pictures whose box keeps less than half, and is perfect for the others."""
    masks, kept = boxes(360), np.array([mask.mean() for mask in boxes(360)])
    raw, good, bad = shop.vectors(0.8), shop.vectors(0.0), shop.vectors(1e6)
    cropped = np.where(kept[:, None] < 0.5, bad, good)
    return shop.compare(
        shop.variant("as it is", raw),
        shop.variant("cropped", cropped, background="crop", masks=shop.masks(masks, [""] * 360)),
    )


def test_tight_crops_that_hurt_and_wide_ones_that_help_are_told_apart(shop, results) -> None:
    (facts,) = crop_effects(shop.store, results, "map@5", MARGIN)
    assert (facts.raw, facts.crop) == ("as it is", "cropped")
    tight, *_, wide = facts.bands
    assert (tight.low, wide.high) == (pytest.approx(0.04), 1.0)
    assert tight.interval[1] < 0 < wide.interval[0]
    assert sum(band.n_queries for band in facts.bands) == len(results.protocol.queries)
    gains = results.scores["cropped"].per_query["map@5"] - results.scores["as it is"].per_query["map@5"]
    assert sum(band.n_better for band in facts.bands) == (gains > 0).sum()
    assert sum(band.n_worse for band in facts.bands) == (gains < 0).sum()
    mean = sum(band.difference * band.n_queries for band in facts.bands) / len(gains)
    assert mean == pytest.approx(gains.mean())


def test_examples_are_the_queries_that_moved_most(shop, results) -> None:
    (facts,) = crop_effects(shop.store, results, "map@5", MARGIN)
    gains = (results.scores["cropped"].per_query["map@5"] - results.scores["as it is"].per_query["map@5"]).to_numpy()
    assert facts.helped[0].crop - facts.helped[0].raw == pytest.approx(gains.max())
    assert facts.hurt[0].crop - facts.hurt[0].raw == pytest.approx(gains.min())
    assert all(example.before.jpeg != example.after.jpeg for example in facts.hurt)


def test_a_box_that_is_not_trusted_keeps_the_whole_picture(shop) -> None:
    masks = shop.masks(boxes(360), ["no product found"] * 360)
    results = shop.compare(
        shop.variant("raw", shop.vectors(0.8)),
        shop.variant("crop", shop.vectors(0.2), background="crop", masks=masks),
    )
    (facts,) = crop_effects(shop.store, results, "map@5", MARGIN)
    assert {(band.low, band.high) for band in facts.bands} == {(1.0, 1.0)}
    assert facts.helped == facts.hurt == ()


def test_a_query_whose_picture_cannot_be_read_is_counted_but_not_shown(shop, results, caplog) -> None:
    for uri in shop.items["image_uri"]:
        open(uri, "wb").close()
    (facts,) = crop_effects(shop.store, results, "map@5", MARGIN)
    assert facts.helped == facts.hurt == ()
    assert sum(band.n_queries for band in facts.bands) == len(results.protocol.queries)
    assert "no thumbnail of" in caplog.text


def test_other_pairs_and_too_few_queries_have_no_entry(shop, open_shop) -> None:
    plain, masked = shop.variant("raw", shop.vectors(0.8)), shop.variant("crop", shop.vectors(0.2), size_px=64)
    cropped = shop.variant("unknown", shop.vectors(0.2), background="crop")
    assert crop_effects(shop.store, shop.compare(plain, masked, cropped), "map@5", MARGIN) == ()
    few = cropped.model_copy(update={"masks": shop.masks(boxes(360), [""] * 360)})
    assert crop_effects(shop.store, shop.compare(plain, few, queries=5), "map@5", MARGIN) == ()
    assert len(crop_effects(shop.store, shop.compare(plain, few, queries=6), "map@5", MARGIN)) == 1
