"""Embedding on a GPU: forward passes alone, and from JPEG files to the bytes of a Parquet part.

    python -m benchmarks.gpu [--backbone siglip_b16] [--precision bfloat16] [--pictures 4096] [--compile] [--json FILE]

The weights are random, the pictures are drawn JPEGs of 550 x 832. Every round measures each method once; rates are
medians of three rounds. `--compile` also measures `torch.compile`, which the pipeline does not use: it takes up to a
minute for each network. On one GPU with 16 cores all backbones take less than three minutes without it. A machine
without a GPU shows that it works: `--device cpu --pictures 32 --backbone resnet18`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch

from benchmarks.embedding.__main__ import BATCH_SIZE, chunks, cores, draw_pictures
from benchmarks.measuring.interleaved_timing import interleaved, ratio
from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.config.stages import EmbedConfig, Precision
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.engine import DEVICE_CALLS, DEVICE_ROWS, TorchEngine
from retrieval_core.embed.extract import Masks, ViewToEmbed, extract
from retrieval_core.images import DEFAULT_MAX_PIXELS

BACKBONES = ("resnet18", "efficientnet_lite0", "siglip_b16", "clip_vit_b32")
DRAWN = 256  # different pictures; more files are copies of them under other content ids
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device
    print(f"{name}, {cores()} cores, {args.precision}, {args.pictures:,} JPEGs, median of {ROUNDS} rounds, pictures/s")
    with tempfile.TemporaryDirectory() as scratch:
        pictures = many_pictures(Path(scratch), args.pictures)
        figures = {
            backbone: measure(backbone, pictures, args.device, args.precision, args.compile)
            for backbone in args.backbone
        }
    if args.json:
        args.json.write_text(json.dumps({"device": name, "cores": cores(), **figures}, indent=1) + "\n")


def measure(
    backbone: str, pictures: Sequence[Picture], device: str, precision: Precision, compiles: bool
) -> dict[str, float]:
    """Print and return the rates of a backbone, and the share of the bare rate that is left end to end."""
    engine = TorchEngine(load_backbone(EmbedConfig(backbone=backbone, weights="random:0")), device, precision)
    methods = {"bare": bare(engine, len(pictures)), "end to end": end_to_end(engine, pictures)}
    if compiles:
        compiled = TorchEngine(load_backbone(EmbedConfig(backbone=backbone, weights="random:0")), device, precision)
        compiled._module.compile()
        methods["bare, compiled"] = bare(compiled, len(pictures))
    for method in methods.values():
        method()
    seconds = interleaved(methods, ROUNDS)
    figures = {name: len(pictures) / statistics.median(times) for name, times in seconds.items()}
    rates = ", ".join(f"{name} {rate:,.1f}" for name, rate in figures.items())
    figures["end to end of bare"] = ratio(seconds, "bare", "end to end")
    print(f"{backbone:20} {rates}; end to end is {figures['end to end of bare']:.2f} of bare", flush=True)
    return figures


def bare(engine: TorchEngine, n: int) -> Callable[[], object]:
    """Return a function that embeds `n` squares in memory in batches, from as many threads as the pipeline does."""
    size_px = engine.preprocess.size_px
    shape = (min(n, DEVICE_ROWS), size_px, size_px, 3)
    squares = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batches = [squares] * (n // len(squares)) + chunks(squares[: n % len(squares)], DEVICE_ROWS)

    def run() -> None:
        with ThreadPoolExecutor(DEVICE_CALLS) as pool:
            list(pool.map(engine.embed, batches))

    return run


def end_to_end(engine: TorchEngine, pictures: Sequence[Picture]) -> Callable[[], object]:
    view = ViewToEmbed("raw", {picture.content_id for picture in pictures}, 0.0, engine)

    def run() -> bytes:
        done = extract(pictures, Masks(), [view], BATCH_SIZE, cores(), DEFAULT_MAX_PIXELS)
        return vectors_bytes(*done.vectors["raw"])

    return run


def many_pictures(folder: Path, n: int) -> list[Picture]:
    """Write `n` JPEGs of different content ids: drawn ones, and copies with a number after the end of the picture."""
    drawn = draw_pictures(folder, min(n, DRAWN))
    sources = chain.from_iterable(repeat(drawn))
    return [
        source if number < len(drawn) else copy_picture(source, folder / f"copy{number:06}.jpg", number)
        for number, source in zip(range(n), sources, strict=False)
    ]


def copy_picture(source: Picture, path: Path, number: int) -> Picture:
    data = Path(source.image_uri).read_bytes() + number.to_bytes(4)
    path.write_bytes(data)
    return Picture(content_id=content_id(data), image_uri=str(path), item_id=path.stem)


if __name__ == "__main__":
    main()
