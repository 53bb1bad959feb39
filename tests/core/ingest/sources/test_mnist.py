"""The idx files of MNIST and Fashion-MNIST, written small."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from retrieval_core import images
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.mnist import MnistSource
from retrieval_core.ingest.sources.registry import open_source

TRAIN = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
TEST = 255 - TRAIN[:2]


def images_idx(pixels: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">IIII", magic, *pixels.shape) + pixels.tobytes()


def labels_idx(labels: list[int], magic: int = 0x801) -> bytes:
    return struct.pack(">II", magic, len(labels)) + bytes(labels)


FILES = {
    "train-images-idx3-ubyte": images_idx(TRAIN),
    "train-labels-idx1-ubyte": labels_idx([7, 0, 9]),
    "t10k-images-idx3-ubyte": images_idx(TEST),
    "t10k-labels-idx1-ubyte": labels_idx([1, 7]),
}


def save(root: Path, zipped: bool = False, **changed: bytes) -> str:
    for name, data in (FILES | {name.replace("_", "-"): data for name, data in changed.items()}).items():
        (root / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return str(root)


@pytest.mark.parametrize("zipped", [False, True])
def test_every_picture_is_a_row_and_a_file(tmp_path: Path, zipped: bool) -> None:
    rows = open_source(f"mnist:{save(tmp_path, zipped)}").rows()
    assert dict(rows.schema) == SOURCE_SCHEMA
    assert rows.select("item_id", "category", "split").rows() == [
        ("test/00000", "1", "test"),
        ("test/00001", "7", "test"),
        ("train/00000", "7", "train"),
        ("train/00001", "0", "train"),
        ("train/00002", "9", "train"),
    ]
    assert rows["image_uri"][2] == str(tmp_path / "pictures/train/00000.png")
    for uri, pixels in zip(rows["image_uri"], [*TEST, *TRAIN], strict=True):
        assert np.array_equal(images.decode(Path(uri).read_bytes()), np.repeat(pixels[..., None], 3, axis=2))


def test_fashion_mnist_names_its_garments(tmp_path: Path) -> None:
    rows = open_source(f"fashion-mnist:{save(tmp_path)}").rows()
    assert rows["category"].to_list() == ["Trouser", "Sneaker", "Sneaker", "T-shirt/top", "Ankle boot"]


def test_rows_are_the_same_when_read_again(tmp_path: Path) -> None:
    source = MnistSource(save(tmp_path))
    assert source.rows().equals(source.rows())


def test_two_datasets_do_not_share_a_folder_of_pictures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    query = f"?pictures={tmp_path / 'shared'}"
    open_source(f"mnist:{save(tmp_path / 'one')}{query}").rows()
    other = save(tmp_path / "two", train_images_idx3_ubyte=images_idx(TRAIN + 1))
    with pytest.raises(BadConfig, match="holds pictures of other files"):
        open_source(f"fashion-mnist:{other}{query}").rows()


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_named(tmp_path: Path, name: str) -> None:
    root = save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SourceMissing, match=rf"lacks {name} \(or {name}\.gz\)"):
        open_source(f"mnist:{root}")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images_idx3_ubyte": b""}, "train-images.* ends 16 bytes before"),
        ({"train_labels_idx1_ubyte": b"\0\0"}, "train-labels.* ends 6 bytes before"),
        ({"train_images_idx3_ubyte": images_idx(TRAIN)[:-3]}, "train-images.* ends 3 bytes before"),
        ({"t10k_images_idx3_ubyte": images_idx(TEST) + b"x"}, "t10k-images.* goes on after"),
        ({"t10k_labels_idx1_ubyte": labels_idx([1, 7])[:-1]}, "t10k-labels.* ends 1 bytes before"),
        ({"t10k_labels_idx1_ubyte": labels_idx([1, 7]) + b"x"}, "t10k-labels.* goes on after"),
        ({"train_images_idx3_ubyte": images_idx(TRAIN, 0x801)}, "starts with 0x0801; .* starts with 0x0803"),
        ({"train_labels_idx1_ubyte": labels_idx([1, 7, 2], 0xD01)}, "starts with 0x0d01; .* starts with 0x0801"),
        ({"train_labels_idx1_ubyte": labels_idx([1, 7])}, "holds 3 pictures, but train-labels.* 2 labels"),
        ({"train_labels_idx1_ubyte": labels_idx([1, 10, 2])}, "picture 1 has label 10, but 10 classes"),
        ({"train_images_idx3_ubyte": struct.pack(">IIII", 0x803, 3, 2**31, 5)}, "promises 3 x 2147483648 x 5 bytes"),
        ({"train_labels_idx1_ubyte": struct.pack(">II", 0x801, 2**32 - 1)}, "promises 4294967295 bytes"),
    ],
)
def test_a_damaged_file_is_reported_before_anything_is_unpacked(
    tmp_path: Path, changed: dict[str, bytes], message: str, zipped: bool
) -> None:
    root = save(tmp_path, zipped, **changed)
    with pytest.raises(CatalogInvalid, match=message):
        open_source(f"mnist:{root}").rows()
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"not gzip" + data, lambda data: data[:40]])
def test_a_damaged_archive_is_reported(tmp_path: Path, damage: object) -> None:
    root = save(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CatalogInvalid, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        open_source(f"mnist:{root}").rows()


def test_no_picture_at_all_is_a_missing_source(tmp_path: Path) -> None:
    none = {"images_idx3_ubyte": images_idx(TRAIN[:0]), "labels_idx1_ubyte": labels_idx([])}
    root = save(tmp_path, **{f"{part}_{name}": data for part in ("train", "t10k") for name, data in none.items()})
    with pytest.raises(SourceMissing, match="is empty"):
        open_source(f"mnist:{root}").rows()
