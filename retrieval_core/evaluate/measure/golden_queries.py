"""Golden queries: what the team expects a search to find, kept in a CSV and asked every night. No label is needed.

Columns: `query`, an item of the catalogue or the URI of a picture; `expected`, item ids joined by `|`, and further rows
of the same query add to them; `k`, how many hits count, 10 where it is empty; `note`, for people. A relative URI starts
at the file's own folder and stays below it. A picture is searched as a searcher's is; an item is searched for more like
it, and is not among its own hits.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Value, content_id
from retrieval_core.errors import BadConfig, Permanent
from retrieval_core.evaluate.measure.known_answer import (
    Answer,
    Missed,
    MissedQuery,
    contents_of,
    hit_ids,
    show_missed,
    told,
)
from retrieval_core.evaluate.thumbnails import Thumbnail, item_picture, jpeg_base64
from retrieval_core.images import decode
from retrieval_core.metrics.registry import GOLDEN_HIT, GOLDEN_MRR, GOLDEN_RECALL
from retrieval_core.search.release import OpenRelease, Query
from retrieval_core.store.uris import read_uri

K, MAX_K = 10, 100
COLUMNS = ("query", "expected", "k", "note")
REQUIRED = ("query", "expected")
HIT, RECALL, RANK = GOLDEN_HIT.name, GOLDEN_RECALL.name, GOLDEN_MRR.name

_CLIMBS = re.compile(r"(^|/)\.\.(/|$)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class GoldenFacts(Value):
    """The queries that the team keeps in `file`: of `n_queries`, the `n_asked` could be searched and judged.

    `problems` are the first of the `n_problems` things to mend in the file, one sentence each. `missing` says why
    nothing was asked, "" where something was. `missed` are some of the `n_missed` queries whose first hit was wrong.
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
    """One query; `expected` are item ids, each once, in the file's order, and only the first `k` hits count."""

    query: str
    expected: tuple[str, ...]
    k: int
    note: str


class GoldenFile(NamedTuple):
    """What a file of golden queries says: its queries in order, what is wrong with rows, and why there are none.

    `digest` names its bytes, "" where they cannot be read.
    """

    uri: str
    queries: tuple[GoldenQuery, ...] = ()
    problems: tuple[str, ...] = ()
    missing: str = ""
    digest: str = ""


class _Row(NamedTuple):
    expected: list[str]
    k: int
    note: str


class Golden(NamedTuple):
    """Metrics by name, one row a query that could be asked (item_id names it), and the facts of the report."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    facts: GoldenFacts


def check_golden(uri: str) -> None:
    """Find out before a night whether its file of golden queries can be read. Raises `BadConfig`, `StoreUnavailable`.

    What is wrong inside is told by the report: it needs no night to be repeated.
    """
    if not uri:
        return
    try:
        read_uri(uri)
    except Permanent as error:
        raise BadConfig(f"evaluate.golden {uri} cannot be read: {error}; correct the path, or leave it out") from error


def read_golden(uri: str) -> GoldenFile:
    """The queries of a CSV at a local path or `s3://` URI; "" has none. Raises only `StoreUnavailable`."""
    if not uri:
        return GoldenFile(uri, missing="No golden queries are kept (evaluate.golden is empty).")
    try:
        data = read_uri(uri)
    except Permanent as error:
        return GoldenFile(uri, missing=f"{uri} cannot be read: {error}")
    return _parsed(uri, data)._replace(digest=content_id(data))


def ask_golden(release: OpenRelease, items: pl.DataFrame, golden: GoldenFile, max_pixels: int) -> Golden:
    """Search every golden query in a release of these `items`, and judge it by what is expected and still there.

    A query whose picture cannot be read, or of which nothing that was expected is in the catalogue any more, is left
    out and told of. A row's item_id also names what it was judged by, so that only alike questions are ever compared.
    """
    problems = list(golden.problems)
    names = {name for query in golden.queries for name in (query.query, *query.expected)}
    contents = contents_of(items, names)
    asked: list[tuple[GoldenQuery, Answer]] = []
    pictures: dict[str, str] = {}
    for query in golden.queries:
        expected = _still_there(query, contents, problems)
        if not expected:
            continue
        name = f"golden/{content_id(repr((query.k, sorted(expected))).encode())[:8]}/{query.query}"
        if query.query in contents:
            hits = release.search(Query(item_ids=(query.query,)), k=query.k)
        else:
            try:
                picture = decode(read_uri(_address(golden.uri, query.query)), max_pixels=max_pixels)
            except Permanent as error:
                problems.append(f"query {query.query}: no such item, and no picture that can be read: {error}")
                continue
            hits = release.search(picture, k=query.k)
            pictures[query.query] = jpeg_base64(picture)
        asked.append((query, Answer(name, frozenset(expected), tuple(hits), query.k)))
    return _judged(items, golden, asked, pictures, problems)


def _judged(
    items: pl.DataFrame,
    golden: GoldenFile,
    asked: Sequence[tuple[GoldenQuery, Answer]],
    pictures: dict[str, str],
    problems: Sequence[str],
) -> Golden:
    answers = [answer for _, answer in asked]
    contents = contents_of(items, hit_ids(answers))
    per_query = pl.DataFrame(
        {
            "item_id": [answer.name for answer in answers],
            HIT: [answer.hit(contents) for answer in answers],
            RECALL: [answer.recall(contents) for answer in answers],
            RANK: [answer.reciprocal_rank(contents) for answer in answers],
        },
        schema={"item_id": pl.String, HIT: pl.Float64, RECALL: pl.Float64, RANK: pl.Float64},
    )
    metrics = {name: float(per_query[name].to_numpy().mean()) for name in (HIT, RECALL, RANK)} if answers else {}
    missed = [
        Missed(_query_picture(items, query, pictures), query.expected, answer, query.note)
        for query, answer in sorted(asked, key=lambda pair: pair[1].reciprocal_rank(contents))
        if not answer.hit(contents)
    ]
    missing = golden.missing or ("" if asked else "None of the golden queries could be asked.")
    facts = GoldenFacts(
        file=golden.uri,
        n_queries=len(golden.queries),
        n_asked=len(asked),
        metrics=metrics,
        n_problems=len(problems),
        problems=told(problems),
        n_missed=len(missed),
        missed=show_missed(items, missed, contents),
        missing=missing,
    )
    return Golden(metrics, per_query if asked else per_query.select("item_id"), facts)


def _query_picture(items: pl.DataFrame, query: GoldenQuery, pictures: dict[str, str]) -> Thumbnail:
    if query.query in pictures:
        return Thumbnail(item_id=query.query, caption=query.note, jpeg=pictures[query.query])
    (row,) = (items["item_id"] == query.query).arg_true()
    return item_picture(items, row)


def _still_there(query: GoldenQuery, contents: dict[str, str], problems: list[str]) -> set[str]:
    """The content ids that a query ought to find; what is wrong with them joins the problems."""
    gone = [name for name in query.expected if name not in contents]
    if gone:
        problems.append(f"query {query.query}: expected {', '.join(gone)} not in the catalogue")
    if query.query in query.expected:
        problems.append(f"query {query.query}: expects itself, which is never among its own hits")
    expected = {contents[name] for name in query.expected if name in contents and name != query.query}
    if not expected:
        problems.append(f"query {query.query}: left out, nothing that it expects is in the catalogue")
    return expected


def _address(file: str, uri: str) -> str:
    """Where a query's picture lies. Raises `BadConfig` for a place that the file must not name."""
    on_s3 = "://" in file
    if _SCHEME.match(uri):
        return uri
    if uri.startswith("/"):
        if on_s3:
            raise BadConfig("expected s3:// or a path below the file's folder: the file lies on S3")
        return uri
    if _CLIMBS.search(uri):
        raise BadConfig("expected a path below the file's folder, without ..")
    folder = file.rpartition("/")[0] if on_s3 else str(Path(file).expanduser().absolute().parent)
    return f"{folder}/{uri}"


def _parsed(uri: str, data: bytes) -> GoldenFile:
    """The queries in a file's bytes, or why there are none."""
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
    queries = tuple(_gathered(header, rows[1:], problems))
    missing = "" if queries else f"{uri} has no queries."
    return GoldenFile(uri, queries, tuple(problems), missing)


def _gathered(header: Sequence[str], rows: Sequence[Sequence[str]], problems: list[str]) -> Iterator[GoldenQuery]:
    """One query for all the rows that name it; what is wrong with a row joins the problems."""
    gathered: dict[str, list[_Row]] = {}
    for number, cells in enumerate(rows, start=2):
        cell = {name: text.strip() for name, text in zip(header, cells, strict=False)}
        if not any(cell.values()):
            continue
        expected = [name.strip() for name in cell.get("expected", "").split("|") if name.strip()]
        if not cell.get("query") or not expected:
            problems.append(f"row {number}: has no {'query' if expected else 'expected items'}; left out")
            continue
        row = _Row(expected, _depth(cell.get("k", ""), number, problems), cell.get("note", ""))
        gathered.setdefault(cell["query"], []).append(row)
    for query, same in gathered.items():
        yield GoldenQuery(
            query,
            expected=tuple(dict.fromkeys(name for row in same for name in row.expected)),
            k=next((row.k for row in same if row.k), K),
            note=next((row.note for row in same if row.note), ""),
        )


def _depth(text: str, number: int, problems: list[str]) -> int:
    """What a row says of k, 0 where it says nothing that can be read."""
    if not text:
        return 0
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_K:
        return int(text)
    problems.append(f"row {number}: k is {text!r}, expected 1 to {MAX_K}; passed over")
    return 0
