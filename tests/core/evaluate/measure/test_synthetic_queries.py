"""Synthetic queries: a search that finds every changed picture scores 1, a broken one less, without any label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.parts import MaskRow
from retrieval_core.config.stages import EvaluateConfig, GateConfig
from retrieval_core.evaluate.gate.decide import ReleaseFigures, decide
from retrieval_core.evaluate.measure.synthetic_queries import Synthetic, draw_items, search_synthetic
from retrieval_core.search.hits import Hit

N = 12
CONFIG = EvaluateConfig(synthetic_queries=8)
MAX_PIXELS = 10_000_000
KINDS = ("crop", "flip", "colour", "background")


class ByShape:
    """A search that knows a picture by its proportions, which no distortion changes; `wrong` misleads some searches.

    It stands for a chain that is perfect, or broken as told.
    """

    def __init__(self, items: pl.DataFrame, wrong=lambda picture, number: False):
        self.items, self.wrong, self.asked = items, wrong, []

    def search(self, picture: np.ndarray, k: int) -> list[Hit]:
        self.asked.append(picture)
        distance = np.abs(np.array([_ratio(number) for number in range(N)]) - picture.shape[1] / picture.shape[0])
        order = np.argsort(distance)
        if self.wrong(picture, len(self.asked) - 1):
            order = np.roll(order, 1)
        known = self.items.sort("item_id")["item_id"].to_list()
        return [Hit(item_id=known[place], score=1.0, image_uri="") for place in order[:k]]


def _ratio(number: int) -> float:
    return 1 + number / 4


@pytest.fixture
def items(tmp_path: Path, catalog_items) -> pl.DataFrame:
    """Pictures of different proportions, noise throughout."""
    made = catalog_items(N)
    paths = [tmp_path / f"{name}.png" for name in made["item_id"]]
    for number, path in enumerate(paths):
        size = (100, round(100 * _ratio(number)), 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, size).astype(np.uint8)).save(path)
    return made.with_columns(
        pl.Series("image_uri", [str(path) for path in paths]),
        pl.Series("content_id", [content_id(path.read_bytes()) for path in paths]),
    )


@pytest.fixture
def masks(items: pl.DataFrame) -> dict[str, MaskRow]:
    bits = np.zeros((8, 8), bool)
    bits[2:6, 2:6] = True
    stored = MaskRow(height=8, width=8, bits=_packed(bits), area=0.25, reason="")
    return dict.fromkeys(items["content_id"], stored)


def _packed(bits: np.ndarray) -> bytes:
    import zlib

    return zlib.compress(np.packbits(bits).tobytes())


def ask(items: pl.DataFrame, masks, search=None, config: EvaluateConfig = CONFIG) -> Synthetic:
    return search_synthetic(search or ByShape(items), items, masks, config, MAX_PIXELS)


def test_a_perfect_chain_scores_one_in_every_distortion(items, masks):
    done = ask(items, masks)
    assert done.metrics == {"synthetic/recall@1": 1.0} | {f"synthetic/{kind}/recall@1": 1.0 for kind in KINDS}
    assert (done.facts.n_items, done.facts.n_queries, done.facts.n_missed, done.facts.missed) == (8, 32, 0, ())
    assert [(one.name, one.n_queries, one.recall) for one in done.facts.distortions] == [(k, 8, 1.0) for k in KINDS]
    assert done.facts.missing == ""
    assert done.facts.problems == ()


def test_what_is_broken_for_one_distortion_shows_there_and_in_the_whole(items, masks):
    done = ask(items, masks, ByShape(items, lambda _, number: number % 4 == 1))
    assert done.metrics == {
        "synthetic/recall@1": 0.75,
        "synthetic/crop/recall@1": 1.0,
        "synthetic/flip/recall@1": 0.0,
        "synthetic/colour/recall@1": 1.0,
        "synthetic/background/recall@1": 1.0,
    }
    assert done.facts.n_missed == 8
    first = done.facts.missed[0]
    assert first.note == "flip"
    assert first.query.jpeg
    assert first.expected[0].item_id == first.query.item_id
    assert first.hits[0].item_id != first.query.item_id
    assert first.hits[0].mark is False
    assert [hit.mark for hit in first.hits].count(True) == 1, "the right one came second"


def test_every_item_has_a_row_of_its_own_that_says_what_its_pictures_found(items, masks):
    done = ask(items, masks, ByShape(items, lambda _, number: number % 4 == 0 or number == 5))
    rows = done.per_query
    assert rows["item_id"].n_unique() == len(rows) == 8
    assert not set(rows["item_id"]) & set(items["item_id"])
    assert rows["synthetic/recall@1"].to_list() == [0.75, 0.5, *[0.75] * 6]
    assert rows["synthetic/crop/recall@1"].to_list() == [0.0] * 8
    assert rows["synthetic/flip/recall@1"].to_list() == [1.0, 0.0, *[1.0] * 6]
    for name, value in done.metrics.items():
        assert rows[name].mean() == value


def test_an_item_without_a_mask_counts_by_its_other_pictures(items, masks):
    drawn = draw_items(items, CONFIG)
    del masks[drawn["content_id"][0]]
    done = ask(items, masks, ByShape(items, lambda _, number: number == 0))
    assert done.per_query["synthetic/background/recall@1"].to_list() == [None, *[1.0] * 7]
    assert done.per_query["synthetic/recall@1"].to_list() == pytest.approx([2 / 3, *[1.0] * 7])
    assert done.facts.recall == done.metrics["synthetic/recall@1"] == pytest.approx(1 - 1 / 24)


def test_the_gate_sees_a_chain_that_broke_on_the_same_queries(items, masks):
    config = EvaluateConfig(synthetic_queries=N)
    good, again = ask(items, masks, config=config), ask(items, masks, config=config)
    bad = ask(items, masks, ByShape(items, lambda _, number: number % 2 == 0), config)

    def verdict(candidate: Synthetic):
        return decide(
            ReleaseFigures(candidate.per_query, {}), ReleaseFigures(good.per_query, {}), GateConfig(min_ann_recall=0)
        )

    lost = next(row for row in verdict(bad).rows if row.name == "synthetic/recall@1")
    assert (lost.n_queries, lost.difference) == (N, -0.5)
    assert lost.high < 0
    assert all(row.difference == 0 for row in verdict(again).rows)


def test_the_same_seed_asks_the_same_to_the_byte_and_another_seed_otherwise(items, masks):
    one, two, other = (ByShape(items) for _ in range(3))
    first, again = ask(items, masks, one), ask(items, masks, two)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one.asked, two.asked, strict=True))
    assert first.per_query.equals(again.per_query)
    assert first.facts == again.facts
    ask(items, masks, other, CONFIG.model_copy(update={"seed": 1}))
    assert [picture.tobytes() for picture in other.asked] != [picture.tobytes() for picture in one.asked]


def test_an_item_asks_the_same_whatever_else_is_in_the_catalogue(items, masks):
    everything = EvaluateConfig(synthetic_queries=N)
    all_rows = ask(items, masks, config=everything).per_query
    fewer = items.filter(pl.col("item_id") != items["item_id"][3])
    search = ByShape(items)
    assert set(ask(fewer, masks, search, everything).per_query["item_id"]) < set(all_rows["item_id"])
    drawn, kept = draw_items(items, CONFIG), draw_items(fewer, CONFIG)
    assert len(set(drawn["item_id"]) & set(kept["item_id"])) >= 7, "a draw by hash hardly moves"


def test_an_item_with_the_very_same_picture_is_as_right(items, masks):
    twins = items.with_columns(content_id=pl.lit(items["content_id"][0]), image_uri=pl.lit(items["image_uri"][0]))
    done = ask(twins, masks, ByShape(items, lambda *_: True))
    assert done.metrics["synthetic/recall@1"] == 1.0


def test_without_masks_nothing_is_said_of_backgrounds(items):
    done = ask(items, {})
    assert set(done.metrics) == {"synthetic/recall@1", *(f"synthetic/{kind}/recall@1" for kind in KINDS[:3])}
    assert done.facts.n_queries == 24


def test_pictures_that_went_away_are_told_and_the_others_still_asked(items, masks):
    drawn = draw_items(items, CONFIG)["item_id"].to_list()
    broken = items.with_columns(
        image_uri=pl.when(pl.col("item_id") == drawn[0]).then(pl.lit("gone.jpg")).otherwise("image_uri")
    )
    done = ask(broken, masks)
    assert done.facts.n_items == 7
    assert done.metrics["synthetic/recall@1"] == 1.0
    assert done.facts.n_problems == 1
    assert drawn[0] in done.facts.problems[0]


@pytest.mark.parametrize(
    ("rows", "config", "said"),
    [
        (N, EvaluateConfig(synthetic_queries=0), "synthetic_queries is 0"),
        (0, CONFIG, "no item"),
    ],
)
def test_nothing_asked_says_why(items, masks, rows, config, said):
    done = ask(items.head(rows), masks, config=config)
    assert done.metrics == {}
    assert done.per_query.height == 0
    assert said in done.facts.missing


def test_no_picture_that_can_be_read_says_so(items, masks):
    done = ask(items.with_columns(image_uri=pl.lit("gone.jpg")), masks)
    assert done.metrics == {}
    assert "None of the 8" in done.facts.missing
    assert done.facts.n_problems == 8
