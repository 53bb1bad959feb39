"""Clothing Co-Parsing in its own layout, drawn small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.ccp import CcpSource

NAMES = ["null", "bag", "coat", "hair", "hat", "skin"]
COAT_AND_HAT = np.array([[0, 2, 2], [3, 5, 4]], np.uint8)


def save_mat(path: Path, **variables: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """0001 is annotated per pixel, 0002 as a whole, 0003 not at all."""
    (tmp_path / "photos").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (3, 2)).save(tmp_path / f"photos/{number:04d}.jpg")
    names = np.empty((1, len(NAMES)), object)
    names[0] = NAMES
    save_mat(tmp_path / "label_list.mat", label_list=names)
    save_mat(tmp_path / "annotations/pixel-level/0001.mat", groundtruth=COAT_AND_HAT)
    save_mat(tmp_path / "annotations/image-level/0002.mat", tags=np.array([[0, 1, 3, 4, 5]], np.uint8))
    return tmp_path


def test_labels_are_the_apparel_present(root: Path) -> None:
    rows = CcpSource(str(root)).rows()
    assert rows.select("item_id", "labels").rows() == [
        ("0001", ["coat", "hat"]),
        ("0002", ["bag", "hat"]),
        ("0003", []),
    ]


def test_only_a_photo_annotated_per_pixel_has_a_mask(root: Path) -> None:
    rows = CcpSource(str(root)).rows()
    assert rows["mask_uri"].to_list() == [str(root / "annotations/pixel-level/0001.mat"), None, None]
    assert rows["image_uri"].to_list() == [str(root / f"photos/000{number}.jpg") for number in (1, 2, 3)]


def test_the_mask_is_the_apparel(root: Path) -> None:
    source = CcpSource(str(root))
    mask = source.read_mask(source.rows()["mask_uri"][0])
    assert mask.dtype == bool
    assert mask.tolist() == [[False, True, True], [False, False, True]]


def test_an_image_level_annotation_may_be_empty(root: Path) -> None:
    save_mat(root / "annotations/image-level/0003.mat", tags=np.zeros((1, 0), np.uint8))
    assert CcpSource(str(root)).rows()["labels"].to_list()[2] == []


def test_a_folder_without_photos_is_a_missing_source(root: Path) -> None:
    for photo in (root / "photos").iterdir():
        photo.unlink()
    with pytest.raises(SourceMissing, match=r"holds no photos/NNNN\.jpg"):
        CcpSource(str(root))


def test_a_folder_without_the_names_of_the_labels_is_refused(root: Path) -> None:
    (root / "label_list.mat").unlink()
    with pytest.raises(CatalogInvalid, match=r"lacks label_list\.mat"):
        CcpSource(str(root))


def test_a_damaged_annotation_is_named(root: Path) -> None:
    path = root / "annotations/pixel-level/0001.mat"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(CatalogInvalid, match=r"pixel-level/0001\.mat has no readable MATLAB variable 'groundtruth'"):
        CcpSource(str(root)).rows()


def test_an_annotation_of_another_kind_is_named(root: Path) -> None:
    save_mat(root / "annotations/pixel-level/0001.mat", something=1)
    with pytest.raises(CatalogInvalid, match=r"0001\.mat has no readable MATLAB variable"):
        CcpSource(str(root)).rows()


@pytest.mark.parametrize(
    ("numbers", "message"), [([[6]], "has label 6, but label_list"), ([[0.5]], "expected label numb")]
)
def test_a_label_number_without_a_name_is_refused(root: Path, numbers: list[list[float]], message: str) -> None:
    save_mat(root / "annotations/pixel-level/0001.mat", groundtruth=np.array(numbers))
    with pytest.raises(CatalogInvalid, match=message):
        CcpSource(str(root)).rows()


def test_label_numbers_may_be_wider_than_a_byte(root: Path) -> None:
    save_mat(root / "annotations/pixel-level/0001.mat", groundtruth=COAT_AND_HAT.astype(np.int16))
    assert CcpSource(str(root)).rows()["labels"][0].to_list() == ["coat", "hat"]


def test_an_absent_mask_is_not_found(root: Path) -> None:
    with pytest.raises(NotFound):
        CcpSource(str(root)).read_mask(str(root / "annotations/pixel-level/0009.mat"))


class TestLargest:
    def categories(self, root: Path, query: str = "?category=largest") -> list[str | None]:
        return CcpSource(f"{root}{query}").rows()["category"].to_list()

    def test_the_category_of_a_photo_annotated_per_pixel_is_the_apparel_that_covers_most(self, root: Path) -> None:
        assert self.categories(root) == ["coat", None, None]

    def test_without_the_query_there_is_no_category(self, root: Path) -> None:
        assert self.categories(root, "") == [None, None, None]

    def test_the_other_columns_stay_the_same(self, root: Path) -> None:
        asked = CcpSource(f"{root}?category=largest")
        plain = CcpSource(str(root))
        assert asked.rows().drop("category").equals(plain.rows().drop("category"))
        mask_uri = plain.rows()["mask_uri"][0]
        assert np.array_equal(asked.read_mask(mask_uri), plain.read_mask(mask_uri))

    @pytest.mark.parametrize(
        ("numbers", "category"),
        [
            ([[0, 0, 0, 3, 3, 5, 4]], "hat"),
            ([[4, 2, 1, 0]], "bag"),
            ([[0, 3, 5]], None),
            (np.zeros((0, 0)), None),
        ],
    )
    def test_background_hair_and_skin_never_count_and_the_lower_number_wins(
        self, root: Path, numbers: object, category: str | None
    ) -> None:
        save_mat(root / "annotations/pixel-level/0001.mat", groundtruth=np.array(numbers, np.uint8))
        assert self.categories(root)[0] == category

    @pytest.mark.parametrize("query", ["?category=first", "?colour=red", "?category", "?category=largest&size=2"])
    def test_another_query_is_a_bad_config(self, root: Path, query: str) -> None:
        with pytest.raises(BadConfig):
            CcpSource(f"{root}{query}")
