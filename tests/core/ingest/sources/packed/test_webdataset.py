"""Samples of WebDataset shards are rows of a catalogue, and their pictures are read where they lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.packed.webdataset import WebDatasetSource
from retrieval_core.store.uris import read_uri
from tests.core.ingest.sources.packed.test_tar import pack
from tests.web_server import WebServer

SAMPLES = {
    "train/001.jpg": b"picture 1",
    "train/001.json": json.dumps({"sku": 4711, "labels": ["wool"], "attributes": {"colour": "red"}, "w": 3}).encode(),
    "train/001.cls": b"coat\n",
    "train/001.back.jpg": b"back of 1",
    "train/002.png": b"picture 2",
    "train/002.webp": b"again 2",
    "train/002.txt": b"Ein Hut",
    "train/002.seg.png": b"mask",
    "train/003.json": b'{"sku": 3}',
    "train/.DS_Store": b"x",
    "README": b"x",
}


def shard(path: Path, files: dict[str, bytes] = SAMPLES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(files))
    return path


def test_files_of_one_key_are_one_sample(tmp_path: Path) -> None:
    source = WebDatasetSource(str(shard(tmp_path / "a.tar")))
    rows = source.rows()
    assert rows.select("item_id", "product_id", "category", "labels").rows() == [
        ("train/001", "train/001", "coat", ["wool"]),
        ("train/002", "train/002", None, []),
        ("train/002/2", "train/002", None, []),
    ]
    assert rows["attributes"].to_list()[0] == [{"name": "colour", "value": "red"}]
    assert [read_uri(uri) for uri in rows["image_uri"]] == [b"picture 1", b"picture 2", b"again 2"]
    assert source.notes[0] == "2 samples in 1 shard; 1 sample without a picture passed over"
    assert source.n_passed_over == 1
    assert source.notes[-1] == "not used: back.jpg, sku, w, txt, seg.png"


def test_names_may_be_mapped(tmp_path: Path) -> None:
    files = {name: data for name, data in SAMPLES.items() if "/001" in name}
    query = "?item_id=sku&image_uri=jpg&image_uri=back.jpg&category=cls"
    rows = WebDatasetSource(f"{shard(tmp_path / 'a.tar', files)}{query}").rows()
    assert rows.select("item_id", "category").rows() == [("4711", "coat"), ("4711/2", "coat")]
    assert [read_uri(uri) for uri in rows["image_uri"]] == [b"picture 1", b"back of 1"]


def test_shards_are_a_range_or_a_folder(tmp_path: Path) -> None:
    for number in range(12):
        shard(tmp_path / f"s-{number:03}.tar", {f"{number:03}.jpg": b"picture"})
    (tmp_path / "notes.txt").write_text("x")
    ranged = WebDatasetSource(f"{tmp_path}/s-{{003..011}}.tar")
    assert ranged.rows()["item_id"].to_list() == [f"{number:03}" for number in range(3, 12)]
    assert len(WebDatasetSource(str(tmp_path)).rows()) == 12
    with pytest.raises(SourceMissing, match=r"no shard .*s-012\.tar"):
        WebDatasetSource(f"{tmp_path}/s-{{003..012}}.tar")


def test_shards_on_a_web_server_are_read_where_they_lie(web_server: WebServer) -> None:
    web_server.knows_ranges = True
    web_server.files = {f"/s-{number}.tar": pack({f"{number}.jpg": bytes([number])}) for number in range(3)}
    rows = WebDatasetSource(f"{web_server.url}/s-{{0..2}}.tar").rows()
    assert [read_uri(uri) for uri in rows["image_uri"]] == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"1.jpg": b"1", "1.json": b'{"sku": '}, r"a\.tar: 1\.json: not JSON, or cut off"),
        ({"1.jpg": b"1", "1.json": b"[]"}, "expected a JSON object"),
        ({"1.jpg": b"1", "1.cls": b"\xff"}, r"1\.cls: .*decode"),
        ({"1.jpg": b"1", "1.json": b'{"item_id": "2"}', "2.jpg": b"2"}, "item_ids occur more than once"),
        ({"1.jpg": b"1", "1.json": b'{"labels": [["a"]]}'}, "labels has several values"),
    ],
)
def test_a_damaged_sample_is_refused_with_its_name(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=says):
        WebDatasetSource(str(shard(tmp_path / "a.tar", files))).rows()


def test_a_shard_that_is_cut_off_or_packed_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(CatalogInvalid, match=r"a\.tar: it is .*cut off"):
        WebDatasetSource(str(path))
