"""Distrusted masks are counted by kind of reason, and some pictures are shown before and after their masks."""

import base64

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import MaskSet
from retrieval_core.artifacts.parts import masks_bytes, put_part
from retrieval_core.config.stages import EmbedConfig, MaskConfig, NightlyConfig
from retrieval_core.evaluate.measure.mask_quality import N_MASK_EXAMPLES, MaskFacts, measure_masks
from retrieval_core.images import decode, thumbnail
from retrieval_core.mask.quality import distrust
from tests.core.sealed_runs import SealedRuns

SIDE_PX = 40
CONFIG = NightlyConfig(embed=EmbedConfig(background="masked"))


def covering(share: float) -> np.ndarray:
    """A mask whose first rows cover this share of the picture."""
    mask = np.zeros((SIDE_PX, SIDE_PX), bool)
    mask.ravel()[: round(share * mask.size)] = True
    return mask


HALF, EMPTY, SMALL, SMALLER, LARGE = (covering(share) for share in (0.5, 0.0, 0.005, 0.0025, 0.99))


@pytest.fixture
def measured(local_store, outputs_of, catalog_items):
    """`measured(masks)` are the facts of these masks, one an item; `n` items are in the catalogue."""

    def run(masks, n=None, image_uri="gone.jpg", config=CONFIG):
        items = catalog_items(n or len(masks), image_uri=[image_uri] * (n or len(masks)))
        content_ids = [f"{number:032x}" for number in range(len(masks))]
        reasons = [distrust(mask, MaskConfig()) for mask in masks]
        data = masks_bytes(content_ids, masks, reasons)
        part = put_part(local_store, f"{MaskSet.folder}/f/parts/all.parquet", data, len(masks))
        ref = MaskSet(fingerprint="m", family="f", parts=(part,)).seal(local_store).ref
        outputs = outputs_of(SealedRuns(local_store).seal(["a"]), masks=ref)
        return measure_masks(local_store, outputs, items, config)

    return run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "white.jpg"
    path.write_bytes(thumbnail(np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8), SIDE_PX))
    return str(path)


def pixels(shown) -> np.ndarray:
    return decode(base64.b64decode(shown.jpeg))


def test_distrusted_masks_are_counted_by_kind_of_reason_whatever_their_areas(measured):
    facts = measured([HALF, SMALL, SMALLER, SMALL, EMPTY, LARGE, HALF, HALF])
    assert facts.reasons == {"area below": 3, "area above": 1, "the mask is empty": 1}
    assert next(iter(facts.reasons)) == "area below", "the commonest reason comes first"
    assert (facts.n_masks, facts.n_fallback, facts.fallback_rate) == (8, 5, 5 / 8)


def test_masks_of_pictures_outside_the_catalogue_are_not_counted(measured):
    facts = measured([HALF, EMPTY, EMPTY, SMALL], n=2)
    assert (facts.n_masks, facts.reasons, facts.fallback_rate) == (2, {"the mask is empty": 1}, 0.5)


def test_a_run_without_masks_has_none_to_fall_back_from(local_store, outputs_of, catalog_items):
    outputs = outputs_of(SealedRuns(local_store).seal(["a"]))
    facts = measure_masks(local_store, outputs, catalog_items(3), CONFIG)
    assert (facts, facts.fallback_rate) == (MaskFacts(), 0.0)


def test_examples_show_pictures_before_and_after_masking(measured, picture):
    facts = measured([HALF] * 10 + [EMPTY], image_uri=picture)
    assert len(facts.examples) == N_MASK_EXAMPLES
    before, after = next(pair for pair in facts.examples if pair[1].caption == "50% of the picture")
    assert before.item_id == before.caption == after.item_id
    assert pixels(before).min() > 245
    assert pixels(after)[: SIDE_PX // 4].min() > 245
    assert pixels(after)[-SIDE_PX // 4 :].max() < 10


def test_an_example_of_a_distrusted_mask_says_why(measured, picture):
    ((_, after),) = measured([SMALL], image_uri=picture).examples
    assert after.caption == "area 0.5% below 1%"


def test_examples_are_cropped_where_the_run_crops(measured, picture):
    crop = NightlyConfig(embed=EmbedConfig(background="crop"))
    ((before, after),) = measured([HALF], image_uri=picture, config=crop).examples
    assert pixels(before).shape == (SIDE_PX, SIDE_PX, 3)
    assert pixels(after).shape == (SIDE_PX // 2 + round(CONFIG.crop.margin * SIDE_PX / 2), SIDE_PX, 3)


def test_a_picture_that_cannot_be_read_is_counted_but_not_shown(measured, caplog):
    facts = measured([HALF, EMPTY])
    assert (facts.n_masks, facts.n_fallback, facts.examples) == (2, 1, ())
    assert "no thumbnail of item-00000" in caplog.text
