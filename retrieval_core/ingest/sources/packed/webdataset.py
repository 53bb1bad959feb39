"""`webdataset:SHARDS`: tars in which files of one name are a sample (Aizman, Maltby, Breuel 2019)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.files import is_picture
from retrieval_core.ingest.sources.listing import counted, is_left_behind
from retrieval_core.ingest.sources.packed.tar import Member, members
from retrieval_core.ingest.sources.tables.columns import Columns
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable
from retrieval_core.ingest.sources.tables.objects import ObjectRows, parse_object
from retrieval_core.ingest.sources.tables.table import TableSource
from retrieval_core.store.uris import is_http, label_of, list_uris

NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
TEXTS = ("cls", "txt", "text", "caption", "id")
MAX_TEXT_BYTES = 2**20  # of one file of text
MAX_SHARDS = 100_000
N_THREADS = 8  # shards read at a time


class _Sample(NamedTuple):
    key: str
    files: dict[str, Any]  # by suffix


class WebDatasetSource(TableSource):
    """Samples in tars: `KEY.jpg` is a picture, `KEY.json` has the columns of a row, `KEY.cls` the category.

    The item_id is the key, unless the JSON has one. Further pictures (`KEY.png`) are items of the same product; one
    with two suffixes (`KEY.back.jpg`) is read where `&image_uri=back.jpg` names it. SHARDS is a tar, a folder of tars,
    or `shard-{000..010}.tar`, local, on S3 or on a web server. Pictures are not unpacked: `TAR#bytes=START-END` is the
    address of each.

    Raises `SourceMissing` for an absent shard, `CatalogInvalid` for one that is packed, damaged or cut off.
    """

    kind = "webdataset"
    has_picture_lists = True

    def _parsed_file(self) -> DelimitedTable:
        shards = self._shards()
        objects = ObjectRows(self._columns)
        with ThreadPoolExecutor(N_THREADS) as pool:
            for shard, samples in zip(shards, pool.map(self._read_shard, shards), strict=True):
                for sample in samples:
                    row = _row(sample, self._columns)
                    if row.get("image_uri") == []:
                        self.n_passed_over += 1
                        continue
                    try:
                        objects.add(row)
                    except ValueError as error:
                        raise CatalogInvalid(f"{self.spec}: {label_of(shard)}, {sample.key}: {error}") from error
        self._columns = objects.columns()
        note = f"{counted(objects.n_rows, 'sample')} in {counted(len(shards), 'shard')}"
        note += f"; {counted(self.n_passed_over, 'sample')} without a picture passed over" * bool(self.n_passed_over)
        return DelimitedTable(objects.frame(), note)

    def _shards(self) -> list[str]:
        shards = [*_expanded(self._uri)]
        if len(shards) > MAX_SHARDS:
            raise CatalogInvalid(f"{self.spec} names more than {MAX_SHARDS:,} shards")
        if shards == [self._uri] and not is_http(self._uri) and not self._uri.endswith(".tar"):
            shards = [uri for uri, _ in list_uris(self._uri) if uri.endswith(".tar") and not is_left_behind(uri)]
            if not shards:
                raise SourceMissing(f"{self.spec} holds no *.tar; check the path")
            self._uri += "/"
        return shards

    def _read_shard(self, shard: str) -> list[_Sample]:
        try:
            return [*_samples(shard)]
        except NotFound as error:
            raise SourceMissing(f"{self.spec}: there is no shard {label_of(shard)}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CatalogInvalid(f"{self.spec}: {label_of(shard)}: {error}") from error


def _expanded(uri: str) -> Iterator[str]:
    """Yield the addresses that ranges in braces stand for: {000..010}."""
    match = RANGE.search(uri)
    if match is None:
        yield uri
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{uri[: match.start()]}{number:0{len(first)}}{uri[match.end() :]}")


def _samples(shard: str) -> Iterator[_Sample]:
    """Yield the samples of a shard, whose files follow each other. Raises `ValueError`."""
    sample = _Sample("", {})
    for member in members(shard):
        match = NAME.fullmatch(member.name.removeprefix("./"))
        if match is None or is_left_behind(member.name.removeprefix("./")):
            continue
        key, suffix = match[1], match[2].lower()
        if key != sample.key:
            if sample.key:
                yield sample
            sample = _Sample(key, {})
        if suffix in sample.files:
            raise ValueError(f"it has {member.name} twice")
        sample.files[suffix] = _value(member, suffix)
    if sample.key:
        yield sample


def _value(member: Member, suffix: str) -> Any:
    """Return the address of a picture, the content of a text, and None of another file."""
    if is_picture(member.name):
        return member.span.uri if member.span.n_bytes else None
    if suffix != "json" and suffix not in TEXTS:
        return None
    if member.span.n_bytes > MAX_TEXT_BYTES:
        raise ValueError(f"{member.name} has more than {MAX_TEXT_BYTES:,} bytes")
    try:
        text = member.read().decode("utf-8-sig").strip()
        return parse_object(text) if suffix == "json" else text
    except ValueError as error:
        raise ValueError(f"{member.name}: {error}") from error


def _row(sample: _Sample, columns: Columns) -> dict[str, Any]:
    """Return the columns of a sample: those of its JSON, its suffixes, and what the suffixes mean."""
    files = dict(sample.files)
    values = files.pop("json", {})
    row: dict[str, Any] = {"item_id": sample.key}
    if not columns.pictures:
        plain = [suffix for suffix in files if is_picture(f".{suffix}") and "." not in suffix]
        row["image_uri"] = [address for suffix in plain if (address := files.pop(suffix))]
    if "category" not in columns.of and "cls" not in columns.of.values() and "cls" in files:
        row["category"] = files.pop("cls")
    return {**row, **files, **values}
