"""A step of the objective `margin` with ever more classes, compared with all of them and with a sample.

    python -m benchmarks.embedding.margin_steps [--classes 1000 100000 300000 1000000] [--all-up-to 300000] [--rounds 3]

A step is the loss of a batch of drawn vectors, its gradients and the optimiser; there is no network, whose time
depends neither on the classes nor on the sample. The methods run in turn, each in a process of its own, so that its
largest memory is known. Seconds are those of the processor, over all threads, medians of steps and rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor, nn

from retrieval_core.train.config import MarginTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.margin import Margin
from retrieval_core.train.optimiser import build_optimiser

DIM, BATCH_SIZE, N_STEPS = 512, 64, 5
ALL = 0  # sampled_classes that compares with all


class Step(NamedTuple):
    """The processor's seconds for a step, and the largest memory of its process beyond that before the objective."""

    cpu_s: float
    gigabytes: float


class DrawnVectors(nn.Module):
    """Stands for an embedder whose (b, DIM) vectors are learned directly."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(BATCH_SIZE, DIM))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vectors[: len(pixels)]


def measure(n_classes: int, sampled: int) -> Step:
    """Time steps in this process, after one that makes the optimiser's state."""
    data = TrainingData(_two_pictures_each(n_classes))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = MarginTraining(sampled_classes=sampled)
    objective = Margin(DrawnVectors(), data, config).train().requires_grad_(True)  # type: ignore[arg-type]
    optimiser, pixels = build_optimiser(objective, config), torch.zeros(BATCH_SIZE, 1)
    each_s = []
    for step in range(1 + N_STEPS):
        rows = torch.randint(2 * n_classes, (BATCH_SIZE,))
        began_s = time.process_time()
        optimiser.zero_grad()
        torch.autograd.backward(objective.loss(pixels, rows)[0])
        optimiser.step()
        if step:
            each_s.append(time.process_time() - began_s)
    used_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    return Step(statistics.median(each_s), used_kb / 1e6)


def _two_pictures_each(n_classes: int) -> pl.DataFrame:
    number = pl.int_range(2 * n_classes, eager=True)
    no_names = pl.lit([], pl.List(pl.String))
    return pl.DataFrame({"item_id": number.cast(pl.String), "product_id": (number // 2).cast(pl.String)}).with_columns(
        category=pl.lit(None, pl.String), split=pl.lit("train"), labels=no_names, attributes=no_names
    )


def in_own_process(n_classes: int, sampled: int) -> Step:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, n_classes, sampled).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--sampled", type=int, default=MarginTraining().sampled_classes)
    parser.add_argument("--all-up-to", type=int, default=300_000, help="with more, all would need much memory")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| classes of {DIM} dimensions | all, ms | GB | {arguments.sampled:,} sampled, ms | GB | all / sampled |")
    print("|---|---|---|---|---|---|")
    for n_classes in arguments.classes:
        methods = [ALL, arguments.sampled] if n_classes <= arguments.all_up_to else [arguments.sampled]
        rounds = [[in_own_process(n_classes, sampled) for sampled in methods] for _ in range(arguments.rounds)]
        cells = [
            f"{1e3 * statistics.median(step.cpu_s for step in steps):.0f} | {max(step.gigabytes for step in steps):.1f}"
            for steps in zip(*rounds, strict=True)
        ]
        ratios = [steps[0].cpu_s / steps[1].cpu_s for steps in rounds if len(steps) > 1]
        missing = [] if ratios else ["- | -"]
        ratio = f"{statistics.median(ratios):.1f}" if ratios else "-"
        print(f"| {n_classes:,} | {' | '.join([*missing, *cells, ratio])} |", flush=True)


if __name__ == "__main__":
    main()
