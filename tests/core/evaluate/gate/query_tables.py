"""Tables of one row a query, as the gate compares them: hits and misses at given rates, with categories and losses."""

import numpy as np
import polars as pl


def results(seed: int = 0, n: int = 500, **metrics: float) -> pl.DataFrame:
    """Hits and misses of n queries at the given rates: the easier queries hit, so runs of one seed are paired."""
    difficulty = np.random.default_rng(seed).permutation(n) / n
    columns = {name: (difficulty < rate).astype(np.float64) for name, rate in metrics.items()}
    return pl.DataFrame({"item_id": [f"q{i:04}" for i in range(n)], **columns})


def in_categories(frame: pl.DataFrame, *sizes: int) -> pl.DataFrame:
    """The first queries in categories a, b, c, … of these sizes, the others in none."""
    names = [name for name, size in zip("abcdefgh", sizes, strict=False) for _ in range(size)]
    return frame.with_columns(category=pl.Series([*names, *[None] * (len(frame) - len(names))], dtype=pl.String))


def of_products(frame: pl.DataFrame, n_views: int) -> pl.DataFrame:
    """Queries of one product after the other, `n_views` of each."""
    return frame.with_columns(cluster=pl.format("p{}", pl.int_range(pl.len()) // n_views))


def flawless(n: int = 3000) -> pl.DataFrame:
    """Every query hits."""
    return results(n=n, **{"recall@1": 2.0, "map@5": 2.0})


def with_losses(frame: pl.DataFrame, is_lost: np.ndarray) -> pl.DataFrame:
    """The recall@1 of some queries is lost."""
    return frame.with_columns(pl.when(pl.Series(is_lost)).then(0.0).otherwise(pl.col("recall@1")).alias("recall@1"))


GOOD = results(**{"recall@1": 0.70, "map@5": 0.60})
WORSE = results(**{"recall@1": 0.65, "map@5": 0.60})
