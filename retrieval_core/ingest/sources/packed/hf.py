"""`hf:PATH`: a Hugging Face dataset on a disk, as `save_to_disk` or the hub's Parquet files hold it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.listing import counted, is_left_behind
from retrieval_core.ingest.sources.packed.hf_files import ArrowFile, Features, ParquetFile
from retrieval_core.ingest.sources.tables.columns import Columns
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable
from retrieval_core.ingest.sources.tables.objects import ObjectRows
from retrieval_core.ingest.sources.tables.table import TableSource
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder

SPLITS = {
    "train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
IN_NAME = re.compile(rf"(?:^|[/_.-])({'|'.join(SPLITS)})(?=[/_.-])")
ERRORS = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, pl.exceptions.PolarsError)


class _Part(NamedTuple):
    """A file of the dataset; `first` is the number of its first row within the split."""

    split: str
    file: ArrowFile | ParquetFile
    first: int


class HfSource(TableSource):
    """Rows with pictures: the columns of type Image are the pictures, a single column of classes the category, by name.

    PATH is a folder of `save_to_disk`, of one split or several, whose pictures are read where they lie; or a Parquet
    file, or a folder with `*.parquet` or `data/*.parquet`, whose pictures the first `rows()` unpacks into `pictures/`
    or the folder of `&pictures=FOLDER`. Without `&item_id=COLUMN` the item_id is the number of a row, after its split.

    Raises `SourceMissing` for an absent dataset, `CatalogInvalid` for a damaged one, `BadConfig` for one elsewhere.
    """

    kind = "hf"
    has_picture_lists = True
    options = (*TableSource.options, "pictures")

    def rows(self) -> pl.DataFrame:
        rows = super().rows()
        files = [part.file.path for part in self._parts if isinstance(part.file, ParquetFile)]
        if files:
            self._packed.unpack(files, self._pictures())
        return rows

    def _parsed_file(self) -> DelimitedTable:
        if "://" in self._uri:
            raise BadConfig(f"{self.spec}: a dataset is read from a disk; copy it there")
        root = Path(self._uri)
        try:
            self._parts = [*self._found(root)]
            features = [part.file.features for part in self._parts]
            self._columns = _with_features(self._columns, features[0])
            objects = ObjectRows(self._columns)
            for row in self._rows():
                objects.add(row)
        except ERRORS as error:
            raise CatalogInvalid(f"{self.spec} cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error
        self._uri = f"{root if root.is_dir() else root.parent}/"
        self._columns = objects.columns()
        splits = list(dict.fromkeys(part.split for part in self._parts if part.split))
        note = f"{counted(objects.n_rows, 'row')} of {counted(len(self._parts), 'file')}"
        return DelimitedTable(objects.frame(), note + f", split into {', '.join(splits)}" * (len(splits) > 1))

    def _found(self, root: Path) -> Iterator[_Part]:
        """Yield the files of the dataset. Raises `SourceMissing`."""
        if (root / "dataset_dict.json").is_file():
            splits = json.loads((root / "dataset_dict.json").read_bytes())["splits"]
            files = [(split, file) for split in splits for file in _arrow_files(root / split)]
        elif (root / "state.json").is_file():
            files = [("", file) for file in _arrow_files(root)]
        else:
            folder = root if root.is_dir() else root.parent
            pictures = self._columns.options.get("pictures", "")
            self._packed = PackedFolder(f"{folder}?pictures={pictures}" if pictures else str(folder), self.spec)
            files = [(_split_in(str(file.relative_to(folder))), file) for file in _parquet_files(root)]
        if not files:
            raise SourceMissing(
                f"{self.spec} holds no dataset: no state.json, dataset_dict.json or *.parquet. Pictures beside a "
                "metadata.csv are read by table:FOLDER/metadata.csv?item_id=file_name&image_uri=file_name"
            )
        firsts: dict[str, int] = {}
        for split, path in files:
            file = ArrowFile(path) if path.suffix == ".arrow" else ParquetFile(path, self._packed)
            if not file.features.pictures:
                raise ValueError(f"{path.name} has no column of pictures")
            yield _Part(split, file, firsts.get(split, 0))
            firsts[split] = firsts.get(split, 0) + file.n_rows

    def _prefix(self, part: _Part) -> str:
        has_several = len({other.split for other in self._parts}) > 1
        return f"{part.split}/" if has_several else ""

    def _rows(self) -> Iterator[dict[str, Any]]:
        for part in self._parts:
            prefix = self._prefix(part)
            for number, row in enumerate(part.file.rows(part.first, prefix), part.first):
                split = {"split": SPLITS.get(part.split)} if prefix else {}
                yield {"item_id": f"{prefix}{number:08}", **split, **part.file.features.named(row)}

    def _pictures(self) -> Iterator[Packed]:
        for part in self._parts:
            if isinstance(part.file, ParquetFile):
                yield from part.file.pictures(part.first, self._prefix(part))


def _arrow_files(folder: Path) -> list[Path]:
    """Return the files that `state.json` lists."""
    state = json.loads((folder / "state.json").read_bytes())
    return [folder / file["filename"] for file in state["_data_files"]]


def _parquet_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    for pattern in ("*.parquet", "data/*.parquet", "**/*.parquet"):
        if files := sorted(file for file in root.glob(pattern) if not is_left_behind(str(file.relative_to(root)))):
            return files
    return []


def _split_in(path: str) -> str:
    match = IN_NAME.search(path)
    return match[1] if match else ""


def _with_features(columns: Columns, features: Features) -> Columns:
    """Return the columns, with the dataset's pictures and its only column of classes where none are named."""
    of = dict(columns.of)
    if "category" not in of and len(features.categories) == 1:
        of["category"] = features.categories[0]
    return columns._replace(of=of, pictures=columns.pictures or features.pictures)
