"""Embedding end to end against the bare engine and against a plain loop, measured in turn in one run.

    python -m benchmarks.embedding [--backbone resnet18] [--pictures 400] [--rounds 3] [--json FILE]

Every round measures three things, one after the other, on the same pictures and all cores:

- bare engine: forward passes alone on squares that lie in memory, at the fastest of several settings of ONNX Runtime;
- end to end: JPEG files to the bytes of a Parquet part, as a nightly run does it;
- plain loop: torch's DataLoader with Pillow and timm's own transform, timm's eager model, at its fastest.

Rates are medians over the rounds; ratios are taken within a round, so that a busy machine touches both sides.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch.utils.data import DataLoader, Dataset

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import GRAPH_FILE, load_backbone, save_backbone
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.extract import Picture, extract
from retrieval_core.embed.registry import get_card
from retrieval_core.images import DEFAULT_MAX_PIXELS, RGB, decode, fit

WIDTH_PX, HEIGHT_PX, JPEG_QUALITY = 550, 832, 82
BATCH_SIZE = 32
TRIAL_PICTURES = 96  # to choose the fastest setting with
# end to end over bare engine, end to end over plain loop
TARGETS = {"resnet18": (0.90, 1.9), "mobilenetv3": (0.75, 4.5)}


class Way(NamedTuple):
    """A way to embed the first n pictures, and how it is set."""

    name: str
    setting: str
    run: Callable[[int], object]


class PlainPictures(Dataset[torch.Tensor]):
    """Files opened with Pillow and transformed one by one."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


class Timing(NamedTuple):
    images_per_s: float
    cpu_ms: float  # per picture, over all threads and child processes


def main() -> None:
    parser = argparse.ArgumentParser(description="Embedding end to end against the bare engine and a plain loop.")
    parser.add_argument("--backbone", nargs="+", default=list(TARGETS), help="names of timm cards")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pictures = draw_pictures(Path(scratch), args.pictures)
        results = [measure(name, pictures, args.rounds) for name in args.backbone]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(backbone: str, pictures: Sequence[Picture], rounds: int) -> dict[str, Any]:
    """Print one backbone's table and return its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = load_backbone(EmbedConfig(backbone=backbone, weights="random:0"))
        save_backbone(loaded, folder)
        squares = np.stack([fit(decode(Path(item.image_uri).read_bytes()), loaded.preprocess) for item in pictures])
        ways = [
            fastest(bare_ways(folder, squares), len(pictures)),
            end_to_end(folder, pictures),
            fastest(plain_ways(backbone, [item.image_uri for item in pictures]), len(pictures)),
        ]
        for way in ways:
            way.run(min(BATCH_SIZE, len(pictures)))
        timings = [[timed(way, len(pictures)) for way in ways] for _ in range(rounds)]
    return report(backbone, pictures, ways, timings)


def bare_ways(folder: Path, squares: UInt8) -> list[Way]:
    """Forward passes alone: our engine's own ways of using all cores, and ONNX Runtime as it comes out of the box."""
    n_threads = cores()
    engine = open_engine(folder, "cpu", n_threads)
    worker = engine.for_worker()
    default = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])

    def streams(n: int) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(worker.embed, chunks(squares[:n], worker.max_rows)))

    def default_session(rows: int) -> Callable[[int], object]:
        return lambda n: [default.run(None, {"pixels": chunk}) for chunk in chunks(squares[:n], rows)]

    return [
        Way(
            "bare engine", f"{n_threads} threads calling a session of one thread, batches of {worker.max_rows}", streams
        ),
        Way(
            "bare engine",
            f"one session of {n_threads} threads, batches of {engine.max_rows}, no spinning",
            lambda n: engine.embed(squares[:n]),
        ),
        Way("bare engine", f"ONNX Runtime's defaults, batches of {engine.max_rows}", default_session(engine.max_rows)),
        Way("bare engine", f"ONNX Runtime's defaults, batches of {BATCH_SIZE}", default_session(BATCH_SIZE)),
    ]


def end_to_end(folder: Path, pictures: Sequence[Picture]) -> Way:
    n_threads = cores()
    engine = open_engine(folder, "cpu", n_threads)

    def run(n: int) -> bytes:
        done = extract(pictures[:n], None, "raw", 0.0, engine, BATCH_SIZE, n_threads, DEFAULT_MAX_PIXELS)
        return vectors_bytes(done.content_ids, done.vectors)

    return Way("end to end", f"{n_threads} threads", run)


def plain_ways(backbone: str, paths: Sequence[str]) -> list[Way]:
    """What most people write: a Dataset that opens pictures with Pillow, a DataLoader, and the model in eager mode."""
    card = get_card(backbone)
    model = timm.create_model(f"{card.model}.{card.tag}", num_classes=0).eval()
    transform = create_transform(
        card.size_px, interpolation=card.interpolation, mean=card.mean, std=card.std, crop_pct=card.crop_fraction
    )

    def loop(workers: int) -> Callable[[int], object]:
        def run(n: int) -> torch.Tensor:
            with torch.inference_mode():
                loader = DataLoader(PlainPictures(paths[:n], transform), BATCH_SIZE, num_workers=workers)
                return torch.cat([model(batch) for batch in loader])

        return run

    return [
        Way("plain loop", f"DataLoader with {workers} workers, batches of {BATCH_SIZE}", loop(workers))
        for workers in sorted({0, 1, cores()})
    ]


def fastest(ways: Sequence[Way], n_pictures: int) -> Way:
    """The way with the highest rate on a part of the pictures, each tried twice."""
    n = min(TRIAL_PICTURES, n_pictures)
    for way in ways:
        way.run(min(BATCH_SIZE, n))
    return max(ways, key=lambda way: max(timed(way, n).images_per_s for _ in range(2)))


def timed(way: Way, n: int) -> Timing:
    cpu, wall = cpu_seconds(), time.perf_counter()
    way.run(n)
    return Timing(n / (time.perf_counter() - wall), 1000 * (cpu_seconds() - cpu) / n)


def report(
    backbone: str, pictures: Sequence[Picture], ways: Sequence[Way], timings: Sequence[Sequence[Timing]]
) -> dict[str, Any]:
    rows = [
        {
            "name": way.name,
            "setting": way.setting,
            "images_per_s": statistics.median(timing.images_per_s for timing in column),
            "cpu_ms_per_image": statistics.median(timing.cpu_ms for timing in column),
        }
        for way, column in zip(ways, zip(*timings, strict=True), strict=True)
    ]
    of_bare = statistics.median(ours.images_per_s / bare.images_per_s for bare, ours, _ in timings)
    of_plain = statistics.median(ours.images_per_s / plain.images_per_s for _, ours, plain in timings)
    kilobytes = statistics.mean(Path(item.image_uri).stat().st_size for item in pictures) / 1000
    print(
        f"\n{backbone}, {get_card(backbone).size_px} px: {len(pictures)} JPEGs of {WIDTH_PX} x {HEIGHT_PX}, "
        f"{kilobytes:.0f} kB each, {cores()} cores, median of {len(timings)} rounds"
    )
    print(f"{'':12} {'images/s':>9} {'CPU ms/image':>13}  setting")
    for row in rows:
        print(f"{row['name']:12} {row['images_per_s']:9.1f} {row['cpu_ms_per_image']:13.2f}  {row['setting']}")
    least = TARGETS.get(backbone, (None, None))
    print(f"end to end is {of_bare:.2f} of the bare engine{aim(least[0])}")
    print(f"          and {of_plain:.2f} times the plain loop{aim(least[1])}")
    return {
        "backbone": backbone,
        "cores": cores(),
        "n_pictures": len(pictures),
        "n_rounds": len(timings),
        "jpeg_kb": kilobytes,
        "ways": rows,
        "end_to_end_of_bare": of_bare,
        "end_to_end_of_plain": of_plain,
    }


def aim(least: float | None) -> str:
    return f" (aim: {least:g})" if least else ""


def draw_pictures(folder: Path, n: int) -> list[Picture]:
    """`n` different textured JPEGs of the size of a product photo's file, drawn from seed 0."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (HEIGHT_PX, WIDTH_PX, 3)).astype(np.float32)
    return [write_picture(folder / f"{number:05}.jpg", textured(rng, grain)) for number in range(n)]


def textured(rng: np.random.Generator, grain: Float32) -> RGB:
    """(HEIGHT_PX, WIDTH_PX, 3) uint8: crossed waves of another length in every channel, and grain."""
    waves = []
    for _ in range(3):
        period_px, phase = rng.uniform(5, 40, 2), rng.uniform(0, 6, 2)
        down = np.sin(np.arange(HEIGHT_PX, dtype=np.float32) / period_px[0] + phase[0])
        across = np.cos(np.arange(WIDTH_PX, dtype=np.float32) / period_px[1] + phase[1])
        waves.append(np.outer(down, across))
    shifted = np.roll(grain, tuple(rng.integers(0, (HEIGHT_PX, WIDTH_PX))), axis=(0, 1))
    return np.clip(128 + 60 * np.stack(waves, axis=2) + shifted, 0, 255).astype(np.uint8)


def write_picture(path: Path, pixels: RGB) -> Picture:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    path.write_bytes(out.getvalue())
    return Picture(content_id=content_id(out.getvalue()), image_uri=str(path), item_id=path.stem)


def chunks(rows: UInt8, size: int) -> list[UInt8]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def cpu_seconds() -> float:
    """User and system time of this process and of its finished children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
