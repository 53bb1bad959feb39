"""What the gate promises about chance: true losses are held, equal candidates pass, intervals cover the truth.

The catalogue here is known to the last number. Each of 500 queries has a share of right answers among its first five
that is its own (Beta(1.2, 0.8), 0.6 on average), a label likeness, and one of eight categories. Of both sides, 5 in 100
queries are answered anew by that share: so two searches as good as each other differ in the first answer of 3 in 100
queries, and in the AP@5 of 7 or 8. The worse candidate moreover loses each right answer with probability 1/30: 2 points
of recall@1, and by the same places 2.5 points of map@5 and 0.8 of label_iou@5.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrieval_core.config import GateConfig
from retrieval_core.evaluate.gate.decide import ReleaseFigures, Verdict, decide

RIGHT, LOSS, N = 0.6, 0.02, 500
GATE = GateConfig()
N_RUNS = 120

Bool = np.ndarray


def answers(rng: np.random.Generator, n: int = N) -> Bool:
    """The share of right answers of each query: (n, 1)."""
    return rng.beta(2 * RIGHT, 2 * (1 - RIGHT), (n, 1))


def average_precision(hits: Bool) -> np.ndarray:
    """AP@5 where five or more items are relevant."""
    return (hits * hits.cumsum(axis=1) / np.arange(1, 6)).sum(axis=1) / 5


def table(hits: Bool, likeness: np.ndarray, categories: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"q{number:05}" for number in range(len(hits))],
            "category": categories,
            "recall@1": hits[:, 0].astype(float),
            "map@5": average_precision(hits),
            "attribute_map@10": average_precision(hits & (likeness > 0.5)),
            "label_iou@5": np.where(hits, likeness, 0.1).mean(axis=1),
        }
    )


def two_releases(
    rng: np.random.Generator, loss: float, anew: float = 0.05, n: int = N
) -> tuple[ReleaseFigures, ReleaseFigures]:
    """A candidate whose true recall@1 is lower by `loss`, and production."""
    share = answers(rng, n)
    known, likeness = rng.random((n, 5)) < share, 0.2 + 0.6 * rng.random((n, 1))
    categories = np.array(list("abcdefgh"))[rng.integers(0, 8, n)]
    candidate, production = (np.where(rng.random((n, 1)) < anew, rng.random((n, 5)) < share, known) for _ in range(2))
    candidate &= rng.random((n, 5)) >= loss / RIGHT
    return ReleaseFigures(table(candidate, likeness, categories), {}), ReleaseFigures(
        table(production, likeness, categories), {}
    )


def judge(candidate: ReleaseFigures, production: ReleaseFigures) -> Verdict:
    return decide(candidate, production, GATE)


@pytest.fixture(scope="module")
def after_a_loss() -> list[Verdict]:
    rng = np.random.default_rng(0)
    return [judge(*two_releases(rng, LOSS)) for _ in range(N_RUNS)]


@pytest.fixture(scope="module")
def of_equals() -> dict[float, list[Verdict]]:
    """By the share of queries that are answered anew: of few, of some, of all."""
    rng = np.random.default_rng(1)
    return {anew: [judge(*two_releases(rng, 0, anew)) for _ in range(N_RUNS)] for anew in (0.05, 0.3, 1.0)}


def n_held(verdicts: list[Verdict]) -> int:
    return sum(verdict.gate == "held" for verdict in verdicts)


def test_a_true_loss_of_two_points_at_500_queries_is_held_nine_times_in_ten(after_a_loss: list[Verdict]) -> None:
    assert n_held(after_a_loss) >= 0.9 * N_RUNS


def test_equal_candidates_are_held_at_most_five_times_in_a_hundred(of_equals: dict[float, list[Verdict]]) -> None:
    verdicts = [verdict for some in of_equals.values() for verdict in some]
    assert n_held(verdicts) <= 0.05 * len(verdicts)
    assert n_held(of_equals[1.0]) > 0, "so noisy a search is held now and then, or nothing is tested"


def test_two_points_of_recall_alone_are_held_nine_times_in_ten() -> None:
    """One query in fifty loses its first right answer, none wins one, and every other metric stays as it was.

    At most 93 in 100 can be held: in the others no more than five queries are lost, a point and tolerated.
    """
    rng, held = np.random.default_rng(2), 0
    for _ in range(N_RUNS):
        _, production = two_releases(rng, 0)
        lost = pl.Series(rng.random(N) < LOSS / RIGHT)
        worse = production.per_query.with_columns(
            pl.when(lost).then(0.0).otherwise(pl.col("recall@1")).alias("recall@1")
        )
        held += judge(production._replace(per_query=worse), production).gate == "held"
    assert held >= 0.9 * N_RUNS


@pytest.mark.parametrize("name", ["recall@1", "map@5", "attribute_map@10", "label_iou@5"])
def test_the_intervals_cover_the_true_difference_at_their_rate(
    name: str, after_a_loss: list[Verdict], of_equals: dict[float, list[Verdict]]
) -> None:
    """Within three standard deviations of 95 in 100."""
    candidate, production = (side.per_query[name] for side in two_releases(np.random.default_rng(3), LOSS, n=400_000))
    true_loss = float((candidate - production).mean())
    covered = []
    for verdicts, truth in ((after_a_loss, true_loss), *((equal, 0.0) for equal in of_equals.values())):
        rows = [row for verdict in verdicts for row in verdict.rows if row.name == name]
        covered += [row.low <= truth <= row.high for row in rows]
    assert abs(np.mean(covered) - 0.95) <= 3 * (0.95 * 0.05 / len(covered)) ** 0.5


def test_a_category_that_breaks_is_held_where_the_whole_hardly_moves() -> None:
    """Of 2,500 queries the 60 of one category lose half of their right answers: 0.7 points of the whole."""
    rng, held = np.random.default_rng(4), 0
    for _ in range(12):
        candidate, production = two_releases(rng, 0, n=2500)
        of_shoes = pl.int_range(2500) < 60
        kept = pl.Series(rng.random(2500) < 0.5)
        broken = candidate.per_query.with_columns(
            pl.when(of_shoes).then(pl.lit("shoe")).otherwise(pl.col("category")).alias("category"),
            pl.when(of_shoes & ~kept).then(0.0).otherwise(pl.col("recall@1", "map@5")).name.keep(),
        )
        verdict = judge(candidate._replace(per_query=broken), production)
        held += "shoe" in {row.category for row in verdict.losses}
    assert held >= 0.9 * 12
