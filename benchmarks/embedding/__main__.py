"""Embedding end to end compared with the bare engine and with a plain loop.

    python -m benchmarks.embedding [--backbone resnet18] [--pictures 400] [--photos DIR] [--rounds 3] [--json FILE]

Every round measures these methods in turn, on the same pictures and all cores, the first two also in bfloat16 where the
CPU computes in it:

- bare engine: forward passes alone, on squares in memory, with the fastest of several settings of ONNX Runtime;
- end to end: from JPEG files to the bytes of a Parquet part, as in a nightly run;
- plain loop: torch's DataLoader with Pillow and timm's own transform, timm's eager model, with the fastest setting.

Where the CPU computes in bfloat16, its vectors are compared with those of float32, on the pictures or on `--photos`:
their cosine, and how many of the ten nearest a float32 query finds among them are the same. With `--photos`, int8 is
calibrated on 200 more of them, and its forward passes are measured and its vectors compared, too.

Rates are medians over the rounds; ratios are taken within a round, so that other load affects both sides.
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
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.config.stages import EmbedConfig, Precision
from retrieval_core.embed.backbones import GRAPH_FILE, load_backbone, save_backbone
from retrieval_core.embed.engine import Engine, check_precision, open_engine
from retrieval_core.embed.export import CALIBRATION_ROWS
from retrieval_core.embed.extract import Masks, ViewToEmbed, extract
from retrieval_core.embed.int8 import calibrate
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.images import DEFAULT_MAX_PIXELS, RGB, Preprocess, decode, fit
from retrieval_core.metrics.exact_knn import exact_topk

WIDTH_PX, HEIGHT_PX, JPEG_QUALITY = 550, 832, 82
BATCH_SIZE = 32
N_NEAREST = 10
TRIAL_PICTURES = 96  # that choose the fastest setting
# aims: end to end over bare engine, end to end over plain loop, bare engine in bfloat16 over float32
TARGETS: dict[str, tuple[float, float | None, float | None]] = {
    "resnet18": (0.90, 1.9, None),
    "mobilenetv3": (0.75, 4.5, None),
    "efficientnet_lite0": (0.95, None, 1.8),
}


class Method(NamedTuple):
    """A method with its setting; `run(n)` embeds the first n pictures."""

    name: str
    setting: str
    run: Callable[[int], object]


class PlainPictures(Dataset[torch.Tensor]):
    """Opens files with Pillow and transforms them one by one."""

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
    parser = argparse.ArgumentParser(description="Embedding end to end compared with the bare engine and a plain loop.")
    parser.add_argument("--backbone", nargs="+", default=list(TARGETS), help="names of timm cards")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--photos", type=Path, help="a folder whose JPEGs show how near bfloat16 and int8 are, as drawn ones cannot"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pictures = draw_pictures(Path(scratch), args.pictures)
        photos = sorted(args.photos.rglob("*.jpg"))[: args.pictures + CALIBRATION_ROWS] if args.photos else []
        results = [measure(name, pictures, args.rounds, photos) for name in args.backbone]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(backbone: str, pictures: Sequence[Picture], rounds: int, photos: Sequence[Path]) -> dict[str, Any]:
    """Measure one backbone, print its table and return its figures."""
    weights = "pretrained" if get_card(backbone).library == "efficientnet_lite" else "random:0"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = load_backbone(EmbedConfig(backbone=backbone, weights=weights))
        save_backbone(loaded, folder)
        squares = read_squares([Path(item.image_uri) for item in pictures], loaded.preprocess)
        methods = [
            fastest(bare_methods(folder, squares), len(pictures)),
            end_to_end(folder, pictures),
            fastest(plain_methods(backbone, [item.image_uri for item in pictures]), len(pictures)),
        ]
        if has_bfloat16():
            methods += [
                streams(open_engine(folder, "cpu", cores(), "bfloat16"), squares, " in bfloat16"),
                end_to_end(folder, pictures, "bfloat16"),
            ]
            n_compared = max(len(photos) - CALIBRATION_ROWS, 0)
            has_int8 = n_compared > 0 and is_calibrated(folder, read_squares(photos[n_compared:], loaded.preprocess))
            if has_int8:
                methods.append(streams(open_engine(folder, "cpu", cores(), "int8"), squares, " in int8"))
        for method in methods:
            method.run(min(BATCH_SIZE, len(pictures)))
        timings = [[timed(method, len(pictures)) for method in methods] for _ in range(rounds)]
        figures = report(backbone, pictures, methods, timings)
        if has_bfloat16():
            compared = read_squares(photos[:n_compared], loaded.preprocess) if n_compared else squares
            figures["agreement"] = agreement(folder, compared, weights, "bfloat16")
            if has_int8:
                figures["int8_agreement"] = agreement(folder, compared, weights, "int8")
    return figures


def read_squares(paths: Sequence[Path], preprocess: Preprocess) -> UInt8:
    return np.stack([fit(decode(path.read_bytes()), preprocess) for path in paths])


def is_calibrated(folder: Path, squares: UInt8) -> bool:
    """Calibrate a backbone for int8; print why it cannot be and return False where that is so."""
    try:
        calibrate(folder, squares)
    except BadConfig as error:
        print(error)
        return False
    return True


def agreement(folder: Path, squares: UInt8, weights: str, precision: Precision) -> dict[str, float]:
    """Print and return how near a precision's vectors are to those of float32, and the overlap of their ten nearest."""
    exact, rounded = (open_engine(folder, "cpu", cores(), side).embed(squares) for side in ("float32", precision))
    cosines, rows = (exact * rounded).sum(axis=1), np.arange(len(squares))
    found = [exact_topk(exact, gallery, N_NEAREST, exclude=rows)[1] for gallery in (exact, rounded)]
    overlap = np.mean([len(np.intersect1d(*pair)) / N_NEAREST for pair in zip(*found, strict=True)])
    figures = {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min()), "overlap@10": float(overlap)}
    print(
        f"{precision} against float32, {weights} weights, {len(squares)} pictures: cosine {figures['mean_cosine']:.5f} "
        f"on average, {figures['min_cosine']:.5f} at least; {overlap:.3f} of the ten nearest are the same"
    )
    return figures


def bare_methods(folder: Path, squares: UInt8) -> list[Method]:
    """Return forward passes alone: our engine's two ways to use all cores, and ONNX Runtime with its defaults."""
    n_threads = cores()
    engine = open_engine(folder, "cpu", n_threads)
    default = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])

    def default_session(rows: int) -> Callable[[int], object]:
        return lambda n: [default.run(None, {"pixels": chunk}) for chunk in chunks(squares[:n], rows)]

    return [
        streams(engine, squares),
        Method(
            "bare engine",
            f"one session of {n_threads} threads, batches of {engine.max_rows}, no spinning",
            lambda n: engine.embed(squares[:n]),
        ),
        Method(
            "bare engine", f"ONNX Runtime's defaults, batches of {engine.max_rows}", default_session(engine.max_rows)
        ),
        Method("bare engine", f"ONNX Runtime's defaults, batches of {BATCH_SIZE}", default_session(BATCH_SIZE)),
    ]


def streams(engine: Engine, squares: UInt8, precision: str = "") -> Method:
    worker, n_threads = engine.for_worker(), cores()

    def run(n: int) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(worker.embed, chunks(squares[:n], worker.max_rows)))

    setting = f"{n_threads} threads calling a session of one thread, batches of {worker.max_rows}{precision}"
    return Method("bare engine", setting, run)


def has_bfloat16() -> bool:
    try:
        check_precision("cpu", "bfloat16")
    except BadConfig:
        return False
    return True


def end_to_end(folder: Path, pictures: Sequence[Picture], precision: Precision = "float32") -> Method:
    n_threads = cores()
    engine = open_engine(folder, "cpu", n_threads, precision)

    def run(n: int) -> bytes:
        raw = ViewToEmbed("raw", {picture.content_id for picture in pictures[:n]}, 0.0, engine)
        done = extract(pictures[:n], Masks(), [raw], BATCH_SIZE, n_threads, DEFAULT_MAX_PIXELS)
        return vectors_bytes(*done.vectors["raw"])

    return Method("end to end", f"{n_threads} threads in {precision}", run)


def plain_methods(backbone: str, paths: Sequence[str]) -> list[Method]:
    """Return the usual loop: a Dataset that opens pictures with Pillow, a DataLoader, and the model in eager mode."""
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
        Method("plain loop", f"DataLoader with {workers} workers, batches of {BATCH_SIZE}", loop(workers))
        for workers in sorted({0, 1, cores()})
    ]


def fastest(methods: Sequence[Method], n_pictures: int) -> Method:
    """Return the method with the highest rate on some of the pictures, of two tries each."""
    n = min(TRIAL_PICTURES, n_pictures)
    for method in methods:
        method.run(min(BATCH_SIZE, n))
    return max(methods, key=lambda method: max(timed(method, n).images_per_s for _ in range(2)))


def timed(method: Method, n: int) -> Timing:
    cpu, wall = cpu_seconds(), time.perf_counter()
    method.run(n)
    return Timing(n / (time.perf_counter() - wall), 1000 * (cpu_seconds() - cpu) / n)


def report(
    backbone: str, pictures: Sequence[Picture], methods: Sequence[Method], timings: Sequence[Sequence[Timing]]
) -> dict[str, Any]:
    rows = [
        {
            "name": method.name,
            "setting": method.setting,
            "images_per_s": statistics.median(timing.images_per_s for timing in column),
            "cpu_ms_per_image": statistics.median(timing.cpu_ms for timing in column),
        }
        for method, column in zip(methods, zip(*timings, strict=True), strict=True)
    ]

    def rate_ratio(over: int, under: int) -> float:
        return statistics.median(row[over].images_per_s / row[under].images_per_s for row in timings)

    of_bare, of_plain = rate_ratio(1, 0), rate_ratio(1, 2)
    in_bfloat16 = (rate_ratio(3, 0), rate_ratio(4, 1)) if len(methods) > 3 else None
    kilobytes = statistics.mean(Path(item.image_uri).stat().st_size for item in pictures) / 1000
    print(
        f"\n{backbone}, {get_card(backbone).size_px} px: {len(pictures)} JPEGs of {WIDTH_PX} x {HEIGHT_PX}, "
        f"{kilobytes:.0f} kB each, {cores()} cores, median of {len(timings)} rounds"
    )
    print(f"{'':12} {'images/s':>9} {'CPU ms/image':>13}  setting")
    for row in rows:
        print(f"{row['name']:12} {row['images_per_s']:9.1f} {row['cpu_ms_per_image']:13.2f}  {row['setting']}")
    least = TARGETS.get(backbone, (None, None, None))
    print(f"end to end is {of_bare:.2f} of the bare engine{aim(least[0])}")
    print(f"          and {of_plain:.2f} times the plain loop{aim(least[1])}")
    if in_bfloat16:
        print(f"bfloat16 is {in_bfloat16[0]:.2f} times float32 bare{aim(least[2])}, {in_bfloat16[1]:.2f} end to end")
    int8_of_bfloat16 = rate_ratio(5, 3) if len(methods) > 5 else None
    if int8_of_bfloat16:
        print(f"int8 is {int8_of_bfloat16:.2f} times bfloat16 bare")
    return {
        "backbone": backbone,
        "cores": cores(),
        "n_pictures": len(pictures),
        "n_rounds": len(timings),
        "jpeg_kb": kilobytes,
        "ways": rows,
        "end_to_end_of_bare": of_bare,
        "end_to_end_of_plain": of_plain,
        "bfloat16_of_float32": in_bfloat16,
        "int8_of_bfloat16": int8_of_bfloat16,
    }


def aim(least: float | None) -> str:
    return f" (aim: {least:g})" if least else ""


def draw_pictures(folder: Path, n: int) -> list[Picture]:
    """Write `n` different textured JPEGs whose files are as large as those of product photos."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (HEIGHT_PX, WIDTH_PX, 3)).astype(np.float32)
    return [write_picture(folder / f"{number:05}.jpg", textured(rng, grain)) for number in range(n)]


def textured(rng: np.random.Generator, grain: Float32) -> RGB:
    """Return (HEIGHT_PX, WIDTH_PX, 3) uint8: crossed waves of another length in every channel, and grain."""
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
    """Return the user and system time of this process and of its finished children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
