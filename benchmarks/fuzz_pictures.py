"""Thousands of damaged pictures, decoded in a process with bounded memory and time.

`python -m benchmarks.fuzz_pictures --mutations 10000` draws a corpus of every format and mode that Vitrine reads,
damages its files at random under `--seed` (cuts, flipped bits, runs of bytes overwritten, removed or repeated, sizes
replaced, two files spliced), decodes each, and counts the outcomes. It fails if a picture ended the process, took
longer than `--timeout-s`, needed more memory than `--memory-mb`, or raised anything but `ImageRefused`, and keeps such
files.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.picture_corpus import corpus
from retrieval_core.errors import ImageRefused
from retrieval_core.images import decode

MEMORY_MB = 2048
TIMEOUT_S = 20.0
BATCH = 500
FAILURES = ("crashed", "hung", "raised", "wanted memory")
SIZES = (0, 1, 0x7F, 0xFF, 50_000, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 120  # half of the damage goes there, where sizes and offsets stand


class Outcome(NamedTuple):
    """The outcome for a file: decoded, refused or one of `FAILURES`; `detail` is the reason or the error."""

    name: str
    kind: str
    detail: str
    seconds: float


class Fuzzed(NamedTuple):
    """Outcomes in the order of the files, and the peak memory of the processes that decoded them."""

    outcomes: list[Outcome]
    peak_mb: int


# Damaging


def mutated(files: dict[str, bytes], n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `n` damaged files, each named by its number, its original and its damages; the same for the same seed."""
    names = sorted(files)
    for number in range(n):
        rng = np.random.default_rng((seed, number))
        name = names[number % len(names)]
        data, damages = files[name], []
        for _ in range(rng.integers(1, 4)):
            damage = DAMAGES[rng.integers(len(DAMAGES))]
            donor = files[names[rng.integers(len(names))]]
            data = damage(data, donor, rng)
            damages.append(damage.__name__.strip("_"))
        if name.startswith("png") and rng.random() < 0.7:
            data = _with_checksums(data)
        yield f"{number:06}-{name}-{'-'.join(damages)}", data


def _with_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, so that the damage inside them reaches the decoder."""
    corrected, position = data[:8], 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        corrected += data[position:end] + struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return corrected + data[position:]


def _position(data: bytes, rng: np.random.Generator) -> int:
    end = len(data) if rng.random() < 0.5 else min(len(data), HEADER_BYTES)
    return int(rng.integers(0, max(end, 1)))


def _cut(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    return data[: _position(data, rng)] if rng.random() < 0.3 else data[: int(len(data) * rng.uniform(0.3, 1))]


def _flip(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 9) if data else 0):
        damaged[_position(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _overwrite(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    start, length = _position(data, rng), int(rng.integers(1, 40))
    filling = (bytes(length), b"\xff" * length, rng.bytes(length))[rng.integers(3)]
    return data[:start] + filling + data[start + length :]


def _resize(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    kind = ("<H", ">H", "<I", ">I")[rng.integers(4)]
    size = SIZES[rng.integers(len(SIZES))] & (2 ** (8 * struct.calcsize(kind)) - 1)
    start = _position(data, rng)
    return data[:start] + struct.pack(kind, size) + data[start + struct.calcsize(kind) :]


def _remove(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    start = _position(data, rng)
    return data[:start] + data[start + int(rng.integers(1, 60)) :]


def _repeat(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    start, length = _position(data, rng), int(rng.integers(1, 200))
    return data[: start + length] + data[start : start + length] * int(rng.integers(1, 20)) + data[start + length :]


def _splice(data: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    return data[: _position(data, rng)] + donor[_position(donor, rng) :]


DAMAGES: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    _cut, _flip, _flip, _overwrite, _resize, _remove, _repeat, _splice,
)  # fmt: skip


# Decoding, in a process of its own


def decode_files(folder: Path, *, memory_mb: int = MEMORY_MB, timeout_s: float = TIMEOUT_S) -> Fuzzed:
    """Decode the files of a folder in name order; if one ends or stops the process, another continues with the next."""
    names, outcomes, peak_mb = sorted(os.listdir(folder)), list[Outcome](), 0
    while len(outcomes) < len(names):
        decoded, end = _decode_from(folder, len(outcomes), memory_mb, timeout_s)
        outcomes += decoded
        if end.isdecimal():
            peak_mb = max(peak_mb, int(end))
        else:
            outcomes.append(Outcome(names[len(outcomes)], end.split(":")[0], end, 0.0))
    return Fuzzed(outcomes, peak_mb)


def _decode_from(folder: Path, first: int, memory_mb: int, timeout_s: float) -> tuple[list[Outcome], str]:
    """Return the outcomes of one process, and its peak memory in MB or else how it ended."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "benchmarks.fuzz_pictures",
        "--decode",
        folder,
        "--first",
        first,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [str(word) for word in (*command, "--memory-mb", memory_mb)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )
    assert child.stdout is not None
    printed, is_late = bytearray(), False
    while not is_late:
        # The first outcome has to wait for the imports too.
        is_late = not select.select([child.stdout], [], [], timeout_s + (0 if printed else 60))[0]
        data = b"" if is_late else os.read(child.stdout.fileno(), 2**16)
        if not data:
            break
        printed += data
    if is_late:
        child.kill()
    _, errors = child.communicate()
    *lines, last = printed.decode().split("\n")[:-1] or [""]
    if not is_late and child.returncode == 0:
        return [_outcome(line) for line in lines], last
    end = f"hung: no answer in {timeout_s:g} s" if is_late else f"crashed: status {child.returncode}: {errors.decode()}"
    return [_outcome(line) for line in [*lines, last] if line], end


def _outcome(line: str) -> Outcome:
    name, kind, detail, seconds = line.split("\t")
    return Outcome(name, kind, detail, float(seconds))


def _decode_all(folder: Path, first: int, memory_mb: int) -> None:
    """Print one line for each file and, at the end, the peak memory of this process in MB."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    for name in sorted(os.listdir(folder))[first:]:
        started = time.perf_counter()
        kind, detail = _decoded((folder / name).read_bytes())
        print(name, kind, re.sub(r"\s", " ", detail), f"{time.perf_counter() - started:.3f}", sep="\t", flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _decoded(data: bytes) -> tuple[str, str]:
    try:
        pixels = decode(data)
    except ImageRefused as error:
        return ("wanted memory" if "memory" in str(error) else "refused"), str(error)
    except BaseException as error:
        return "raised", repr(error)
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8 and pixels.size > 0
    return ("decoded" if is_rgb else "raised"), f"{pixels.shape} {pixels.dtype}"


# The long run


def main() -> int:
    """Damage, decode, print a summary, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="address space of the process that decodes")
    parser.add_argument("--timeout-s", type=float, default=TIMEOUT_S, help="for one picture")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that failed")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decode:
        _decode_all(arguments.decode, arguments.first, arguments.memory_mb)
        return 0
    started, outcomes, peak_mb = time.perf_counter(), list[Outcome](), 0
    cases = mutated(corpus(), arguments.mutations, arguments.seed)
    while len(outcomes) < arguments.mutations:
        with tempfile.TemporaryDirectory() as folder:
            for _, (name, data) in zip(range(BATCH), cases, strict=False):
                Path(folder, name).write_bytes(data)
            done = decode_files(Path(folder), memory_mb=arguments.memory_mb, timeout_s=arguments.timeout_s)
            for failed in done.outcomes:
                if failed.kind in FAILURES:
                    arguments.keep.mkdir(exist_ok=True)
                    (arguments.keep / failed.name).write_bytes(Path(folder, failed.name).read_bytes())
        outcomes, peak_mb = outcomes + done.outcomes, max(peak_mb, done.peak_mb)
    _print_summary(outcomes, peak_mb, time.perf_counter() - started)
    return int(any(outcome.kind in FAILURES for outcome in outcomes))


def _print_summary(outcomes: Sequence[Outcome], peak_mb: int, seconds: float) -> None:
    counts = Counter(outcome.kind for outcome in outcomes)
    formats = Counter((outcome.name.split("-")[1], outcome.kind) for outcome in outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(f"{len(outcomes)} mutations of {len(corpus())} pictures in {seconds:.0f} s, at most {peak_mb} MB")
    print(f"slowest {slowest.seconds:.2f} s: {slowest.name}")
    kinds = ("decoded", "refused", *FAILURES)
    print(" ".join(f"{name:>14}" for name in ("", *kinds)))
    for form in sorted({name for name, _ in formats}):
        print(" ".join(f"{cell:>14}" for cell in (form, *(formats[form, kind] for kind in kinds))))
    print(" ".join(f"{cell:>14}" for cell in ("all", *(counts[kind] for kind in kinds))))
    for outcome in outcomes:
        if outcome.kind in FAILURES:
            print(f"{outcome.name}: {outcome.detail[:2000]}")


if __name__ == "__main__":
    sys.exit(main())
