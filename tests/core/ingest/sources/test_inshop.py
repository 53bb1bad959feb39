"""DeepFashion In-Shop in its own layout, written small."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.inshop import InShopSource
from retrieval_core.ingest.sources.registry import open_source

DRESS = "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
DRESS_BACK = "img/WOMEN/Dresses/id_00000002/02_2_side.jpg"
VEST = "img/MEN/Jackets_Vests/id_00000080/01_7_additional.jpg"
LINES = [
    "image_name item_id evaluation_status",
    f"{DRESS}    id_00000002 query ",
    f"{DRESS_BACK} id_00000002 gallery",
    f"{VEST}   id_00000080 train",
]
PARTITION = "\n".join(["3", *LINES]) + "\n"


def save(root: Path, partition: str = PARTITION, folder: str = "Eval", pictures: str = "Img") -> Path:
    for path, text in {f"{folder}/list_eval_partition.txt": partition, f"{pictures}/{DRESS}": ""}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def save_labels(root: Path, folder: str, items: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "list_attr_cloth.txt").write_text("3\nattribute_names\nlace\ncrew neck\nabstract print\n")
    (root / folder / "list_attr_items.txt").write_text(f"2\nitem_id attribute_labels\n{items}")


def test_the_partition_becomes_the_catalogue(tmp_path: Path) -> None:
    rows = open_source(f"inshop:{save(tmp_path)}").rows()
    assert dict(rows.schema) == SOURCE_SCHEMA
    women, men = [{"name": "gender", "value": "WOMEN"}], [{"name": "gender", "value": "MEN"}]
    assert rows.drop("mask_uri", "fields").rows() == [
        (VEST, f"{tmp_path}/Img/{VEST}", "id_00000080", "Jackets_Vests", "train", [], men),
        (DRESS, f"{tmp_path}/Img/{DRESS}", "id_00000002", "Dresses", "query", [], women),
        (DRESS_BACK, f"{tmp_path}/Img/{DRESS_BACK}", "id_00000002", "Dresses", "gallery", [], women),
    ]


@pytest.mark.parametrize("folder", ["Eval", "Anno"])
@pytest.mark.parametrize(("pictures", "uri"), [("Img", f"Img/{VEST}"), (".", VEST)])
def test_files_may_lie_where_either_release_put_them(tmp_path: Path, folder: str, pictures: str, uri: str) -> None:
    rows = InShopSource(str(save(tmp_path, folder=folder, pictures=pictures))).rows()
    assert rows["image_uri"][0] == f"{tmp_path}/{uri}"


def test_the_header_may_be_padded_and_lines_end_in_any_way(tmp_path: Path) -> None:
    partition = PARTITION.replace("\n", "\r\n").replace("image_name item_id", "image_name\t  item_id ")
    assert len(InShopSource(str(save(tmp_path, partition))).rows()) == 3


@pytest.mark.parametrize("folder", ["Anno/attributes", "Anno"])
def test_labels_are_the_attributes_marked_with_one(tmp_path: Path, folder: str) -> None:
    save_labels(save(tmp_path), folder, "id_00000002  1 -1  1\nid_00000002  1 -1  1\nid_00000001 1 1 1\n")
    rows = InShopSource(str(tmp_path)).rows()
    assert rows["labels"].to_list() == [[], ["abstract print", "lace"], ["abstract print", "lace"]]


@pytest.mark.parametrize("items", ["id_00000002 1 -1\n", "id_00000002 1 -1 0 1\n", "id_00000002 1 1 1\n\nid_1 1 1 1"])
def test_a_line_of_marks_that_does_not_fit_the_names_is_reported(tmp_path: Path, items: str) -> None:
    save_labels(save(tmp_path), "Anno/attributes", items)
    with pytest.raises(CatalogInvalid, match=r"list_attr_items\.txt, line \d has \d fields; .* 3 attributes"):
        InShopSource(str(tmp_path)).rows()


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("", r"starts with \[\]; expected the number"),
        ("3\n", r"starts with \['3'\]; expected the number"),
        ("\n".join(LINES), "starts with .*; expected the number"),
        ("3\nimage_name item_id status\n", "expected the number of pictures, then image_name item_id evaluation"),
        (PARTITION.replace("3\n", "52712\n", 1), "promises 52712 pictures and lists 3"),
        (PARTITION[: PARTITION.index("id_00000080 train")], "line 5: .*; expected img/GENDER"),
        (PARTITION.replace("query", "test"), "line 3: .* one of train, query, gallery"),
        (PARTITION.replace("WOMEN/Dresses/", "Dresses/"), "line 3: .*; expected img/GENDER/GARMENT/ITEM/NAME"),
        (PARTITION.replace("gallery\n", "gallery\n\n"), "line 5: ''"),
        ("2\n" + "\n".join([LINES[0], LINES[1], LINES[1]]), "1 item_ids occur more than once"),
    ],
)
def test_a_damaged_partition_is_reported(tmp_path: Path, partition: str, message: str) -> None:
    with pytest.raises(CatalogInvalid, match=message):
        InShopSource(str(save(tmp_path, partition))).rows()


def test_a_partition_that_names_nothing_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="is empty"):
        InShopSource(str(save(tmp_path, f"0\n{LINES[0]}\n"))).rows()


def test_a_folder_without_the_partition_is_refused(tmp_path: Path) -> None:
    (save(tmp_path) / "Eval/list_eval_partition.txt").unlink()
    with pytest.raises(SourceMissing, match=r"lacks Eval/list_eval_partition\.txt"):
        InShopSource(str(tmp_path))


def test_an_archive_that_is_still_packed_is_reported(tmp_path: Path) -> None:
    (save(tmp_path) / "Img" / DRESS).unlink()
    with pytest.raises(SourceMissing, match=r"unpack the dataset's img\.zip"):
        InShopSource(str(tmp_path))


def test_a_bucket_reads_like_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        client.put_object(Bucket="shop", Key="df/Anno/list_eval_partition.txt", Body=PARTITION.encode())
        client.put_object(Bucket="shop", Key=f"df/Img/{DRESS}", Body=b"")
        rows = InShopSource("s3://shop/df/").rows()
        assert rows["image_uri"].to_list() == [f"s3://shop/df/Img/{name}" for name in (VEST, DRESS, DRESS_BACK)]
