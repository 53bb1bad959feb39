"""An epoch of a training compared with its bare steps.

    python -m benchmarks.embedding.training [--backbone efficientnet_lite0] [--size-px 96] [--pictures 512] [--rounds 3]

Every round measures two methods in turn, on the same pictures and all cores:

- bare steps: forward, backward and optimiser on one batch in memory, again and again;
- epoch: `retrieval_core.train.fit` with random views, scores and a checkpoint, as in `vitrine train backbone`.

Rates are medians over the rounds; the ratio is taken within a round, so that other load affects both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.measuring.interleaved_timing import ratio
from retrieval_core.arrays import UInt8
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.inputs import start_config
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.rotation import Rotation
from retrieval_core.train.optimiser import build_optimiser
from retrieval_core.train.pictures import training_square
from retrieval_core.train.split import Split

N_VAL = 2
AIM = 0.85


def bare_s(start: LoadedBackbone, pixels: UInt8, config: RotationTraining) -> float:
    """Return the seconds of one pass over as many pictures as `pixels` has, less those to validate on."""
    objective = Rotation(start.module, TrainingData(pl.DataFrame()), config).train().requires_grad_(True)
    objective.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(objective, config)
    side_px = start.preprocess.size_px
    batch = torch.from_numpy(pixels[: config.batch_size, :side_px, :side_px].copy())
    n_steps = (len(pixels) - N_VAL) // config.batch_size
    began_s = time.perf_counter()
    for _ in range(n_steps):
        optimiser.zero_grad()
        torch.autograd.backward(objective.loss(batch, torch.arange(len(batch)))[0])
        optimiser.step()
    return time.perf_counter() - began_s


def epoch_s(start: LoadedBackbone, pixels: UInt8, config: RotationTraining) -> float:
    """Return the seconds of one epoch, validation included."""
    objective = Rotation(start.module, TrainingData(pl.DataFrame()), config)
    split = Split(np.arange(N_VAL, len(pixels)), np.arange(N_VAL))
    with tempfile.TemporaryDirectory() as folder:
        trained = fit(objective, pixels, split, start.preprocess, config, device="cpu", folder=Path(folder))
    return trained.metrics["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=512, help="a multiple of the batch size")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = RotationTraining(
        backbone=arguments.backbone, size_px=arguments.size_px, batch_size=arguments.batch_size, max_epochs=1
    )
    start = load_backbone(start_config(config))
    side_px = training_square(start.preprocess).size_px
    n_pictures = arguments.pictures + N_VAL
    pixels = np.random.default_rng(0).integers(0, 256, (n_pictures, side_px, side_px, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {"bare steps": [], "epoch": []}
    for _ in range(arguments.rounds):
        seconds["bare steps"].append(bare_s(start, pixels, config))
        seconds["epoch"].append(epoch_s(start, pixels, config))
    for name, times_s in seconds.items():
        print(f"{name:<12}{arguments.pictures / statistics.median(times_s):8.1f} pictures/s")
    print(f"an epoch reaches {ratio(seconds, 'bare steps', 'epoch'):.2f} of the bare steps, the aim is {AIM}")


if __name__ == "__main__":
    main()
