"""Golden queries: a CSV of queries with the items that a search is expected to find, searched in every run.

Columns: `query`, an item id or the URI of a picture; `expected`, item ids joined by `|`, to which further rows of the
same query add; `k`, the number of hits that count, 10 if empty; `note`, a free text; `grades`, for each expected item 0
(wrong) to 3 (the best), joined by `|` too. A relative URI is resolved against the folder of the file and must stay
below it. Neither an item nor another with its file is among its own hits. No labels are needed.

A query with grades may also be words, after `text:`; it is measured in `graded_queries.py`, and not here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Value, content_id
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import BadConfig, Permanent
from retrieval_core.evaluate.measure.known_answer import (
    Answer,
    Missed,
    MissedQuery,
    contents_of,
    first_problems,
    hit_ids,
    show_missed,
)
from retrieval_core.evaluate.thumbnails import FROM_SOURCE, Thumbnail, item_picture, jpeg_base64
from retrieval_core.images import RGB, decode
from retrieval_core.item_ids.normal_form import normal_name
from retrieval_core.metrics.registry import GOLDEN_HIT, GOLDEN_MRR, GOLDEN_RECALL
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease
from retrieval_core.store.uris import folder_of, read_uri

K, MAX_K = 10, 100
COLUMNS = ("query", "expected", "k", "note", "grades")
GRADES = ("0", "1", "2", "3")
REQUIRED = ("query", "expected")
HIT, RECALL, RANK = GOLDEN_HIT.name, GOLDEN_RECALL.name, GOLDEN_MRR.name

_CLIMBS = re.compile(r"(^|/)\.\.(/|$)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class GoldenFacts(Value):
    """The golden queries of `file`: `n_asked` of the `n_queries` could be searched and judged.

    `problems` are the first of the `n_problems` errors in the file, one sentence each. `missing` says why no query was
    searched, "" where some were. `missed` are some of the `n_missed` queries whose first hit was wrong.
    """

    file: str = ""
    n_queries: int = 0
    n_asked: int = 0
    metrics: dict[str, float] = {}
    n_problems: int = 0
    problems: tuple[str, ...] = ()
    n_missed: int = 0
    missed: tuple[MissedQuery, ...] = ()
    missing: str = ""


class GoldenQuery(NamedTuple):
    """A query; `expected` are distinct item ids in the order of the file, and only the first `k` hits count.

    `grades` are those of the expected items, empty where the file gives none.
    """

    query: str
    expected: tuple[str, ...]
    k: int
    note: str
    grades: tuple[int, ...] = ()


class GoldenFile(NamedTuple):
    """The queries of a file in order, the problems of its rows, and why there are no queries (`missing`).

    `digest` is the content id of the file, "" where it cannot be read.
    """

    uri: str
    queries: tuple[GoldenQuery, ...] = ()
    problems: tuple[str, ...] = ()
    missing: str = ""
    digest: str = ""


class _Row(NamedTuple):
    """`expected` holds the grade of each item, None where there is none."""

    expected: dict[str, int | None]
    k: int
    note: str


class Golden(NamedTuple):
    """Metrics by name, one row a searched query, and the facts of the report.

    A row's item_id names the query; queries that expect the same items have one cluster.
    """

    metrics: dict[str, float]
    per_query: pl.DataFrame
    facts: GoldenFacts


def check_golden(uri: str) -> None:
    """Check that a file of golden queries can be read, before the run starts. Raises `BadConfig`, `StoreUnavailable`.

    Errors inside the file do not stop a run; the report lists them.
    """
    if not uri:
        return
    try:
        read_uri(uri)
    except Permanent as error:
        raise BadConfig(f"evaluate.golden {uri} cannot be read: {error}; correct the path, or leave it out") from error


def read_golden(uri: str) -> GoldenFile:
    """Read the queries of a CSV at any URI, none for "". Raises only `StoreUnavailable`."""
    if not uri:
        return GoldenFile(uri, missing="No golden queries are kept (evaluate.golden is empty).")
    try:
        data = read_uri(uri)
    except Permanent as error:
        return GoldenFile(uri, missing=f"{uri} cannot be read: {error}")
    return parse_golden(uri, data)


def search_golden(
    release: OpenRelease,
    items: pl.DataFrame,
    golden: GoldenFile,
    max_pixels: int,
    reader: PictureReader = FROM_SOURCE,
) -> Golden:
    """Search every golden query in a release of these `items`, and judge it by the expected items that still exist.

    A query is left out, and listed as a problem, where its picture cannot be read or no expected item exists any more.
    A row's item_id also names what the query was judged by, so that the gate only compares the same question.
    """
    problems = list(golden.problems)
    golden = golden._replace(queries=tuple(query for query in golden.queries if not query.grades))
    item_ids = {name for query in golden.queries for name in (normal_name(query.query), *query.expected)}
    contents = contents_of(items, item_ids)
    answered: list[tuple[GoldenQuery, Answer]] = []
    pictures: dict[str, str] = {}
    for query in golden.queries:
        query_name = normal_name(query.query)
        if query_name in contents:
            query = query._replace(query=query_name)
        expected = _expected_contents(query, contents, problems)
        if not expected:
            continue
        name = f"golden/{content_id(repr((query.k, sorted(expected))).encode())[:8]}/{query_name}"
        if query.query in contents:
            same = items["item_id"].filter(items["content_id"] == contents[query.query]).to_list()
            found = release.search(Query(item_ids=(query.query,)), k=query.k + len(same) - 1)
            hits = [hit for hit in found if hit.item_id not in same][: query.k]
        else:
            try:
                picture = picture_of(golden.uri, query.query, max_pixels)
            except Permanent as error:
                problems.append(f"query {query.query}: no such item, and no picture that can be read: {error}")
                continue
            hits = release.search(picture, k=query.k)
            pictures[query.query] = jpeg_base64(picture)
        answered.append((query, Answer(name, frozenset(expected), tuple(hits), query.k)))
    return _judge(items, golden, answered, pictures, problems, reader)


def _judge(
    items: pl.DataFrame,
    golden: GoldenFile,
    answered: Sequence[tuple[GoldenQuery, Answer]],
    pictures: dict[str, str],
    problems: Sequence[str],
    reader: PictureReader,
) -> Golden:
    answers = [answer for _, answer in answered]
    contents = contents_of(items, hit_ids(answers))
    per_query = pl.DataFrame(
        {
            "item_id": [answer.name for answer in answers],
            "cluster": [content_id(repr(sorted(answer.expected)).encode()) for answer in answers],
            HIT: [answer.hit(contents) for answer in answers],
            RECALL: [answer.recall(contents) for answer in answers],
            RANK: [answer.reciprocal_rank(contents) for answer in answers],
        },
        schema={"item_id": pl.String, "cluster": pl.String, HIT: pl.Float64, RECALL: pl.Float64, RANK: pl.Float64},
    )
    metrics = {name: float(per_query[name].to_numpy().mean()) for name in (HIT, RECALL, RANK)} if answers else {}
    missed = [
        Missed(_query_picture(items, query, pictures, reader), query.expected, answer, query.note)
        for query, answer in sorted(answered, key=lambda pair: pair[1].reciprocal_rank(contents))
        if not answer.hit(contents)
    ]
    missing = golden.missing or ("" if answered else "None of the golden queries could be searched.")
    facts = GoldenFacts(
        file=golden.uri,
        n_queries=len(golden.queries),
        n_asked=len(answered),
        metrics=metrics,
        n_problems=len(problems),
        problems=first_problems(problems),
        n_missed=len(missed),
        missed=show_missed(items, missed, contents, reader),
        missing=missing,
    )
    return Golden(metrics, per_query if answered else per_query.select("item_id"), facts)


def _query_picture(
    items: pl.DataFrame, query: GoldenQuery, pictures: dict[str, str], reader: PictureReader
) -> Thumbnail:
    if query.query in pictures:
        return Thumbnail(item_id=query.query, caption=query.note, jpeg=pictures[query.query])
    (row,) = (items["item_id"] == query.query).arg_true()
    return item_picture(items, row, pictures=reader)


def _expected_contents(query: GoldenQuery, contents: dict[str, str], problems: list[str]) -> set[str]:
    """Return the content ids that a query is expected to find; add what is wrong with them to `problems`."""
    unknown = [name for name in query.expected if name not in contents]
    if unknown:
        problems.append(f"query {query.query}: expected {', '.join(unknown)} not in the catalogue")
    own = contents.get(query.query)
    if any(contents.get(name, "") == own for name in query.expected):
        problems.append(f"query {query.query}: expects its own picture, which is never among its hits")
    expected = {contents[name] for name in query.expected if name in contents} - {own}
    if not expected:
        problems.append(f"query {query.query}: left out, no expected item is in the catalogue")
    return expected


def picture_of(file: str, uri: str, max_pixels: int) -> RGB:
    """Return the picture of a query in a file. Raises `Permanent` where it cannot be read, `StoreUnavailable`."""
    return decode(read_uri(_address(file, uri)), max_pixels=max_pixels)


def _address(file: str, uri: str) -> str:
    """Return the address of a query's picture. Raises `BadConfig` for one that the file must not name."""
    is_remote = "://" in file
    if _SCHEME.match(uri):
        return uri
    if uri.startswith("/"):
        if is_remote:
            raise BadConfig("expected an address, or a path below the file's folder, which is not on this machine")
        return uri
    if _CLIMBS.search(uri):
        raise BadConfig("expected a path below the file's folder, without ..")
    folder = folder_of(file) if is_remote else str(Path(file).expanduser().absolute().parent)
    return f"{folder}/{uri}"


def parse_golden(uri: str, data: bytes) -> GoldenFile:
    """Return the queries in the bytes of the file at `uri`, or why there are none."""
    return _parse(uri, data)._replace(digest=content_id(data))


def _parse(uri: str, data: bytes) -> GoldenFile:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        return GoldenFile(uri, missing=f"{uri} is not a CSV in UTF-8: {error}")
    if not rows:
        return GoldenFile(uri, missing=f"{uri} is empty; expected the columns {', '.join(COLUMNS)}")
    header = [name.strip() for name in rows[0]]
    absent = [name for name in REQUIRED if name not in header]
    if absent:
        return GoldenFile(
            uri, missing=f"{uri} lacks the column {' and '.join(absent)}; its first row is {','.join(header)[:200]}"
        )
    problems: list[str] = []
    queries = tuple(_merge_rows(header, rows[1:], problems))
    missing = "" if queries else f"{uri} has no queries."
    return GoldenFile(uri, queries, tuple(problems), missing)


def _merge_rows(header: Sequence[str], rows: Sequence[Sequence[str]], problems: list[str]) -> Iterator[GoldenQuery]:
    """Yield one query for all rows that name it; add what is wrong with a row to `problems`."""
    rows_of: dict[str, list[_Row]] = {}  # by the normal form of the query
    spelled: dict[str, str] = {}
    for number, cells in enumerate(rows, start=2):
        cell = {name: text.strip() for name, text in zip(header, cells, strict=False)}
        if not any(cell.values()):
            continue
        expected = _expected(cell, number, problems)
        query = normal_name(cell.get("query", ""))
        if not query or not expected:
            problems.append(f"row {number}: has no {'query' if expected else 'expected items'}; left out")
            continue
        row = _Row(expected, _depth(cell.get("k", ""), number, problems), cell.get("note", ""))
        rows_of.setdefault(query, []).append(row)
        spelled.setdefault(query, cell["query"])
    for query, same in rows_of.items():
        grades: dict[str, int | None] = {}
        for name, grade in (pair for row in same for pair in row.expected.items()):
            grades.setdefault(name, grade)
        known = [grade for grade in grades.values() if grade is not None]
        yield GoldenQuery(
            spelled[query],
            expected=tuple(grades),
            k=next((row.k for row in same if row.k), K),
            note=next((row.note for row in same if row.note), ""),
            grades=tuple(known) if len(known) == len(grades) else (),
        )


def _expected(cell: Mapping[str, str], number: int, problems: list[str]) -> dict[str, int | None]:
    """Return the expected items of a row with their grades; none where a grade is missing or wrong."""
    names = [normal_name(text) for text in cell.get("expected", "").split("|")]
    grades = [text.strip() for text in cell.get("grades", "").split("|")]
    if grades == [""]:
        return {name: None for name in names if name}
    if len(grades) != len(names) or not set(grades) <= set(GRADES):
        problems.append(f"row {number}: grades are {cell['grades']!r}, expected one of 0 to 3 for each expected item")
        return {}
    return {name: int(grade) for name, grade in zip(names, grades, strict=True) if name}


def _depth(text: str, number: int, problems: list[str]) -> int:
    """Return the k of a row, 0 where it has none that can be read."""
    if not text:
        return 0
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_K:
        return int(text)
    problems.append(f"row {number}: k is {text!r}, expected 1 to {MAX_K}; ignored")
    return 0
