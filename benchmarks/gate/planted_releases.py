"""Draw pairs of releases whose quality is known, and let the gate judge them.

Products have 1, 2, 4 or unevenly many (1 to 12) query pictures; the pictures of 4 products in 5 are answered alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from retrieval_core.arrays import Bool, Float64, Int64
    from retrieval_core.evaluate.gate.decide import Verdict

VIEWS = {"1": 1, "2": 2, "4": 4, "uneven": 0}
ALIKE = 0.8  # share of the products whose pictures are all answered alike
RIGHT = 0.6  # share of right answers
LOSS = 0.02
SIZES_OF_AP = (0.04, 0.1, 0.2, 0.3, 0.5, 1.0)  # by how much the average precision of a query changes


class Change(NamedTuple):
    """The shares of the queries whose answer is lost and won; a graded metric changes by `SIZES_OF_AP`."""

    lost: float
    won: float
    is_graded: bool = False

    @property
    def true_loss(self) -> float:
        return (self.lost - self.won) * (float(np.mean(SIZES_OF_AP)) if self.is_graded else 1.0)


def draw_products(rng: np.random.Generator, n_queries: int, views: int) -> Int64:
    """Return the product of each query, (n,) ascending; with 0 views a product has 1 to 12 of them, 3.3 on average."""
    sizes = np.full(n_queries, views) if views else np.minimum(rng.geometric(0.3, n_queries), 12)
    return np.repeat(np.arange(n_queries), sizes)[:n_queries]


def of_product(rng: np.random.Generator, products: Int64, alike: float = ALIKE) -> Float64:
    """Return uniform numbers, (n,), which are equal within a share `alike` of the products."""
    n_products = products[-1] + 1
    is_alike = rng.random(n_products) < alike
    return np.where(is_alike[products], rng.random(n_products)[products], rng.random(len(products)))


def table(products: Int64, **metrics: Float64) -> pl.DataFrame:
    import polars as pl

    ids = [f"q{number:05}" for number in range(len(products))]
    return pl.DataFrame({"item_id": ids, "cluster": [f"p{product}" for product in products], **metrics})


def changed_releases(
    rng: np.random.Generator, n_queries: int, views: int, change: Change
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a challenger and production that differ in recall@1, or in map@5 if the change is graded."""
    products = draw_products(rng, n_queries, views)
    drawn, size = of_product(rng, products), np.ones(n_queries)
    is_lost, is_won = drawn < change.lost, (drawn >= change.lost) & (drawn < change.lost + change.won)
    if change.is_graded:
        size = rng.choice(SIZES_OF_AP, n_queries)
    base = np.where(is_lost | is_won, 1 - size, rng.random(n_queries) < RIGHT)
    name = "map@5" if change.is_graded else "recall@1"
    challenger, production = base + size * is_won, base + size * is_lost
    return table(products, **{name: challenger}), table(products, **{name: production})


def four_metric_releases(
    rng: np.random.Generator, n_queries: int, views: int, loss: float, anew: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a challenger whose true recall@1 is lower by `loss`, and production, with four metrics and 8 categories.

    Each product has its own share of right answers among its first five and its own likeness of labels; either side
    answers a share `anew` of the products anew.
    """
    import polars as pl

    products = draw_products(rng, n_queries, views)
    n_products = products[-1] + 1
    share = rng.beta(2 * RIGHT, 2 * (1 - RIGHT), n_products)[products, None]
    likeness = (0.2 + 0.6 * rng.random(n_products))[products]
    categories = np.array(list("abcdefgh"))[rng.integers(0, 8, n_products)[products]]

    def answers() -> Bool:
        drawn = np.column_stack([of_product(rng, products) for _ in range(5)])
        return np.asarray(drawn < share)

    shared = answers()
    challenger, production = (
        np.where((rng.random(n_products) < anew)[products, None], answers(), shared) for _ in range(2)
    )
    challenger &= np.column_stack([of_product(rng, products) for _ in range(5)]) >= loss / RIGHT
    sides = (table(products, **_metrics(hits, likeness)) for hits in (challenger, production))
    worse, better = (side.with_columns(category=pl.Series(categories)) for side in sides)
    return worse, better


def _metrics(hits: Bool, likeness: Float64) -> dict[str, Float64]:
    return {
        "recall@1": hits[:, 0].astype(float),
        "map@5": _average_precision(hits),
        "attribute_map@10": _average_precision(hits & (likeness > 0.5)[:, None]),
        "label_iou@5": np.where(hits, likeness[:, None], 0.1).mean(axis=1),
    }


def _average_precision(hits: Bool) -> Float64:
    """Return AP@5 where five or more items are relevant."""
    precision: Float64 = (hits * hits.cumsum(axis=1) / np.arange(1, 6)).sum(axis=1) / 5
    return precision


def judge(challenger: pl.DataFrame, production: pl.DataFrame) -> Verdict:
    from retrieval_core.config.stages import GateConfig
    from retrieval_core.evaluate.gate.decide import ReleaseFigures, decide

    return decide(ReleaseFigures(challenger, {}), ReleaseFigures(production, {}), GateConfig())


def judge_changes(n_nights: int, n_queries: int, change: Change, views: int, seed: int = 0) -> list[Verdict]:
    rng = np.random.default_rng(seed)
    return [judge(*changed_releases(rng, n_queries, views, change)) for _ in range(n_nights)]


def judge_four_metrics(
    n_nights: int, n_queries: int, loss: float, anew: float, views: int, seed: int = 0
) -> list[Verdict]:
    rng = np.random.default_rng(seed)
    return [judge(*four_metric_releases(rng, n_queries, views, loss, anew)) for _ in range(n_nights)]


def share_held(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([verdict.gate == "held" for verdict in verdicts]))


def coverage(verdicts: Sequence[Verdict], true_loss: float) -> tuple[float, float]:
    """Return how often the stated largest loss is at least the true one, and how often the interval covers it."""
    rows = [verdict.rows[0] for verdict in verdicts]
    bounded = [(row.largest_loss or 0.0) >= true_loss - 1e-12 for row in rows]
    covered = [(row.low or 0.0) <= -true_loss + 1e-12 and -true_loss - 1e-12 <= (row.high or 0.0) for row in rows]
    return float(np.mean(bounded)), float(np.mean(covered))
