"""Losses that each run tolerates are stopped before they add up, and equal releases are still published."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from benchmarks.gate.runs_in_a_row import RunsInARow
from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.anchor_comparison import AnchorFigures, find_drift
from retrieval_core.evaluate.gate.decide import ReleaseFigures, decide
from retrieval_core.evaluate.gate.paired_comparison import Changes, MetricChange

CONFIG = GateConfig()
OF_ANCHOR = AnchorFigures("a" * 32, pl.DataFrame(), pl.DataFrame(), most_rows=1000)


def test_half_a_point_a_run_is_stopped_before_two_points_are_gone() -> None:
    shops = [RunsInARow(seed, anew=anew) for anew in (0.0, 0.01) for seed in range(20)]
    assert all(shop.drift_until_held() for shop in shops)
    assert np.mean([shop.lost_in_production < 0.02 for shop in shops]) >= 0.9


def test_without_an_anchor_production_erodes() -> None:
    shops = [RunsInARow(seed, anew=0.01) for seed in range(10)]
    for shop in shops:
        shop.has_anchor = False
        shop.drift_until_held()
    assert np.median([shop.lost_in_production for shop in shops]) > 0.03


def test_equal_releases_are_rarely_held_in_a_hundred_runs() -> None:
    shops = [RunsInARow(seed, views, anew=0.02) for seed, views in enumerate((1, 1, 4, 0))]
    assert np.mean([shop.run().gate == "held" for shop in shops for _ in range(100)]) <= 0.05


def test_a_search_that_is_clearly_better_is_the_next_anchor() -> None:
    before = RunsInARow(0).production
    better = before.with_columns(
        pl.when(pl.int_range(pl.len()) < 100).then(1.0).otherwise(pl.col("recall@1", "map@5")).name.keep()
    )
    slightly = before.with_columns(
        pl.when(pl.int_range(pl.len()) < 5).then(1.0).otherwise(pl.col("recall@1")).alias("recall@1")
    )
    for challenger, is_anchor in ((better, True), (slightly, False), (before, False)):
        figures = AnchorFigures("a" * 32, challenger, before)
        verdict = decide(ReleaseFigures(challenger, {}), ReleaseFigures(before, {}), CONFIG, figures)
        assert (verdict.gate, verdict.is_anchor) == ("published", is_anchor)
    assert decide(ReleaseFigures(before, {}), None, CONFIG).is_anchor, "the first release"


def test_the_reason_names_the_anchor_and_what_stands_in_for_it() -> None:
    found = RunsInARow(1).production
    figures = AnchorFigures("0123456789abcdef", found, found, n_gallery=1040, note="It was removed.")
    same = ReleaseFigures(found, {})
    reason = decide(same, same, CONFIG, figures).reason
    since = "Since the anchor 0123456789ab, among the 1,040 items of both, the loss is at most "
    assert re.search(f" {since}[0-9.]+ points in recall@1[^;]*; 2 are tolerated. It was removed.$", reason)
    held = decide(same._replace(reconciled=False), same, CONFIG, figures)
    assert held.reason.endswith(". It was removed.")
    own = decide(same, same, CONFIG, AnchorFigures("0123456789abcdef"))
    assert "anchor" not in own.reason


def loss(name: str, category: str = "", by: float = 0.03) -> MetricChange:
    return MetricChange(
        name=name, category=category, production=0.7, candidate=0.7 - by, difference=-by, n_queries=500, low=-0.05,
        high=-0.01, p_holm=0.001, blocks=True,
    )  # fmt: skip


def test_every_loss_since_the_anchor_is_a_cause_but_for_those_of_one_run() -> None:
    rows = (loss("recall@1"), loss("map@5"), *(loss("map@5", category, 0.2) for category in ("hat", "coat", "shoe")))
    causes = list(find_drift(OF_ANCHOR, Changes(overall=(loss("recall@1"),)), rows, 1000, CONFIG))
    assert causes[0].startswith("map@5 fell from 0.700 to 0.670 since the anchor aaaaaaaaaaaa, over several runs")
    assert "gate.max_drift" in causes[0]
    assert causes[1].startswith("map@5 fell in category hat from 0.700 to 0.500")
    assert causes[3:] == ["1 more metrics fell since the anchor aaaaaaaaaaaa"]


@pytest.mark.parametrize(("n_indexed", "is_held"), [(800, False), (799, True)])
def test_a_catalogue_that_shrank_by_more_than_a_fifth_since_the_anchor_is_held(n_indexed: int, is_held: bool) -> None:
    causes = list(find_drift(OF_ANCHOR, Changes(), (), n_indexed, CONFIG))
    assert len(causes) == is_held
    if is_held:
        assert causes[0].startswith("the catalogue shrank from 1,000 to 799 items since the anchor")
        assert "promote" in causes[0]
