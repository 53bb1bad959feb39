"""Datasets of Hugging Face on a disk are catalogues; pictures in Arrow files are read where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.packed.hf import HfSource
from retrieval_core.store.uris import read_uri

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["coat", "hat"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["wool", "red"], "_type": "ClassLabel"}, "_type": "Sequence"},
    "sku": {"dtype": "string", "_type": "Value"},
}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
DATA = [b"picture 0", b"1", b"", b"picture 3" * 99, None]


def table_of(numbers: range, features: dict[str, Any] = FEATURES) -> pa.Table:
    images = [{"bytes": DATA[n], "path": f"{n}.png"} for n in numbers]
    table = pa.table(
        {
            "image": pa.array(images, IMAGE),
            "label": pa.array([n % 2 if n < 4 else -1 for n in numbers], pa.int64()),
            "tags": pa.array([[0, 1] if n else [] for n in numbers], pa.list_(pa.int64())),
            "sku": pa.array([f"s{n}" for n in numbers]),
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save_to_disk(folder: Path, *files: pa.Table, batch_rows: int = 2) -> Path:
    """Write Arrow files as the `datasets` library does."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(files):05}.arrow" for number in range(len(files))]
    for name, table in zip(names, files, strict=True):
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=batch_rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def pictures_of(source: HfSource) -> list[bytes]:
    return [read_uri(uri) for uri in source.rows()["image_uri"]]


def test_a_dataset_on_a_disk_is_read_where_it_lies(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "ds", table_of(range(2)), table_of(range(3, 4)))
    source = HfSource(f"{folder}?labels=tags")
    rows = source.rows()
    assert rows.select("item_id", "category", "split", "labels").rows() == [
        ("00000000", "coat", None, []),
        ("00000001", "hat", None, ["red", "wool"]),
        ("00000002", "hat", None, ["red", "wool"]),
    ]
    assert pictures_of(source) == [DATA[0], DATA[1], DATA[3]]
    assert source.notes[:2] == (
        "3 rows of 2 files",
        "columns: labels from tags, category from label, image_uri from image, item_id",
    )
    assert sorted(path.name for path in folder.iterdir())[-1] == "state.json", "nothing was unpacked"


def test_splits_are_those_of_the_dataset(tmp_path: Path) -> None:
    for split, numbers in (("train", range(2)), ("validation", range(1)), ("extra", range(1))):
        save_to_disk(tmp_path / "ds" / split, table_of(numbers))
    (tmp_path / "ds" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "extra"]}')
    source = HfSource(str(tmp_path / "ds"))
    assert source.rows().select("item_id", "split").rows() == [
        ("extra/00000000", None),
        ("train/00000000", "train"),
        ("train/00000001", "train"),
        ("validation/00000000", "val"),
    ]
    assert source.notes[0] == "4 rows of 3 files, split into train, validation, extra"


@pytest.mark.parametrize("batch_rows", [1, 2, 5])
def test_a_picture_without_bytes_is_the_file_of_its_path(batch_rows: int, tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "ds", table_of(range(3, 5)), batch_rows=batch_rows)
    (folder / "4.png").write_bytes(b"a file")
    source = HfSource(f"{folder}?item_id=sku")
    assert source.rows()["item_id"].to_list() == ["s3", "s4"]
    assert source.rows()["category"].to_list() == ["hat", None], "-1 is no class"
    assert pictures_of(source) == [DATA[3], b"a file"]


def test_parquet_files_are_unpacked_once(tmp_path: Path) -> None:
    folder = tmp_path / "ds" / "data"
    folder.mkdir(parents=True)
    pq.write_table(table_of(range(2)), folder / "train-00000-of-00002.parquet")
    pq.write_table(table_of(range(3, 4)), folder / "train-00001-of-00002.parquet")
    pq.write_table(table_of(range(1, 2)), folder / "test-00000-of-00001.parquet")
    source = HfSource(str(tmp_path / "ds"))
    assert not (tmp_path / "ds" / "pictures").exists(), "opening a source writes nothing"
    assert source.rows().select("item_id", "split", "category").rows() == [
        ("test/00000000", "test", "hat"),
        ("train/00000000", "train", "coat"),
        ("train/00000001", "train", "hat"),
        ("train/00000002", "train", "hat"),
    ]
    assert pictures_of(source) == [DATA[1], DATA[0], DATA[1], DATA[3]]
    single = HfSource(f"{folder / 'test-00000-of-00001.parquet'}?item_id=sku&pictures={tmp_path / 'own'}")
    assert pictures_of(single) == [DATA[1]]
    assert (tmp_path / "own" / "00000000.png").read_bytes() == DATA[1]


def test_bytes_alone_are_pictures_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "front": [b"12"], "back": [b"3"]}), tmp_path / "x.parquet")
    source = HfSource(str(tmp_path / "x.parquet"))
    assert source.rows().select("item_id", "product_id").rows() == [("a", "a"), ("a/2", "a")]
    assert pictures_of(source) == [b"12", b"3"]


def test_what_is_no_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissing, match=r"holds no dataset.*metadata\.csv"):
        HfSource(str(tmp_path / "empty"))
    pq.write_table(pa.table({"sku": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(CatalogInvalid, match=r"x\.parquet has no column of pictures"):
        HfSource(str(tmp_path / "x.parquet"))
    with pytest.raises(BadConfig, match="read from a disk"):
        HfSource("s3://shop/ds")


def test_a_damaged_dataset_is_refused(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "ds", table_of(range(2)))
    whole = (folder / "data-00000-of-00001.arrow").read_bytes()
    for n_bytes in (0, 4, 300, len(whole) - 8, len(whole) - 1):
        (folder / "data-00000-of-00001.arrow").write_bytes(whole[:n_bytes])
        with pytest.raises(CatalogInvalid, match="cannot be read"):
            HfSource(str(folder))
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(CatalogInvalid, match="cannot be read"):
        HfSource(str(folder))


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    features = {**FEATURES, "label": {"names": ["coat"], "_type": "ClassLabel"}}
    with pytest.raises(CatalogInvalid, match="class 1, but 1 classes have names"):
        HfSource(str(save_to_disk(tmp_path / "ds", table_of(range(2), features))))
