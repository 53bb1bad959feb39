from __future__ import annotations

import io
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval_core.artifacts import pictures as pictures_module
from retrieval_core.artifacts.manifests import Reject, content_id
from retrieval_core.artifacts.parts import MaskRow, vectors_bytes
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.embed import extract as extract_module
from retrieval_core.embed.backbones import read_backbone
from retrieval_core.embed.engine import TorchEngine, open_engine
from retrieval_core.embed.extract import MANY, Masks, ViewToEmbed, extract, in_batches
from retrieval_core.embed.registry import CARDS
from retrieval_core.errors import StoreUnavailable
from retrieval_core.images import Preprocess, apply_mask, crop_to_mask, decode, fit

HOW = Preprocess(size_px=16, crop="squash")
MAX_PIXELS = 10_000


class MeanColour:
    """A stand-in engine that embeds a square as its mean colour, at any length."""

    card, preprocess, dim = CARDS["pca_pixels"], HOW, 3

    def __init__(self, max_rows: int = 4, is_device: bool = False) -> None:
        self.max_rows, self.is_device = max_rows, is_device
        self.batches: list[int] = []

    def embed(self, pixels):
        self.batches.append(len(pixels))
        return pixels.mean(axis=(1, 2), dtype=np.float32)

    def for_worker(self):
        return self


def jpeg(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def picture(folder: Path, number: int, data: bytes | None = None) -> Picture:
    data = jpeg(number) if data is None else data
    path = folder / f"{number}.jpg"
    path.write_bytes(data)
    return Picture(content_id=content_id(data), image_uri=str(path), item_id=f"item{number}")


class Done(NamedTuple):
    content_ids: list[str]
    vectors: np.ndarray
    rejects: list[Reject]


def run(pictures, masks=None, engine=None, batch_size=4, threads=2, on_batch=None, view="masked", margin=0.0):
    """Embed one view of all pictures, with stored masks."""
    to_embed = ViewToEmbed(view, {item.content_id for item in pictures}, margin, engine or MeanColour())
    done = extract(pictures, Masks(stored=masks or {}), [to_embed], batch_size, threads, MAX_PIXELS, on_batch=on_batch)
    assert done.masks == {}
    return Done(*done.vectors[view], done.rejects)


def square(item: Picture) -> np.ndarray:
    return fit(decode(Path(item.image_uri).read_bytes()), HOW)


def test_vectors_are_those_of_the_decoded_squares_in_order(tmp_path):
    pictures = [picture(tmp_path, number) for number in range(11)]
    done = run(pictures)
    assert done.content_ids == [item.content_id for item in pictures]
    assert done.rejects == []
    np.testing.assert_array_equal(done.vectors, MeanColour().embed(np.stack([square(item) for item in pictures])))


@settings(max_examples=25)
@given(good=st.lists(st.booleans(), max_size=13), batch_size=st.integers(1, 6), threads=st.integers(1, 3))
def test_bad_pictures_become_rejects_and_the_order_stays(good, batch_size, threads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pictures = [picture(folder, n, None if fine else b"no picture %d" % n) for n, fine in enumerate(good)]
    reported: list[int] = []
    done = run(pictures, batch_size=batch_size, threads=threads, on_batch=reported.append)
    fine = [item for item, is_good in zip(pictures, good, strict=True) if is_good]
    bad = [item for item, is_good in zip(pictures, good, strict=True) if not is_good]
    assert done.content_ids == [item.content_id for item in fine]
    assert [reject.item_id for reject in done.rejects] == [item.item_id for item in bad]
    assert done.vectors.shape == (len(fine), 3)
    for vector, item in zip(done.vectors, fine, strict=True):
        np.testing.assert_allclose(vector, square(item).mean(axis=(0, 1)), atol=1e-3)
    assert sum(reported) == len(pictures)


def test_reject_says_which_and_why(tmp_path):
    truncated, changed, gone, large = (
        picture(tmp_path, 0, jpeg(0)[:300]),
        picture(tmp_path, 1),
        picture(tmp_path, 2),
        picture(tmp_path, 3, jpeg(3, (200, 200))),
    )
    Path(changed.image_uri).write_bytes(jpeg(99))
    Path(gone.image_uri).unlink()
    rejects = run([truncated, changed, gone, large]).rejects
    assert [reject.content_id for reject in rejects] == [item.content_id for item in (truncated, changed, gone, large)]
    assert "cannot be decoded" in rejects[0].reason
    assert f"changed during the run: its bytes are {content_id(jpeg(99))}" in rejects[1].reason
    assert gone.image_uri in rejects[2].reason
    assert "more than the bound of 10000 pixels" in rejects[3].reason
    assert rejects[0].image_uri == truncated.image_uri


def test_nothing_readable_gives_no_rows(tmp_path):
    done = run([picture(tmp_path, number, b"broken") for number in range(6)])
    assert done.content_ids == []
    assert done.vectors.shape == (0, 3)
    assert done.vectors.dtype == np.float32
    assert len(done.rejects) == 6


def test_no_pictures_give_no_rows():
    assert run([]).vectors.shape == (0, 3)


def test_background_is_zeroed_where_the_mask_is_trusted(tmp_path):
    pictures = [picture(tmp_path, number) for number in range(3)]
    product = np.zeros((8, 8), bool)
    product[2:6, 2:6] = True
    bits = MaskRow(height=8, width=8, bits=compressed(product), area=0.25, reason="")
    masks = {
        pictures[0].content_id: bits,
        pictures[1].content_id: bits.model_copy(update={"reason": "area 0.25 is above 0.2"}),
    }
    squares = [square(item) for item in pictures]
    squares[0] = fit(apply_mask(decode(Path(pictures[0].image_uri).read_bytes()), product), HOW)
    np.testing.assert_array_equal(run(pictures, masks).vectors, MeanColour().embed(np.stack(squares)))
    assert not np.array_equal(run(pictures, masks).vectors[0], run(pictures).vectors[0])


def test_picture_is_cropped_where_the_mask_is_trusted(tmp_path):
    pictures = [picture(tmp_path, number) for number in range(2)]
    product = np.zeros((8, 8), bool)
    product[2:6, 2:6] = True
    bits = MaskRow(height=8, width=8, bits=compressed(product), area=0.25, reason="")
    masks = {
        pictures[0].content_id: bits,
        pictures[1].content_id: bits.model_copy(update={"reason": "area 0.25 is above 0.2"}),
    }
    squares = [square(item) for item in pictures]
    squares[0] = fit(crop_to_mask(decode(Path(pictures[0].image_uri).read_bytes()), product, 0.1), HOW)
    seen = run(pictures, masks, view="crop", margin=0.1).vectors
    np.testing.assert_array_equal(seen, MeanColour().embed(np.stack(squares)))
    assert not np.array_equal(seen[0], run(pictures, masks, view="crop", margin=0.4).vectors[0])


def test_raw_view_looks_at_no_mask(tmp_path):
    pictures = [picture(tmp_path, 0)]
    bits = MaskRow(height=8, width=8, bits=compressed(np.zeros((8, 8), bool)), area=0.0, reason="")
    masks = {pictures[0].content_id: bits}
    np.testing.assert_array_equal(run(pictures, masks, view="raw").vectors, run(pictures).vectors)


def compressed(mask: np.ndarray) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes())


def test_each_set_gets_the_pictures_that_it_lacks(tmp_path):
    pictures = [picture(tmp_path, number, b"broken" if number == 5 else None) for number in range(7)]
    ids = [item.content_id for item in pictures]
    product = np.zeros((8, 8), bool)
    product[2:6, 2:6] = True
    stored = {ids[0]: MaskRow(height=8, width=8, bits=compressed(product), area=0.25, reason="")}
    masks = Masks(set(ids[1:4]), lambda image: (product, ""), stored)
    views = [
        ViewToEmbed("raw", set(ids[2:6]), 0.0, MeanColour()),
        ViewToEmbed("masked", set(ids[:3]), 0.0, MeanColour()),
    ]
    done = extract(pictures, masks, views, 3, 2, MAX_PIXELS)
    assert list(done.masks) == ids[1:4]
    assert [reject.content_id for reject in done.rejects] == [ids[5]]
    assert done.vectors["raw"].content_ids == ids[2:5]
    assert done.vectors["masked"].content_ids == ids[:3]
    whole = run(pictures[:3], dict.fromkeys(ids, stored[ids[0]]))
    np.testing.assert_array_equal(done.vectors["masked"].vectors, whole.vectors)
    np.testing.assert_array_equal(done.vectors["raw"].vectors, run(pictures[2:5], view="raw").vectors)


def test_batches_respect_the_engine_and_the_config(tmp_path):
    pictures = [picture(tmp_path, number) for number in range(7)]
    by_engine, by_config = MeanColour(max_rows=3), MeanColour(max_rows=100)
    run(pictures, engine=by_engine, batch_size=32)
    run(pictures, engine=by_config, batch_size=2)
    assert sorted(by_engine.batches) == [1, 3, 3]
    assert sorted(by_config.batches) == [1, 2, 2, 2]


@pytest.mark.parametrize("batch_size", [3, 32])
def test_device_gets_its_large_batches_whatever_the_threads_read_at_once(tmp_path, batch_size):
    pictures = [picture(tmp_path, n, b"broken" if n in (4, 30) else None) for n in range(41)]
    device, reported = MeanColour(max_rows=24, is_device=True), []
    done = run(pictures, engine=device, batch_size=batch_size, threads=3, on_batch=reported.append)
    assert sorted(device.batches) == [16, 23]
    assert sum(reported) == 41
    expected = run(pictures)
    assert done.content_ids == expected.content_ids
    assert done.rejects == expected.rejects
    np.testing.assert_array_equal(done.vectors, expected.vectors)


def test_failure_of_a_device_ends_the_reading(tmp_path, monkeypatch):
    class Failing(MeanColour):
        def embed(self, pixels):
            raise MemoryError("the device is full")

    read = []
    monkeypatch.setattr(pictures_module, "read_uri", lambda uri: read.append(uri) or Path(uri).read_bytes())
    pictures = [picture(tmp_path, number) for number in range(300)]
    with pytest.raises(MemoryError):
        run(pictures, engine=Failing(max_rows=8, is_device=True), batch_size=1, threads=1)
    assert len(read) < 300


def test_torch_in_device_batches_gives_the_cpu_s_vectors(tmp_path, pixel_backbone):
    pictures = [picture(tmp_path, number) for number in range(19)]
    onnx = run(pictures, engine=open_engine(pixel_backbone.folder, "cpu", 2))
    eager = run(pictures, engine=TorchEngine(read_backbone(pixel_backbone.folder), "cpu"))
    assert eager.content_ids == onnx.content_ids
    np.testing.assert_allclose(eager.vectors, onnx.vectors, atol=1e-4)


def test_bytes_do_not_depend_on_threads(tmp_path, pixel_backbone):
    pictures = [picture(tmp_path, n, b"broken" if n % 5 == 3 else None) for n in range(23)]

    def part(threads: int) -> bytes:
        engine = open_engine(pixel_backbone.folder, "cpu", threads)
        done = run(pictures, engine=engine, batch_size=32, threads=threads)
        return vectors_bytes(done.content_ids, done.vectors)

    assert part(1) == part(2) == part(3) == part(3)


def test_forward_pass_overlaps_decoding(tmp_path, monkeypatch):
    decoding = threading.Event()

    class Waiting(MeanColour):
        def embed(self, pixels):
            # The first forward pass ends only once another thread has begun to decode.
            assert decoding.wait(timeout=30)
            return super().embed(pixels)

    calls = iter(range(100))

    def read(uri: str) -> bytes:
        if next(calls) >= 1:
            decoding.set()
        return Path(uri).read_bytes()

    monkeypatch.setattr(pictures_module, "read_uri", read)
    pictures = [picture(tmp_path, number) for number in range(2)]
    assert len(run(pictures, engine=Waiting(max_rows=1), threads=2).content_ids) == 2


def test_outage_of_the_store_ends_the_work_and_rejects_nobody(tmp_path, monkeypatch):
    read = []

    def fail(uri: str) -> bytes:
        read.append(uri)
        raise StoreUnavailable("the store does not answer")

    monkeypatch.setattr(pictures_module, "read_uri", fail)
    with pytest.raises(StoreUnavailable):
        run([picture(tmp_path, number) for number in range(200)], batch_size=1)
    assert len(read) < 200, "what was not begun is not begun after the failure"


def test_only_many_pictures_are_worth_importing_torch(monkeypatch):
    prepared = []
    monkeypatch.setattr(extract_module, "prepare_for_many", lambda: prepared.append(True))
    few = [Picture(content_id=f"{number:032x}", image_uri="", item_id="") for number in range(MANY - 1)]
    assert sum(in_batches(few, len, 8, 2)) == MANY - 1
    assert not prepared
    assert sum(in_batches([*few, few[0]], len, 8, 2)) == MANY
    assert prepared
