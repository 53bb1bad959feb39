"""What the feeds share: opening the file, finding columns whatever their spelling, and errors that say where."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import polars as pl

from retrieval_core.config.text import nearest
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.feeds.pictures import PictureRows
from retrieval_core.ingest.sources.files import absolute_uri, refuse_web_page
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.columns import Columns, column_notes, split_columns
from retrieval_core.ingest.sources.tables.delimited import read_delimited
from retrieval_core.ingest.sources.tables.delta import Named, is_delta
from retrieval_core.ingest.sources.tables.fields import FIELD_PREFIX
from retrieval_core.ingest.sources.tables.table import GZIP, TableSource
from retrieval_core.store.files import read_errors
from retrieval_core.store.uris import is_http, label_of, read_uri, stat_uri

GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
TEMPLATE = re.compile(r"\{([^{}]+)\}")  # a column in the text of a field
SLICE_ROWS = 10_000  # rows of an export whose Python objects are in memory at once

Stream = io.BufferedReader | io.BytesIO | gzip.GzipFile


class FeedSource(TableSource):
    """Base class of the feeds, which have one or several rows or elements, and pictures, a product."""

    kind: ClassVar[str]

    def __init__(self, uri: str) -> None:
        self.spec = f"{self.kind}:{label_of(uri) if is_http(uri) else uri}"
        file, self._columns = split_columns(uri, self.spec, self.options, maps_columns=False)
        self._uri = absolute_uri(file)
        self.is_delta = is_delta(self._columns.options.get("mode", ""), self.spec)
        self._deleted_key = column_key(self._columns.deleted)
        self._pictures = self._collected()

    def named(self) -> Named:
        return self._named

    def _is_empty(self) -> bool:
        return self._pictures.is_empty()

    def _batches(self) -> Iterator[Self]:
        yield self

    def _frame(self) -> pl.DataFrame:
        return self._pictures

    def _collected(self) -> pl.DataFrame:
        rows = PictureRows()
        try:
            with open_text(self._uri, self.spec) as stream:
                notes = self._collect(stream, rows)
        except GZIP_ERRORS as error:
            raise CatalogInvalid(f"{self.spec} is cut off or damaged: {error}; export it again") from error
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec} cannot be read: {str(error)[:400]}") from error
        frame = rows.frame()
        fields, field_notes = self._checked_fields([frame["fields"]])
        frame = frame.with_columns(fields)
        self.n_passed_over = rows.n_passed_over
        counts = f"{counted(rows.n_products, 'product')} with {counted(len(frame), 'picture')}"
        self.notes = (f"{counts}, from {notes[0]}", *notes[1:], *rows.passed_over_notes(), *field_notes)
        self.deleted_ids = rows.deleted_ids
        self._named = Named.of(rows.ids, self.deleted_ids, has_further_pictures=True)
        if frame.is_empty() and not self.is_delta:
            raise SourceMissing(f"{self.spec} has no product with a picture ({'; '.join(self.notes)})")
        return frame

    @property
    def _field_keys(self) -> list[str]:
        """The columns that the fields named in the query are made of, by `column_key`."""
        texts = self._columns.of.values()
        return [column_key(name) for text in texts for name in (TEMPLATE.findall(text) or [text])]

    def _named_fields(self, cells: Mapping[str, str]) -> dict[str, str]:
        """Return the fields named in the query: a column's cell, or a text with several, such as `{Price} EUR`."""
        fields = {}
        for name, text in self._columns.of.items():
            template = text if TEMPLATE.search(text) else f"{{{text}}}"
            has_all = all(cells[column_key(column)] for column in TEMPLATE.findall(template))
            filled = TEMPLATE.sub(lambda match: cells[column_key(match[1])], template)
            fields[name.removeprefix(FIELD_PREFIX)] = filled if has_all else ""
        return fields

    def _require_fields(self, names: Collection[str]) -> None:
        """Raise `ValueError` where the feed has not the columns, by `column_key`, of the fields named in the query."""
        if missing := [key for key in self._field_keys if key not in names]:
            raise ValueError(f"there is no column {missing[0]}{nearest(missing[0], [*names])}")

    def _column_notes(self, names: Mapping[str, str], uses: Mapping[str, str]) -> tuple[str, ...]:
        """Return what the feed's columns are used as, given their names and uses by `column_key`."""
        pairs = [(uses[key], name) for key, name in names.items() if key in uses]
        pairs += [
            (name, names[key]) for name, key in zip(self._columns.of, self._field_keys, strict=False) if key in names
        ]
        if self._deleted_key in names:
            pairs.append(("deleted", names[self._deleted_key]))
        return column_notes(pairs, names.values())

    def _collect(self, stream: Stream, rows: PictureRows) -> tuple[str, ...]:
        """Add the feed's products to `rows`; return notes. Raises `ValueError` when the feed is malformed."""
        raise NotImplementedError


@contextmanager
def open_text(uri: str, spec: str) -> Iterator[Stream]:
    """Open a text file, unpacked if it is gzip; a local one is read as needed.

    Raises `SourceMissing` for an absent or empty file, `CatalogInvalid` for a web page.
    """
    try:
        file = io.BytesIO(read_uri(uri, accepts_gzip=True)) if "://" in uri else _open_local(uri)
    except NotFound as error:
        raise SourceMissing(f"{spec}: there is no file {label_of(uri)}; check the path") from error
    with file:
        is_packed = file.read(2) == GZIP
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if is_packed else file
        head = stream.read(4096)
        stream.seek(0)
        if not head.strip():
            raise SourceMissing(f"{spec} is empty; expected products")
        refuse_web_page(head, spec)
        yield stream


def _open_local(path: str) -> io.BufferedReader:
    stat_uri(path)  # refuses what is no regular file
    with read_errors(path):
        return Path(path).open("rb")


def column_key(name: str) -> str:
    """Return the one form of the spellings of a column: `image link` for `g:image_link` and `Image Link`."""
    return re.sub(r"[\s_-]+", " ", name.strip().removeprefix("g:")).casefold().strip()


class Export:
    """The rows of an export in delimited text, with their columns by `column_key`, null where empty."""

    def __init__(self, data: bytes, required: Sequence[str], picture: Sequence[str]) -> None:
        """Read the rows. Raises `ValueError` when a column is absent; `picture` has the spellings of its column.

        An empty name is no column.
        """
        table = read_delimited(data, Columns({}, (picture[0],)))
        column = next((name for name in table.frame.columns if column_key(name) in map(column_key, picture)), None)
        if column not in (None, picture[0]):  # read again with the check that every row has a picture where it should
            table = read_delimited(data, Columns({}, (column,)))
        keys = [column_key(name) for name in table.frame.columns]
        self._headers = list(zip(keys, table.frame.columns, strict=True))
        self.names = dict(self._headers)
        self.note = table.note
        self._frame = table.frame.select(pl.nth(keys.index(key)).alias(key) for key in self.names)
        missing = [name for name in required if name and column_key(name) not in self.names]
        if missing:
            raise ValueError(f"it lacks column {' and '.join(missing)}; it has {', '.join(table.frame.columns)}")

    def rows(self, keys: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Yield the number of each row, from 1, and its cells under these keys, "" where empty or absent.

        Raises `ValueError` when two columns have one of these keys.
        """
        for key in filter(None, keys):
            if len(names := [name for each, name in self._headers if each == key]) > 1:
                raise ValueError(f"columns {' and '.join(names)} are one; remove one of them")
        present = [key for key in dict.fromkeys(keys) if key and key in self.names]
        absent = dict.fromkeys(set(keys) - set(present), "")
        frame = self._frame.select(present)
        number = 0
        for part in frame.iter_slices(SLICE_ROWS):
            for row in part.with_columns(pl.all().fill_null("").str.strip_chars()).iter_rows(named=True):
                number += 1
                yield number, {**absent, **row}
