"""Damaged pictures, decompression bombs and other files with a picture's name are refused and do no harm."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from benchmarks.fuzz_pictures import FAILURES, Fuzzed, decode_files, mutated
from benchmarks.picture_corpus import corpus
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import ImageRefused
from retrieval_core.images import decode
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.folder import FolderSource

N_MUTATIONS = 400
NOW = "2026-11-21T02:00:00+00:00"
SIDE = 50_000
# The module silences Pillow's warnings on metadata, but pytest puts its own filters first.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
WITHIN = (9_900, 10_000)  # just below the bound on pixels


def png(width: int, height: int, *more: tuple[bytes, bytes], body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", body), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(n_bytes: int) -> bytes:
    """Return `n_bytes` zero bytes, deflated."""
    deflate, block = zlib.compressobj(9), bytes(2**20)
    packed = b"".join(deflate.compress(block[: min(2**20, n_bytes - done)]) for done in range(0, n_bytes, 2**20))
    return packed + deflate.flush()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def progressive_jpeg(width: int, height: int, n_components: int, n_scans: int) -> bytes:
    """A header and `n_scans` scans of a few bytes, each of which costs the decoder a pass over the whole picture."""
    parts = b"".join(bytes([number + 1, 0x11, 0]) for number in range(n_components))
    head = segment(0xDB, b"\x00" + b"\x01" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, height, width, n_components) + parts)
    head += segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0")  # one symbol: 2**14 blocks and more have nothing to add
    scans = b"".join(segment(0xDA, bytes([1, 1, 0, 1 + n % 63, 1 + n % 63, 0])) + b"\x7f\xbf" for n in range(n_scans))
    return b"\xff\xd8" + head + scans + b"\xff\xd9"


def tiff(width: int, height: int, tile_side: int, data: bytes) -> bytes:
    """Deflated grey tiles."""
    start = 8 + 2 + 12 * 10 + 4
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile_side, 323: tile_side}
    tags |= {324: start, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def saved(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def animated_gif() -> bytes:
    """1500 frames, each written as the first one is."""
    out = io.BytesIO()
    Image.linear_gradient("L").save(out, "GIF")
    start = 13 + 3 * 256  # behind the header and the palette
    return out.getvalue()[:start] + out.getvalue()[start:-1] * 1500 + b";"


def gif(screen_side: int, frame_side: int) -> bytes:
    screen = struct.pack("<HHBBB", screen_side, screen_side, 0, 0, 0)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHBB", 0, 0, frame_side, frame_side, 0, 2)


def bmp(side: int) -> bytes:
    """A bitmap stored from the top down, which a negative height means."""
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0)


REFUSED: dict[str, Callable[[], bytes]] = {
    "nothing.jpg": lambda: b"",
    "svg.jpg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "pdf.jpg": lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript>>>>endobj",
    "html.png": lambda: b"<!DOCTYPE html><script>alert(1)</script>",
    "zip.jpg": lambda: b"PK\x03\x04" + bytes(100),
    "script.jpg": lambda: b"#!/bin/sh\nrm -rf /\n",
    "bomb-png.png": lambda: png(SIDE, SIDE, body=zeros(2**24)),
    "bomb-jpeg.jpg": lambda: progressive_jpeg(SIDE, SIDE, 3, 1),
    "bomb-gif.gif": lambda: gif(SIDE, SIDE),
    "bomb-frame.gif": lambda: gif(9, SIDE),
    "bomb-bmp.bmp": lambda: bmp(SIDE),
    "bomb-tiff.tif": lambda: tiff(SIDE, SIDE, 256, zeros(2**16)),
    "bomb-tile.tif": lambda: tiff(10, 10, 11_008, zeros(11_008**2)),
    "bomb-webp.webp": lambda: b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a" + bytes(7) + (SIDE - 1).to_bytes(3, "little") * 2,
    "bomb-scans.jpg": lambda: progressive_jpeg(5_000, 5_000, 1, 20_000),
    "bomb-scans-cmyk.jpg": lambda: progressive_jpeg(5_000, 5_000, 4, 20_000),
    "cut.jpg": lambda: saved("JPEG")[:-300],
}
READ: dict[str, Callable[[], bytes]] = {
    "animated.gif": animated_gif,
    "large-exif.jpg": lambda: b"\xff\xd8" + segment(0xE1, b"Exif\x00\x00" + b"\xff" * 65_000) * 200 + saved("JPEG")[2:],
    "large-profile.png": lambda: png(9, 9, (b"eXIf", bytes(2**24)), body=zlib.compress(bytes(28 * 9))),
    "large-text.png": lambda: png(9, 9, (b"zTXt", b"k\x00\x00" + zeros(2**27)), body=zlib.compress(bytes(28 * 9))),
    "film-after-the-end.jpg": lambda: saved("JPEG") + b"\xff\xda\x00\x02" * 2_000,
    "just-within.png": lambda: png(*WITHIN, body=zeros((3 * WITHIN[0] + 1) * WITHIN[1])),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that must be refused, of odd ones that must be read, and of damaged ones."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in (REFUSED | READ).items():
        (folder / name).write_bytes(make())
    for name, data in mutated(corpus(), N_MUTATIONS, seed=1):
        (folder / f"{name}.jpg").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def fuzzed(hostile: Path) -> Fuzzed:
    """The result of decoding them in a process limited to 2 GiB and 20 s a picture."""
    return decode_files(hostile)


def test_no_picture_crashes_hangs_or_fills_the_process(fuzzed: Fuzzed) -> None:
    assert len(fuzzed.outcomes) == len(REFUSED) + len(READ) + N_MUTATIONS
    assert not [outcome for outcome in fuzzed.outcomes if outcome.kind in FAILURES]


def test_bombs_and_other_files_are_refused_and_odd_pictures_are_read(fuzzed: Fuzzed) -> None:
    kinds = {outcome.name: outcome.kind for outcome in fuzzed.outcomes}
    assert {name: kinds[name] for name in REFUSED} == dict.fromkeys(REFUSED, "refused")
    assert {name: kinds[name] for name in READ} == dict.fromkeys(READ, "decoded")


def test_a_reason_is_short_and_of_one_line(fuzzed: Fuzzed) -> None:
    reasons = [outcome.detail for outcome in fuzzed.outcomes if outcome.kind == "refused"]
    assert all(reason.isprintable() and 10 < len(reason) < 300 for reason in reasons)


def test_the_corpus_itself_is_read_whole() -> None:
    for name, data in corpus().items():
        assert min(decode(data).shape[:2]) >= 24, name


def test_damage_ends_in_the_ledger_with_its_reason_and_the_rows_add_up(hostile: Path, fuzzed: Fuzzed) -> None:
    snapshot = take_snapshot(FolderSource(str(hostile)).rows(), None, IngestConfig(max_reject_fraction=1.0), NOW)

    refused = {outcome.name: outcome.detail for outcome in fuzzed.outcomes if outcome.kind == "refused"}
    assert dict(snapshot.quarantine.select("item_id", "reason").rows()) == refused
    assert len(snapshot.items) == len(fuzzed.outcomes) == snapshot.n_read
    indexed = snapshot.items.filter(pl.col("status") == "ok")["item_id"]
    assert set(indexed) == {outcome.name for outcome in fuzzed.outcomes} - set(refused)


@pytest.mark.parametrize(
    "place", ["missing.jpg", "folder.jpg", "pipe.jpg", "huge.jpg", "x" * 300 + ".jpg", "/dev/zero"]
)
def test_a_file_that_cannot_be_read_is_a_row_of_the_ledger(place: str, tmp_path: Path) -> None:
    """A pipe would be waited for, a device never ends, and a file of 100 GB does not fit."""
    (tmp_path / "good.png").write_bytes(saved("PNG"))
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(100 * 2**30)  # of holes
    rows = FolderSource(str(tmp_path)).rows().filter(pl.col("item_id") == "good.png")
    bad = rows.with_columns(item_id=pl.lit("bad"), image_uri=pl.lit(str(tmp_path / place)))

    snapshot = take_snapshot(pl.concat([rows, bad]), None, IngestConfig(max_reject_fraction=0.5), NOW)

    assert snapshot.items["status"].to_list() == ["quarantined", "ok"]
    assert snapshot.quarantine["reason"].item()


def test_many_large_pictures_at_once_do_not_fill_the_memory(hostile: Path) -> None:
    """Six threads with a picture of 99 million pixels each would take 7 GB side by side."""
    script = """
import pathlib, resource, sys
from concurrent.futures import ThreadPoolExecutor
from retrieval_core.images import decode
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
data = pathlib.Path(sys.argv[1]).read_bytes()
with ThreadPoolExecutor(6) as pool:
    assert set(pool.map(lambda _: decode(data).shape, range(6))) == {(10_000, 9_900, 3)}
"""
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, hostile / "just-within.png"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["bomb-tile.tif", "bomb-scans.jpg", "bomb-scans-cmyk.jpg"])
def test_a_bomb_within_the_bound_on_pixels_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ImageRefused, match=r"tiles of 11008 x 11008|more than 500 scans"):
        decode(REFUSED[name]())
