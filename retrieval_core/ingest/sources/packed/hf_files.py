"""The files of a Hugging Face dataset: rows with the address of each picture, read batch by batch."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from retrieval_core.ingest.sources.files import is_picture
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder
from retrieval_core.store.base import Span

FEATURES = "huggingface"  # the key of the description in a file's metadata
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
BATCH_ROWS = 128  # pictures of a Parquet file in memory at once


class Features(NamedTuple):
    """What a dataset says of its columns: those of pictures, and the names of classes by column.

    `categories` are the columns with one class a row.
    """

    pictures: tuple[str, ...]
    classes: dict[str, list[str]]
    categories: tuple[str, ...]

    def named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the names of its classes in place of their numbers; -1 is no class. Raises `ValueError`."""
        return {name: _class_names(self.classes[name], value) if name in self.classes else value
                for name, value in row.items()}  # fmt: skip


def features_of(columns: Mapping[str, bool], description: bytes | str | None) -> Features:
    """Return the features of a file, given whether each column can hold pictures, and its JSON description."""
    features = json.loads(description or "{}").get("info", {}).get("features", {})
    kinds = {name: _inner(feature) for name, feature in features.items()}
    pictures = [name for name, can in columns.items() if can and kinds.get(name, {}).get("_type", "Image") == "Image"]
    classes = {name: kind["names"] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    categories = tuple(name for name in classes if "_type" in features[name] and "feature" not in features[name])
    return Features(tuple(pictures), classes, categories)


def _inner(feature: Any) -> dict[str, Any]:
    """Return the feature of a column's values, or of the values in its lists."""
    if isinstance(feature, list):
        feature = feature[0]
    return _inner(feature["feature"]) if "feature" in feature else feature


def _class_names(names: Sequence[str], value: Any) -> Any:
    if isinstance(value, list):
        return [_class_names(names, each) for each in value]
    if not isinstance(value, int) or value < 0:
        return None
    if value >= len(names):
        raise ValueError(f"class {value}, but {len(names)} classes have names")
    return names[value]


class ArrowFile:
    """A file that `save_to_disk` wrote: its pictures are parts of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            schema: pa.Schema = reader.schema
            self.n_rows = sum(batch.num_rows for batch in reader)
        with path.open("rb") as file:
            file.seek(-len(END_OF_STREAM), io.SEEK_END)
            if file.read() != END_OF_STREAM:
                raise ValueError(f"{path.name} is cut off; copy it again")
        can = {field.name: _holds_bytes(field.type) for field in schema}
        self.features = features_of(can, (schema.metadata or {}).get(FEATURES.encode()))

    def rows(self, first: int, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield the rows. Raises `ValueError` for a file whose pictures are packed, and what Arrow raises."""
        with pa.memory_map(str(self.path)) as source:
            whole = source.read_buffer()
            for batch in pa.ipc.open_stream(whole):
                plain = batch.drop_columns(list(self.features.pictures)).to_pylist()
                places = {name: self._addresses(batch.column(name), whole) for name in self.features.pictures}
                for number, row in enumerate(plain):
                    yield {**row, **{name: addresses[number] for name, addresses in places.items()}}

    def _addresses(self, column: pa.Array, whole: pa.Buffer) -> list[str | None]:
        """Return the address of each picture: a part of this file, or its own file."""
        paths: list[str | None] = [None] * len(column)
        if isinstance(column, pa.StructArray):
            if column.type.get_field_index("path") >= 0:
                paths = column.field("path").to_pylist()
            column = column.flatten()[column.type.get_field_index("bytes")]
        kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1].tolist()
        start = data.address - whole.address if data else 0
        if not 0 <= start <= whole.size:
            raise ValueError("its columns are packed; save it again without compression")
        has = column.is_valid().to_pylist()
        return [
            Span(str(self.path), start + ends[row], ends[row + 1] - ends[row]).uri if has[row] else paths[row]
            for row in range(len(column))
        ]


class ParquetFile:
    """A Parquet file with columns of pictures, which become files in a folder."""

    def __init__(self, path: Path, packed: PackedFolder) -> None:
        self.path = path
        self._packed = packed
        self._scan = pl.scan_parquet(path, glob=False)
        self._schema = self._scan.collect_schema()
        self.n_rows: int = self._scan.select(pl.len()).collect().item()
        can = {
            name: kind == pl.Binary or (isinstance(kind, pl.Struct) and pl.Field("bytes", pl.Binary()) in kind.fields)
            for name, kind in self._schema.items()
        }
        self.features = features_of(can, pl.read_parquet_metadata(path).get(FEATURES))

    def rows(self, first: int, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield the rows, whose pictures are named by `prefix` and their number, from `first` on."""
        names = self._names(first, prefix)
        frame = self._scan.select(pl.exclude(self.features.pictures)).collect()
        for number, row in enumerate(frame.iter_rows(named=True)):
            yield {**row, **{name: self._packed.uri(files[number]) for name, files in names.items()}}

    def pictures(self, first: int, prefix: str) -> Iterator[Packed]:
        """Yield the pictures of the rows, some at a time."""
        names = self._names(first, prefix)
        columns = [self._of(name, "bytes").alias(name) for name in names]
        for start in range(0, self.n_rows, BATCH_ROWS):
            batch = self._scan.select(columns).slice(start, BATCH_ROWS).collect()
            for name, files in names.items():
                for file, data in zip(files[start : start + BATCH_ROWS], batch[name], strict=True):
                    if data is not None:
                        yield Packed(file, len(data), partial(bytes, data))

    def _names(self, first: int, prefix: str) -> dict[str, list[str]]:
        """Return the name of each picture's file, by column."""
        names = {}
        for position, name in enumerate(self.features.pictures):
            paths = self._scan.select(self._of(name, "path")).collect().to_series()
            suffixes = [Path(path).suffix if path and is_picture(path) else ".jpg" for path in paths]
            further = f"-{position + 1}" * (position > 0)
            names[name] = [f"{prefix}{first + row:08}{further}{suffixes[row]}" for row in range(self.n_rows)]
        return names

    def _of(self, column: str, field: str) -> pl.Expr:
        kind = self._schema[column]
        if isinstance(kind, pl.Struct) and any(each.name == field for each in kind.fields):
            return pl.col(column).struct.field(field)
        return pl.col(column) if field == "bytes" else pl.repeat(None, pl.len(), dtype=pl.String)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
