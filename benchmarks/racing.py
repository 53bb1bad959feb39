"""Contenders timed in turn: each round runs all of them once, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Run = Callable[[], object]
Seconds = dict[str, list[float]]  # by contender, one for each round


class Contender(NamedTuple):
    """A way to search: all queries in one call, some of them one after the other, and what it finds."""

    batch: Run
    single: Run
    recall: float


class Race(NamedTuple):
    """What a race took; `n_batch` and `n_single` queries were asked in a run."""

    batch_s: Seconds
    single_s: Seconds
    recall: dict[str, float]
    n_batch: int
    n_single: int

    def figures(self, name: str, over: str) -> dict[str, float]:
        """Of one contender; `over` is the one whose seconds are divided by its own."""
        return {
            "batch_per_s": self.n_batch / statistics.median(self.batch_s[name]),
            "batch_faster": ratio(self.batch_s, over, name),
            "single_ms": 1e3 * statistics.median(self.single_s[name]) / self.n_single,
            "single_faster": ratio(self.single_s, over, name),
            "recall": self.recall[name],
        }


def interleaved(contenders: Mapping[str, Run], rounds: int) -> Seconds:
    """Seconds of each contender, by round; every round runs all of them in turn."""
    seconds: Seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def race(contenders: Mapping[str, Contender], n_batch: int, n_single: int, rounds: int) -> Race:
    """Batches of all contenders in turn, and then single queries."""
    batch_s = interleaved({name: contender.batch for name, contender in contenders.items()}, rounds)
    single_s = interleaved({name: contender.single for name, contender in contenders.items()}, rounds)
    return Race(batch_s, single_s, {name: c.recall for name, c in contenders.items()}, n_batch, n_single)


def print_race(run: Race, over: str) -> dict[str, dict[str, float]]:
    """As a Markdown table, with the speed of each as a multiple of that of `over`; the figures by contender."""
    figures = {name: run.figures(name, over) for name in run.recall}
    print(f"\n| {'':28} | batch, queries/s | x {over:6} | single, ms | x {over:6} | recall@10 |")
    print(f"|{'-' * 30}|{'-' * 17}:|{'-' * 9}:|{'-' * 11}:|{'-' * 9}:|{'-' * 10}:|")
    for name, row in figures.items():
        print(f"| {name:28} | {row['batch_per_s']:16,.0f} | {row['batch_faster']:8.1f} ", end="")
        print(f"| {row['single_ms']:10.2f} | {row['single_faster']:8.1f} | {row['recall']:9.4f} |")
    return figures
