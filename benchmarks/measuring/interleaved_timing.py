"""Timing of alternatives in turn: each round runs all of them once, so that other load slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Run = Callable[[], object]
Seconds = dict[str, list[float]]  # by name of the alternative, one for each round


class Contender(NamedTuple):
    """A way to search: `batch` runs all queries in one call, `single` some of them one by one."""

    batch: Run
    single: Run
    recall: float


class Race(NamedTuple):
    """The times of contenders; a run of `batch` has `n_batch` queries, one of `single` has `n_single`."""

    batch_s: Seconds
    single_s: Seconds
    recall: dict[str, float]
    n_batch: int
    n_single: int

    def figures(self, name: str, over: str) -> dict[str, float]:
        """Return the figures of a contender, and how much faster it is than the contender `over`."""
        return {
            "batch_per_s": self.n_batch / statistics.median(self.batch_s[name]),
            "batch_faster": ratio(self.batch_s, over, name),
            "single_ms": 1e3 * statistics.median(self.single_s[name]) / self.n_single,
            "single_faster": ratio(self.single_s, over, name),
            "recall": self.recall[name],
        }


def interleaved(alternatives: Mapping[str, Run], rounds: int) -> Seconds:
    """Run all alternatives in turn, `rounds` times, and return the seconds of each by round."""
    seconds: Seconds = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, run in alternatives.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Return the median over the rounds of the ratio of two alternatives within a round."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def race(contenders: Mapping[str, Contender], n_batch: int, n_single: int, rounds: int) -> Race:
    """Time the batches of all contenders in turn, then their single queries."""
    batch_s = interleaved({name: contender.batch for name, contender in contenders.items()}, rounds)
    single_s = interleaved({name: contender.single for name, contender in contenders.items()}, rounds)
    return Race(batch_s, single_s, {name: c.recall for name, c in contenders.items()}, n_batch, n_single)


def print_race(result: Race, over: str) -> dict[str, dict[str, float]]:
    """Print a Markdown table of speeds, also as multiples of that of `over`; return the figures by contender."""
    figures = {name: result.figures(name, over) for name in result.recall}
    print(f"\n| {'':28} | batch, queries/s | x {over:6} | single, ms | x {over:6} | recall@10 |")
    print(f"|{'-' * 30}|{'-' * 17}:|{'-' * 9}:|{'-' * 11}:|{'-' * 9}:|{'-' * 10}:|")
    for name, row in figures.items():
        print(f"| {name:28} | {row['batch_per_s']:16,.0f} | {row['batch_faster']:8.1f} ", end="")
        print(f"| {row['single_ms']:10.2f} | {row['single_faster']:8.1f} | {row['recall']:9.4f} |")
    return figures
