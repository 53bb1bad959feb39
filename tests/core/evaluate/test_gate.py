"""The gate holds a true loss, lets chance pass, and always says why."""

import json

import numpy as np
import polars as pl
import pytest

from retrieval_core.config import GateConfig
from retrieval_core.evaluate.gate import Verdict, decide

BLOCK = GateConfig()


def results(seed: int = 0, n: int = 500, **metrics: float) -> pl.DataFrame:
    """Hits and misses of n queries at the given rates: the easier queries hit, so runs of one seed are paired."""
    difficulty = np.random.default_rng(seed).permutation(n) / n
    columns = {name: (difficulty < rate).astype(np.float64) for name, rate in metrics.items()}
    return pl.DataFrame({"item_id": [f"q{i:04}" for i in range(n)], **columns})


def means(frame: pl.DataFrame | None) -> dict[str, float]:
    return {} if frame is None else {name: frame[name].mean() for name in frame.columns if frame[name].dtype.is_float()}


def ask(candidate, production, config=BLOCK, reconciled=True, **more: float) -> Verdict:
    before = None if production is None else means(production)
    return decide(candidate, means(candidate) | more, production, before, config, reconciled)


GOOD = results(**{"recall@1": 0.70, "map@5": 0.60})
WORSE = results(**{"recall@1": 0.65, "map@5": 0.60})


def test_a_true_loss_is_held_and_named():
    verdict = ask(WORSE, GOOD)
    assert verdict.gate == "held"
    assert [row.name for row in verdict.losses] == ["recall@1"]
    assert verdict.reason.startswith("Held: recall@1 fell from 0.700 to 0.650 on 500 shared queries (95% interval -0.0")
    assert verdict.reason.count(". ") == 0
    assert verdict.reason.endswith(".")


def test_a_verdict_shows_every_metric_with_its_interval():
    row = ask(WORSE, GOOD).rows[0]
    assert row.difference == pytest.approx(row.candidate - row.production)
    assert row.low <= row.difference <= row.high < 0
    assert row.p_holm < 0.05
    assert row.n_queries == 500


def test_a_gain_and_an_equal_candidate_are_published():
    for candidate in (GOOD, results(**{"recall@1": 0.8, "map@5": 0.6})):
        verdict = ask(candidate, GOOD)
        assert verdict.gate == "published"
        assert "recall@1, map@5" in verdict.reason
        assert "500 queries" in verdict.reason


def test_a_loss_within_the_tolerance_is_published_however_certain():
    verdict = ask(WORSE, GOOD, GateConfig(max_loss=0.2))
    assert verdict.gate == "published"
    assert verdict.rows[0].p_holm < 0.05


def test_a_loss_that_chance_explains_is_published():
    # Twelve queries of which two are lost: 17 points, and nothing to conclude from.
    before = pl.DataFrame({"item_id": [str(i) for i in range(12)], "recall@1": [1.0] * 12})
    after = before.with_columns(pl.Series("recall@1", [0.0, 0.0] + [1.0] * 10))
    verdict = ask(after, before)
    assert verdict.gate == "published"
    assert verdict.rows[0].difference < -0.1


def test_losses_of_two_points_are_held_and_equal_candidates_pass():
    rng = np.random.default_rng(1)
    held_worse = held_equal = 0
    ids = [str(i) for i in range(500)]
    for _ in range(60):
        base = (rng.random(500) < 0.7).astype(float)
        one, other = (np.where(rng.random(500) < 0.05, 1 - base, base) for _ in range(2))
        worse = np.where(rng.random(500) < 0.02 / 0.7, 0.0, base)
        base, one, other, worse = (pl.DataFrame({"item_id": ids, "recall@1": run}) for run in (base, one, other, worse))
        held_equal += ask(one, other).gate == "held"
        held_worse += ask(worse, base).gate == "held"
    assert held_worse >= 0.9 * 60
    assert held_equal <= 0.1 * 60


def test_only_headlines_are_tested_where_there_are_any():
    before = results(**{"recall@1": 0.7, "recall@2": 0.7})
    after = results(**{"recall@1": 0.7, "recall@2": 0.5})
    verdict = ask(after, before)
    assert verdict.gate == "published"
    assert {row.name: row.p_holm is None for row in verdict.rows} == {"recall@1": False, "recall@2": True}
    assert ask(after.drop("recall@1"), before).gate == "held"


def test_a_variant_stands_before_the_headline():
    before, after = results(**{"boosted/map@5": 0.7, "boosted/map@1": 0.7}), results(**{"boosted/map@5": 0.6})
    assert [row.name for row in ask(after, before).losses] == ["boosted/map@5"]


def test_only_shared_queries_with_a_value_on_both_sides_are_compared():
    before = GOOD.head(300).with_columns(pl.col("map@5").fill_null(0))
    after = GOOD.tail(300).sample(fraction=1, shuffle=True, seed=0)
    undefined = pl.when(pl.col("item_id") < "q0250").then(None).otherwise(pl.col("map@5")).alias("map@5")
    verdict = ask(after.with_columns(undefined), before)
    assert {row.name: row.n_queries for row in verdict.rows} == {"recall@1": 100, "map@5": 50}
    assert all(row.difference == 0 for row in verdict.rows)


def test_the_first_release_is_published():
    verdict = decide(GOOD, means(GOOD), None, None, BLOCK, True)
    assert (verdict.gate, verdict.reason) == ("published", "First release: there is no production to compare with.")


@pytest.mark.parametrize(
    ("candidate", "production"),
    [
        (None, GOOD),
        (None, None),
        (GOOD, GOOD.with_columns(item_id=pl.lit("other ") + pl.col("item_id"))),
        (GOOD, GOOD.select("item_id")),
        (GOOD.clear(), GOOD),
        (GOOD.head(1), GOOD),
        (GOOD.with_columns(pl.lit(None, pl.Float64).alias("recall@1"), pl.lit(float("nan")).alias("map@5")), GOOD),
    ],
)
def test_what_cannot_be_compared_is_published_and_says_so(candidate, production):
    verdict = decide(candidate, {}, production, {}, BLOCK, True)
    assert verdict.gate == "published"
    assert verdict.reason.startswith("Nothing could be compared")


@pytest.mark.parametrize("production", [None, GOOD])
def test_an_index_that_misses_neighbours_is_held_even_on_the_first_night(production):
    verdict = ask(GOOD, production, **{"ann_recall@10": 0.9})
    assert verdict.gate == "held"
    assert "0.900" in verdict.reason
    assert "ann_recall@10" in verdict.reason
    assert ask(GOOD, production, **{"ann_recall@10": float("nan")}).gate == "held"
    assert ask(GOOD, production, **{"ann_recall@10": 0.95}).gate == "published"


def test_rows_that_do_not_reconcile_are_held():
    verdict = ask(GOOD, GOOD, reconciled=False)
    assert verdict.gate == "held"
    assert "quarantined" in verdict.reason


def test_several_causes_make_one_sentence():
    verdict = ask(WORSE, GOOD, reconciled=False, **{"ann_recall@10": 0.1})
    assert verdict.reason.count("; ") == 2


def test_warn_publishes_with_the_reason():
    verdict = ask(WORSE, GOOD, GateConfig(mode="warn"))
    assert verdict.gate == "published"
    assert verdict.reason.startswith("Published with a warning: recall@1 fell")
    assert verdict.losses


def test_off_looks_at_nothing():
    verdict = ask(WORSE, GOOD, GateConfig(mode="off"), reconciled=False)
    assert (verdict.gate, verdict.rows) == ("published", ())
    assert "off" in verdict.reason


def test_metrics_known_only_as_numbers_are_shown_and_never_tested():
    verdict = decide(GOOD, {"mask_iou": 0.5, "new": 1.0}, GOOD, {"mask_iou": 0.8}, BLOCK, True)
    row = verdict.rows[-1]
    assert (row.name, row.production, row.candidate) == ("mask_iou", 0.8, 0.5)
    assert row.low is row.high is row.p_holm is None
    assert verdict.gate == "published"


def test_text_columns_beside_the_metrics_are_ignored():
    frame = GOOD.with_columns(category=pl.lit("dress"))
    assert {row.name for row in ask(frame, frame.with_columns(category=pl.lit("shoe"))).rows if row.n_queries} == {
        "recall@1",
        "map@5",
    }


def test_a_verdict_survives_json():
    verdict = ask(WORSE, GOOD)
    assert Verdict.model_validate(json.loads(verdict.model_dump_json())) == verdict
