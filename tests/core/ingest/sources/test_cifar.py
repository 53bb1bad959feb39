"""CIFAR-10 and CIFAR-100 in their binary version, written small."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from retrieval_core import images
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.registry import open_source

BATCHES = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]


def picture(seed: int) -> np.ndarray:
    """(32, 32, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def record(labels: tuple[int, ...], pixels: np.ndarray) -> bytes:
    return bytes(labels) + pixels.transpose(2, 0, 1).tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """Two pictures a batch, labels 0 to 2."""
    for number, name in enumerate(BATCHES):
        records = [record(((number + k) % 3,), picture(2 * number + k)) for k in range(2)]
        (tmp_path / name).write_bytes(b"".join(records))
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    return tmp_path


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    (tmp_path / "train.bin").write_bytes(record((1, 0), picture(0)) + record((0, 2), picture(1)))
    (tmp_path / "test.bin").write_bytes(record((0, 1), picture(2)))
    (tmp_path / "coarse_label_names.txt").write_text("fish\nflowers\n")
    (tmp_path / "fine_label_names.txt").write_text("orchid\r\nray\r\nshark\r\n")
    return tmp_path


def test_every_picture_of_cifar10_is_a_row_and_a_file(cifar10: Path) -> None:
    rows = open_source(f"cifar10:{cifar10}").rows()
    assert dict(rows.schema) == SOURCE_SCHEMA
    assert rows["item_id"].to_list() == ["test/00000", "test/00001", *(f"train/{n:05d}" for n in range(10))]
    assert rows["split"].to_list() == ["test"] * 2 + ["train"] * 10
    assert rows["category"].to_list()[:4] == ["bird", "airplane", "airplane", "automobile"]
    for uri, seed in zip(rows["image_uri"], [10, 11, *range(10)], strict=True):
        assert np.array_equal(images.decode(Path(uri).read_bytes()), picture(seed))


def test_cifar100_has_fine_classes_and_coarse_ones(cifar100: Path) -> None:
    rows = open_source(f"cifar100:{cifar100}").rows()
    assert rows.select("item_id", "category", "split", "attributes").rows() == [
        ("test/00000", "ray", "test", [{"name": "coarse", "value": "fish"}]),
        ("train/00000", "orchid", "train", [{"name": "coarse", "value": "flowers"}]),
        ("train/00001", "shark", "train", [{"name": "coarse", "value": "fish"}]),
    ]
    assert np.array_equal(images.decode(Path(rows["image_uri"][2]).read_bytes()), picture(1))


@pytest.mark.parametrize(
    ("kind", "names", "archive"),
    [
        ("cifar10", [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"], "cifar-10-binary"),
        ("cifar100", ["train", "test", "meta"], "cifar-100-binary"),
    ],
)
def test_the_python_version_is_refused_unopened(tmp_path: Path, kind: str, names: list[str], archive: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps({b"data": [1], b"labels": [1]}))
    with pytest.raises(CatalogInvalid, match=rf"python version, whose pickles .* binary version, {archive}\.tar\.gz"):
        open_source(f"{kind}:{tmp_path}")


@pytest.mark.parametrize("name", [*BATCHES, "batches.meta.txt"])
def test_an_absent_file_is_named(cifar10: Path, name: str) -> None:
    (cifar10 / name).unlink()
    with pytest.raises(SourceMissing, match=rf"lacks {name}; expected the files of cifar-10-binary\.tar\.gz"):
        open_source(f"cifar10:{cifar10}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "has 0 bytes; expected a multiple of 3073"),
        (lambda data: data[:-1], "has 6145 bytes; expected a multiple of 3073"),
        (lambda data: data[:3073] + b"\x03" + data[3074:], "picture 1 has label 3, but 3 classes"),
    ],
)
def test_a_damaged_batch_is_reported_before_anything_is_unpacked(cifar10: Path, change: object, message: str) -> None:
    path = cifar10 / "data_batch_4.bin"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CatalogInvalid, match=rf"data_batch_4\.bin.* {message}"):
        open_source(f"cifar10:{cifar10}").rows()
    assert not (cifar10 / "pictures").exists()


def test_a_coarse_label_without_a_name_is_refused(cifar100: Path) -> None:
    (cifar100 / "coarse_label_names.txt").write_text("fish\n")
    with pytest.raises(CatalogInvalid, match=r"train\.bin: picture 0 has label 1, but 1 classes"):
        open_source(f"cifar100:{cifar100}").rows()


def test_files_of_the_other_dataset_do_not_pass(cifar10: Path) -> None:
    with pytest.raises(SourceMissing, match=r"lacks train\.bin"):
        open_source(f"cifar100:{cifar10}")
