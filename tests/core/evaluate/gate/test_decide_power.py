"""What the gate promises about chance: true losses are held, equal releases pass, stated losses are true.

The releases are those that `python -m benchmarks.gate` draws, which measures the same rates with more repetitions.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from benchmarks.gate.planted_releases import (
    LOSS,
    VIEWS,
    Change,
    changed_releases,
    coverage,
    four_metric_releases,
    judge,
    judge_changes,
    judge_four_metrics,
    share_held,
)

N_NIGHTS = 100


def most(share: float, n: int) -> float:
    """Three standard deviations above the share of n."""
    return share + 3 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_equal_releases_are_held_at_most_five_times_in_a_hundred(views: int) -> None:
    for n_queries, churn in ((100, 0.05), (500, 0.1)):
        held = share_held(judge_changes(N_NIGHTS, n_queries, Change(churn / 2, churn / 2), views))
        assert held <= most(0.05, N_NIGHTS), (n_queries, churn)


@pytest.mark.parametrize("views", [1, 4])
def test_equal_releases_with_many_metrics_and_categories_are_held_no_more_often(views: int) -> None:
    verdicts = judge_four_metrics(40, 500, 0.0, 0.3, views)
    assert share_held(verdicts) <= most(0.05, len(verdicts))
    assert all(verdict.categories for verdict in verdicts)


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("n_queries", [100, 500])
def test_a_release_that_answers_alike_is_published(n_queries: int, views: int) -> None:
    challenger, production = changed_releases(np.random.default_rng(0), n_queries, views, Change(0, 0))
    assert judge(challenger, production).gate == "published"
    slightly = challenger.with_columns(
        pl.when(pl.int_range(n_queries) == 7).then(0.0).otherwise("recall@1").alias("recall@1")
    )
    assert judge(slightly, production).gate == "published"


def test_a_true_loss_of_two_points_at_500_queries_is_held_nine_times_in_ten() -> None:
    """Alone, and mixed with wins while (1.645 + 1.282) standard errors are below 2 points."""
    for won in (0.0, 0.001):
        assert share_held(judge_changes(150, 500, Change(LOSS + won, won), 1)) >= 0.9


def test_a_loss_that_many_wins_hide_is_held_as_often_as_its_standard_error_allows() -> None:
    change = Change(0.03, 0.01)
    error = ((change.lost + change.won - change.true_loss**2) / 500) ** 0.5
    power = 1 - 0.5 * (1 + np.sign(z := 1.645 - LOSS / error) * (1 - np.exp(-2 * z**2 / np.pi)) ** 0.5)
    held = share_held(judge_changes(200, 500, change, 1))
    assert held == pytest.approx(power, abs=3 * (power * (1 - power) / 200) ** 0.5)


def test_a_loss_that_four_metrics_show_is_held_nine_times_in_ten() -> None:
    assert share_held(judge_four_metrics(40, 500, LOSS, 0.05, 1)) >= 0.9


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_a_loss_that_enough_queries_show_is_held_however_they_cluster(views: int) -> None:
    assert share_held(judge_changes(40, 2000, Change(0.05, 0.01), views)) >= 0.9


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("n_queries", [30, 200])
def test_a_stated_loss_is_true_nineteen_times_in_twenty(n_queries: int, views: int) -> None:
    for change in (Change(0.02, 0), Change(0.01, 0.01), Change(0.1, 0.08), Change(0.05, 0.05, is_graded=True)):
        bounded, covered = coverage(judge_changes(60, n_queries, change, views), change.true_loss)
        assert min(bounded, covered) >= 1 - most(0.05, 60), change


def test_a_category_that_breaks_is_held_where_the_whole_hardly_moves() -> None:
    """Of 2,500 queries the 60 of one category lose half of their right answers: 0.7 points of the whole."""
    rng, held = np.random.default_rng(4), 0
    for _ in range(12):
        challenger, production = four_metric_releases(rng, 2500, 1, 0.0, 0.05)
        of_shoes = pl.int_range(2500) < 60
        kept = pl.Series(rng.random(2500) < 0.5)
        broken = challenger.with_columns(
            pl.when(of_shoes).then(pl.lit("shoe")).otherwise(pl.col("category")).alias("category"),
            pl.when(of_shoes & ~kept).then(0.0).otherwise(pl.col("recall@1", "map@5")).name.keep(),
        )
        held += "shoe" in {row.category for row in judge(broken, production).losses}
    assert held >= 0.9 * 12
