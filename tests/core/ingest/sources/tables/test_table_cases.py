"""Tables on which tools of this field failed, drawn anew: each becomes exactly its rows."""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_core.ingest.sources.tables.table import TableSource

HEADER = ["item_id", "image_uri", "product_id", "category", "attr_colour"]
CATEGORIES, COLOURS = ("shirt", "watch", "shoe", "handbag"), ("Blue", "Other", "Black", "White", "Green")
WESTERN = ("T-Shirts \N{EN DASH} weiß", "Hosen für Männer")
RECORDS = [
    [str(9000 + 311 * n), f"pics/{9000 + 311 * n}.jpg", f"p{n}", CATEGORIES[n % 4], COLOURS[n % 5]] for n in range(20)
]
IDS = [record[0] for record in RECORDS]


class Case(NamedTuple):
    """The bytes of a table, the expected values of columns that differ from `RECORDS`, and what `plan` says."""

    data: bytes
    expected: dict[str, list[Any]] = {}
    note: str = "20 rows"


def text(cells: Callable[[list[str]], list[str]] = list, header: str = ",".join(HEADER), delimiter: str = ",") -> str:
    return "\n".join([header, *(delimiter.join(cells(record)) for record in RECORDS), ""])


def with_cell(position: int, cell: str, numbers: tuple[int, ...]) -> str:
    """Write `cell` in the records of these numbers."""
    return text(
        lambda record: [
            cell if n == position and IDS.index(record[0]) in numbers else old for n, old in enumerate(record)
        ]
    )


def replaced(position: int, value: str, numbers: tuple[int, ...]) -> list[str]:
    return [value if n in numbers else record[position] for n, record in enumerate(RECORDS)]


def western(encoding: str) -> Case:
    categories = [WESTERN[int(item_id) % 2] for item_id in IDS]
    data = text(lambda record: [*record[:3], WESTERN[int(record[0]) % 2], record[4]]).encode(encoding)
    return Case(data, {"category": categories}, f"in {encoding.replace('utf', 'UTF')}")


def parquet(expected: dict[str, list[Any]], **columns: pa.Array) -> Case:
    stream = io.BytesIO()
    written = dict(zip(HEADER, map(list, zip(*RECORDS, strict=True)), strict=True))
    pq.write_table(pa.table(written | columns), stream)
    return Case(stream.getvalue(), expected)


ESCAPED = 'text with " escaped'
UUIDS = [uuid.UUID(int=2**127 + 2**70 * n + 7, version=4) for n in range(20)]
SOME = (0, 2, 3, 11, 19)
DELIMITED = text(delimiter=";", header=";".join(HEADER))
CASES = {
    "plain.csv": Case(text().encode()),
    "backslash_quote.csv": Case(
        with_cell(3, '"15\\" shirt"', SOME).encode(),
        {"category": replaced(3, '15" shirt', SOME)},
        "quotes escaped by backslashes",
    ),
    "backslash_two_rows.csv": Case(
        with_cell(4, '"text with \\" escaped"', (2, 6)).encode(),
        {"colour": replaced(4, ESCAPED, (2, 6))},
        "quotes escaped by backslashes",
    ),
    "q_two_inches_last.csv": Case(
        with_cell(4, '15"', (2, 8)).encode(), {"colour": replaced(4, '15"', (2, 8))}
    ),
    "one_trailing_blank.csv": Case(f"{text()}\n".encode(), note="blank records passed over: 1"),
    "semicolon.csv": Case(DELIMITED.encode(), note="separated by semicolons"),
    "excel_sep_line.csv": Case(f"sep=;\n{DELIMITED}".replace("\n", "\r\n").encode(), note="separated by semicolons"),
    "x.tsv": Case(text(delimiter="\t", header="\t".join(HEADER)).encode(), note="separated by tabs"),
    "cp1252.csv": western("cp1252"),
    "utf16.csv": western("utf-16"),
    "upper_header.csv": Case(text(header=",".join(["Item_ID", *HEADER[1:]])).encode()),
    "spaces_in_header.csv": Case(text(header=", ".join(HEADER[:2]) + "," + ",".join(HEADER[2:])).encode()),
    "p_labels_all_empty.parquet": parquet({}, labels=pa.array([[]] * 20, pa.list_(pa.null()))),
    "p_category_all_nan.parquet": parquet({"category": [None] * 20}, category=pa.array([math.nan] * 20)),
    "p_category_float.parquet": parquet(
        {"category": ["1", None] * 10}, category=pa.array([1.0, math.nan] * 10)
    ),
    "p_float_ids.parquet": parquet({}, item_id=pa.array(map(float, IDS))),
    "p_labels_int.parquet": parquet({"labels": [["1", "2"]] * 20}, labels=pa.array([[2, 1]] * 20)),
    "p_attrs_map.parquet": parquet(
        {"size": ["M"] * 20}, attributes=pa.array([[("size", "M")]] * 20, pa.map_(pa.string(), pa.string()))
    ),
    "p_uuid.parquet": parquet(
        {"item_id": [str(value) for value in UUIDS]}, item_id=pa.array([value.bytes for value in UUIDS], pa.binary(16))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_record_is_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CASES[name].data)
    source = TableSource(str(tmp_path / name))
    columns = dict(
        zip(["item_id", "image_uri", "product_id", "category", "colour"], zip(*RECORDS, strict=True), strict=True)
    )
    columns |= {"labels": [[]] * 20} | CASES[name].expected
    expected = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    rows = []
    for row in source.rows().drop("split", "mask_uri", "fields").sort("image_uri").iter_rows(named=True):
        attributes = {pair["name"]: pair["value"] for pair in row.pop("attributes")}
        rows.append(row | attributes | {"image_uri": row["image_uri"].removeprefix(f"{tmp_path}/")})

    assert rows == sorted(expected, key=lambda row: row["image_uri"])
    assert CASES[name].note in source.notes[0]
