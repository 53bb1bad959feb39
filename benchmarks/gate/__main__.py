"""How the gate judges releases whose quality is known: the share held, and how often its stated losses are true.

    python -m benchmarks.gate [--nights N]

The tables show, over N pairs of releases a cell and by the number of query pictures of a product:

- equal releases, with as many answers lost as won, that are held for a loss (at most 5 in 100 are aimed for), and those
  that are held because too few products have queries;
- the same with four headline metrics in eight categories;
- a loss of 2 points of recall@1 that is held, alone and mixed with wins: at least 90 in 100 are aimed for at 500
  queries of different products, as long as (1.645 + 1.282) standard errors are below 2 points;
- half a point of recall@1 of 500 queries lost in every run: how often it is stopped before 2 points are gone, and how
  many are gone then (N / 10 shops a cell);
- equal releases over 100 runs, against production and the anchor: the share held (N / 50 shops a cell);
- how often the stated largest loss is at least the true one (95 in 100), and how often the 95% interval covers it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gate.planted_releases import (
    LOSS,
    VIEWS,
    Change,
    coverage,
    judge_changes,
    judge_four_metrics,
    share_held,
)
from benchmarks.gate.runs_in_a_row import RunsInARow

if TYPE_CHECKING:
    from retrieval_core.evaluate.gate.decide import Verdict


def _held_as(verdicts: Sequence[Verdict]) -> str:
    for_a_loss = float(np.mean([bool(verdict.losses) for verdict in verdicts]))
    as_too_few = share_held(verdicts) - for_a_loss
    return f"{for_a_loss:.1%}" + f" {as_too_few:+.0%}" * (as_too_few > 0)


def _held(n_nights: int, n_queries: int, change: Change, views: int) -> str:
    return _held_as(judge_changes(n_nights, n_queries, change, views))


def _held_by_four(n_nights: int, n_queries: int, loss: float, anew: float, views: int) -> str:
    return _held_as(judge_four_metrics(n_nights, n_queries, loss, anew, views))


def _covered(n_nights: int, n_queries: int, change: Change, views: int) -> str:
    bounded, covered = coverage(judge_changes(n_nights, n_queries, change, views), change.true_loss)
    return f"{bounded:.1%} {covered:.1%}"


def _stopped(n_shops: int, anew: float, views: int) -> str:
    shops = [RunsInARow(seed, views, anew) for seed in range(n_shops)]
    stopped = [shop.drift_until_held() and shop.lost_in_production < LOSS for shop in shops]
    lost = float(np.median([shop.lost_in_production for shop in shops]))
    return f"{np.mean(stopped):.0%} at {100 * lost:.1f}"


def _held_over_runs(n_shops: int, anew: float, views: int) -> str:
    shops = [RunsInARow(seed, views, anew) for seed in range(n_shops)]
    return f"{np.mean([shop.run().gate == 'held' for shop in shops for _ in range(100)]):.1%}"


def _tables(n: int) -> Iterator[tuple[str, dict[str, Callable[[int], str]]]]:
    """Yield titles and rows; a row computes its cell for a number of views."""
    yield (
        "Equal releases that are held, for a loss and as too few: recall@1",
        {
            f"{size} queries, {churn:.0%} changed": partial(_held, n, size, Change(churn / 2, churn / 2))
            for size in (50, 100, 200, 500)
            for churn in (0.0, 0.02, 0.1, 0.3)
        },
    )
    yield (
        "Equal releases that are held, for a loss and as too few: four metrics, eight categories",
        {
            f"{size} queries, {anew:.0%} anew": partial(_held_by_four, n, size, 0.0, anew)
            for size in (100, 500)
            for anew in (0.05, 0.3, 1.0)
        },
    )
    yield (
        "A loss of 2 points that is held: recall@1 of 500 queries",
        {
            f"{LOSS + won:.2%} lost, {won:.2%} won": partial(_held, n, 500, Change(LOSS + won, won))
            for won in (0.0, 0.0025, 0.005, 0.01, 0.04)
        },
    )
    yield (
        "A loss of 2 points that is held: four metrics, eight categories, 5% anew",
        {f"{size} queries": partial(_held_by_four, n, size, LOSS, 0.05) for size in (500, 1000, 2000)},
    )
    churns = (0.0, 0.02, 0.05, 0.1)
    yield (
        "Half a point lost in every run: stopped before 2 points are gone, and the median lost then",
        {f"{anew:.0%} anew": partial(_stopped, max(n // 10, 1), anew) for anew in churns},
    )
    yield (
        "Equal releases over 100 runs that are held",
        {f"{anew:.0%} anew": partial(_held_over_runs, max(n // 50, 1), anew) for anew in churns},
    )
    changes = (Change(0.02, 0), Change(0.01, 0.01), Change(0.1, 0.08), Change(0.05, 0.05, is_graded=True))
    yield (
        "True losses within the stated largest loss, and within the 95% interval",
        {
            f"{size}: {change.lost:.0%} lost, {change.won:.0%} won{', AP' * change.is_graded}": partial(
                _covered, n, size, change
            )
            for size in (30, 50, 100, 500)
            for change in changes
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=300, help="pairs of releases a cell")
    for title, rows in _tables(parser.parse_args().nights):
        print(f"\n{title}\n{'':28}" + "".join(f"{f'{views} views':>14}" for views in VIEWS))
        for name, cell in rows.items():
            print(f"{name:28}" + "".join(f"{cell(views):>14}" for views in VIEWS.values()), flush=True)


if __name__ == "__main__":
    main()
