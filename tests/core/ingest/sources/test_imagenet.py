"""ImageNet in folders, with a flat validation set, and in Kaggle's layout."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.imagenet import ImageNetSource
from retrieval_core.ingest.sources.registry import open_source

TENCH, BIRD, MACHINE = "n01440764", "n02012849", "n03126707"
MAPPING = f"{TENCH} tench, Tinca tinca\n{BIRD} crane\n{MACHINE} crane\n"
SOLUTION = (
    "ImageId,PredictionString\n"
    f"ILSVRC2012_val_00000001,{BIRD} 85 1 499 272 \n"
    f"ILSVRC2012_val_00000002,{TENCH} 0 0 9 9 {TENCH} 3 3 9 9\n"
)
IN_FOLDERS = (f"train/{TENCH}/{TENCH}_1.JPEG", f"train/{BIRD}/{BIRD}_7.JPEG", f"val/{MACHINE}/v1.JPEG")
FLAT = (f"train/{TENCH}/{TENCH}_1.JPEG", "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")


def save(root: Path, *pictures: str, **tables: str) -> str:
    for path in pictures:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for name, text in tables.items():
        (root / {"mapping": "LOC_synset_mapping.txt", "solution": "LOC_val_solution.csv"}[name]).write_text(text)
    return str(root)


def rows_of(root: str) -> list[tuple[str, str, str]]:
    return ImageNetSource(root).rows().select("item_id", "split", "category").rows()


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    rows = open_source(f"imagenet:{save(tmp_path, *IN_FOLDERS, 'train/readme.txt')}").rows()
    assert dict(rows.schema) == SOURCE_SCHEMA
    assert rows.select("item_id", "image_uri", "split", "category").rows() == [
        (IN_FOLDERS[0], f"{tmp_path}/{IN_FOLDERS[0]}", "train", TENCH),
        (IN_FOLDERS[1], f"{tmp_path}/{IN_FOLDERS[1]}", "train", BIRD),
        (IN_FOLDERS[2], f"{tmp_path}/{IN_FOLDERS[2]}", "val", MACHINE),
    ]


def test_classes_have_their_first_name_and_two_of_one_name_stay_two(tmp_path: Path) -> None:
    categories = [category for *_, category in rows_of(save(tmp_path, *IN_FOLDERS, mapping=MAPPING))]
    assert categories == ["tench", f"crane ({BIRD})", f"crane ({MACHINE})"]


def test_a_class_the_mapping_leaves_out_keeps_its_id(tmp_path: Path) -> None:
    assert {category for *_, category in rows_of(save(tmp_path, *IN_FOLDERS, mapping=""))} == {TENCH, BIRD, MACHINE}


def test_a_flat_validation_set_is_resolved_by_its_solution(tmp_path: Path) -> None:
    root = save(tmp_path, *FLAT, solution=SOLUTION, mapping=MAPPING)
    assert rows_of(root) == [
        (FLAT[0], "train", "tench"),
        (FLAT[1], "val", f"crane ({BIRD})"),
        (FLAT[2], "val", "tench"),
    ]


def test_kaggles_layout_has_its_tables_beside(tmp_path: Path) -> None:
    base = "ILSVRC/Data/CLS-LOC"
    pictures = (*FLAT, "test/ILSVRC2012_test_00000001.JPEG")
    root = save(tmp_path, *(f"{base}/{path}" for path in pictures), solution=SOLUTION, mapping=MAPPING)
    rows = ImageNetSource(root).rows()
    assert rows["item_id"].to_list() == list(FLAT)
    assert rows["image_uri"][1] == f"{tmp_path}/{base}/{FLAT[1]}"
    assert rows["category"].to_list() == ["tench", f"crane ({BIRD})", "tench"]


@pytest.mark.parametrize("path", IN_FOLDERS)
def test_one_split_is_enough(tmp_path: Path, path: str) -> None:
    assert len(rows_of(save(tmp_path, path))) == 1


@pytest.mark.parametrize(
    ("pictures", "tables", "message"),
    [
        (FLAT, {}, r"copy LOC_val_solution\.csv to"),
        (FLAT, {"solution": ""}, f"LOC_val_solution.csv has no line for {FLAT[1]}"),
        (FLAT, {"solution": SOLUTION.rpartition("ILSVRC")[0]}, f"LOC_val_solution.csv has no line for {FLAT[2]}"),
        (FLAT, {"solution": SOLUTION + "ILSVRC2012_val_00000003\n"}, r"csv, line 4: .*; expected NAME,nXXXXXXXX"),
        (IN_FOLDERS, {"mapping": MAPPING + "n123 x\n"}, r"mapping\.txt, line 4: 'n123 x'; expected nXXXXXXXX"),
        (IN_FOLDERS, {"mapping": f"{TENCH}\n"}, r"mapping\.txt, line 1: .*; expected nXXXXXXXX and names"),
        (("train/dogs/1.jpg",), {}, r"train/dogs/1\.jpg lies in no folder named by a WordNet id.* by folder:"),
        (("train/1.jpg",), {}, r"train/1\.jpg lies in no folder named by a WordNet id"),
        ((f"train/{TENCH}/deep/1.jpg",), {}, "lies in no folder named by a WordNet id"),
    ],
)
def test_a_broken_layout_is_reported(
    tmp_path: Path, pictures: tuple[str, ...], tables: dict[str, str], message: str
) -> None:
    with pytest.raises(CatalogInvalid, match=message):
        rows_of(save(tmp_path, *pictures, **tables))


def test_a_folder_without_pictures_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=r"holds no pictures in train/nXXXXXXXX/ or val/, nor .*CLS-LOC/;"):
        ImageNetSource(save(tmp_path, "test/1.JPEG", f"train/{TENCH}/notes.txt"))


def test_a_bucket_reads_like_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        for path in FLAT:
            client.put_object(Bucket="shop", Key=f"in/ILSVRC/Data/CLS-LOC/{path}", Body=b"")
        client.put_object(Bucket="shop", Key="in/LOC_val_solution.csv", Body=SOLUTION.encode())
        rows = ImageNetSource("s3://shop/in/").rows()
        assert rows["image_uri"][0] == f"s3://shop/in/ILSVRC/Data/CLS-LOC/{FLAT[0]}"
        assert rows["category"].to_list() == [TENCH, BIRD, TENCH]
