"""`inshop:DIR`: DeepFashion In-Shop in the dataset's own layout (Liu, Luo, Qiu, Wang, Tang, CVPR 2016)."""

from __future__ import annotations

import re
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import dataset_root, first_present, read_lines
from retrieval_core.ingest.sources.labels import attributes_of, normalise_labels
from retrieval_core.store.uris import list_uris

HEADER = ["image_name", "item_id", "evaluation_status"]
PARTITIONS = ("Eval/list_eval_partition.txt", "Anno/list_eval_partition.txt")
ITEM_LABELS = ("Anno/attributes/list_attr_items.txt", "Anno/list_attr_items.txt")
LABEL_NAMES = ("Anno/attributes/list_attr_cloth.txt", "Anno/list_attr_cloth.txt")
STATUSES = ("train", "query", "gallery")
IMAGE_NAME = re.compile(r"img/([^/]+)/([^/]+)/[^/]+/[^/]+")  # img/WOMEN/Dresses/id_00000002/02_1_front.jpg


class Shot(NamedTuple):
    """A line of the partition file: one picture of a garment."""

    image_name: str
    product_id: str
    status: str
    gender: str
    category: str


class InShopSource(Maskless):
    """The pictures that the partition file in `Eval/` or `Anno/` lists, in `Img/img/` or `img/`; local or on S3.

    The item_id is the image name, the product_id the dataset's item id, the split the evaluation status, the category
    the garment folder, and WOMEN or MEN the attribute gender. The labels come from the list of item attributes, where
    the dataset was copied with it.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"inshop:{uri}"
        self._root = dataset_root(uri, self.spec)
        partition = first_present(self._root, *PARTITIONS)
        if partition is None:
            raise SourceMissing(f"{self.spec} lacks {PARTITIONS[0]}; copy it from the dataset")
        self._partition = partition
        self._pictures = self._picture_root()

    def rows(self) -> pl.DataFrame:
        shots = self._shots()
        labels = self._labels()
        frame = pl.DataFrame(
            {
                "item_id": [shot.image_name for shot in shots],
                "image_uri": [f"{self._pictures}/{shot.image_name}" for shot in shots],
                "product_id": [shot.product_id for shot in shots],
                "category": [shot.category for shot in shots],
                "split": [shot.status for shot in shots],
                "labels": pl.Series([labels.get(shot.product_id, []) for shot in shots], dtype=SOURCE_SCHEMA["labels"]),
                "attributes": pl.Series(
                    [attributes_of({"gender": shot.gender}) for shot in shots], dtype=SOURCE_SCHEMA["attributes"]
                ),
            }
        )
        return conform(frame, self.spec)

    def _picture_root(self) -> str:
        for root in (f"{self._root}/Img", self._root):
            try:
                if next(list_uris(f"{root}/img"), None):
                    return root
            except NotFound:
                continue
        raise SourceMissing(f"{self.spec} has no pictures in Img/img or img; unpack the dataset's img.zip into Img")

    def _shots(self) -> list[Shot]:
        lines = read_lines(self._partition)
        if len(lines) < 2 or not lines[0].strip().isdecimal() or lines[1].split() != HEADER:
            raise CatalogInvalid(
                f"{self._partition} starts with {lines[:2]}; expected the number of pictures, then {' '.join(HEADER)}"
            )
        shots = [self._shot(number, line) for number, line in enumerate(lines[2:], start=3)]
        if len(shots) != int(lines[0]):
            raise CatalogInvalid(
                f"{self._partition} promises {int(lines[0])} pictures and lists {len(shots)}; "
                "restore it from the dataset"
            )
        return shots

    def _shot(self, number: int, line: str) -> Shot:
        fields = line.split()
        path = IMAGE_NAME.fullmatch(fields[0]) if fields else None
        if len(fields) != 3 or path is None or ".." in path[0].split("/") or fields[2] not in STATUSES:
            raise CatalogInvalid(
                f"{self._partition}, line {number}: {line!r}; expected img/GENDER/GARMENT/ITEM/NAME.jpg, an item id "
                f"and one of {', '.join(STATUSES)}"
            )
        return Shot(*fields, *path.groups())

    def _labels(self) -> dict[str, list[str]]:
        """Return the labels of each product; none when the dataset was copied without its attribute lists."""
        items, names = first_present(self._root, *ITEM_LABELS), first_present(self._root, *LABEL_NAMES)
        if items is None or names is None:
            return {}
        labels = read_lines(names)[2:]
        by_product: dict[str, list[str]] = {}
        for number, line in enumerate(read_lines(items)[2:], start=3):
            fields = line.split()
            if len(fields) != 1 + len(labels):
                raise CatalogInvalid(
                    f"{items}, line {number} has {len(fields)} fields; expected an item id and a mark for each of the "
                    f"{len(labels)} attributes that {names} names"
                )
            by_product[fields[0]] = normalise_labels(
                label for label, mark in zip(labels, fields[1:], strict=True) if mark == "1"
            )
        return by_product
