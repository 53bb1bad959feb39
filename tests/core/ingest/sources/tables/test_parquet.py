"""Values of every type that data frames and query engines write are read exactly, or refused by column and type."""

from __future__ import annotations

import io
import json
import math
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.errors import CatalogInvalid
from retrieval_core.ingest.sources.tables.table import TableSource

SPLITS = ("train", "val", "query", "gallery", "test")
NAMES = ("item_id", "image_uri", "product_id", "category", "split")
COLUMNS = (*NAMES, "labels", "attributes", "attr_x", "attributes.y")
WORDS = st.sampled_from(["coat", "Größe|M", " weiß ", "日本", "train", '15" TV', "a,b;c", "x" * 16, "{}", "1e5", ""])
JSON = ('{"c": "x", "d": 3.0}', "{}", '["a"]')
SECONDS = -(date(1970, 1, 1) - date(1, 1, 2)).days * 86400, (date(9999, 12, 31) - date(1970, 1, 1)).days * 86400 - 1
PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TEN_YEARS = timedelta(3652)
ZONES = {"UTC": UTC, "+02:00": timezone(timedelta(hours=2)), "Europe/Paris": ZoneInfo("Europe/Paris")}


class Refused(Exception):
    """What the oracle expects a table to be."""


class Kind(NamedTuple):
    """A type of single values, how to draw them as Arrow takes them, and their text."""

    dtype: pa.DataType
    values: st.SearchStrategy[Any]
    text: Callable[[Any], str]
    is_text: bool = False
    is_stored: bool = True  # in Parquet itself, not only in Arrow's note about the schema
    has_dictionary: bool = True  # Arrow can write a dictionary of it


def whole_or(number: Any, text: str) -> str:
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def float_text(width: type[np.floating]) -> Callable[[float], str]:
    """The shortest decimal that means the same float of that width."""

    def text(number: float) -> str:
        if math.isnan(number):
            return ""
        shortest = float(np.format_float_scientific(width(number), unique=True))
        return whole_or(shortest, repr(shortest))

    return text


def decimal_kind(dtype: pa.DataType) -> Kind:
    units = st.integers(-(10 ** (dtype.precision - 1)), 10 ** (dtype.precision - 1))
    return Kind(
        dtype,
        units.map(lambda unit: Decimal(f"{unit}E-{dtype.scale}")),
        lambda number: whole_or(number, f"{number:f}"),
        has_dictionary=dtype.bit_width == 128,
    )


def moment_text(unit: str, zone: str | None, ticks: int) -> str:
    seconds, rest = divmod(ticks, PER_S[unit])
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    moment = moment.astimezone(ZONES[zone]) if zone else moment.replace(tzinfo=None)
    if unit == "ns" and rest % 1000:
        return f"{str(moment)[:19]}.{rest:09d}{str(moment)[19:]}"
    return str(moment.replace(microsecond=rest * 10**6 // PER_S[unit]))


def moment_kind(unit: str, zone: str | None, parts: Sequence[int]) -> Kind:
    seconds = st.integers(-(2**29), 2**32) if unit == "ns" else st.integers(*SECONDS)
    return Kind(
        pa.timestamp(unit, zone),
        st.builds(lambda second, part: second * PER_S[unit] + part, seconds, st.sampled_from(parts)),
        partial(moment_text, unit, zone),
        is_stored=zone is None,
        has_dictionary=zone is None,
    )


def integer_kind(dtype: pa.DataType, low: int, high: int) -> Kind:
    return Kind(dtype, st.integers(low, high), str)


def uuid_text(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


UUID_BYTES = attrgetter("bytes")
KINDS = {
    "string": Kind(pa.string(), WORDS, str.strip, is_text=True),
    "large string": Kind(pa.large_string(), WORDS, str.strip, is_text=True),
    "view of strings": Kind(pa.string_view(), WORDS, str.strip, is_text=True, has_dictionary=False),
    "JSON": Kind(pa.json_(), st.sampled_from(JSON), str.strip, is_text=True, has_dictionary=False),
    "unmarked text": Kind(pa.binary(), WORDS.map(str.encode), lambda value: value.decode().strip(), is_text=True),
    "large binary": Kind(pa.large_binary(), WORDS.map(str.encode), lambda value: value.decode().strip(), is_text=True),
    **{f"int{n}": integer_kind(getattr(pa, f"int{n}")(), -(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"uint{n}": integer_kind(getattr(pa, f"uint{n}")(), 0, 2**n - 1) for n in (8, 16, 32, 64)},
    "float16": Kind(pa.float16(), st.floats(width=16), float_text(np.float16)),
    "float32": Kind(pa.float32(), st.floats(width=32), float_text(np.float32)),
    "float64": Kind(pa.float64(), st.floats(), float_text(np.float64)),
    "whole float32": Kind(pa.float32(), st.integers(-(2**24), 2**24).map(float), float_text(np.float32)),
    "whole float64": Kind(pa.float64(), st.integers(-(2**53), 2**53).map(float), float_text(np.float64)),
    "NaN": Kind(pa.float64(), st.just(math.nan), float_text(np.float64)),
    "bool": Kind(pa.bool_(), st.booleans(), lambda value: str(value).lower()),
    "decimal32": decimal_kind(pa.decimal32(9, 2)),
    "decimal64": decimal_kind(pa.decimal64(18, 0)),
    "decimal128": decimal_kind(pa.decimal128(38, 9)),
    "decimal256": decimal_kind(pa.decimal256(60, 20)),
    "date32": Kind(pa.date32(), st.dates(), date.isoformat),
    "date64": Kind(pa.date64(), st.dates(), date.isoformat),
    **{
        f"{unit} in {zone}": moment_kind(unit, zone, [0, n // 2] if n > 1 else [0])
        for unit, n in PER_S.items()
        for zone in (None, *ZONES)
    },
    **{f"last digits of ns in {zone}": moment_kind("ns", zone, [1, 10**9 - 1]) for zone in (None, *ZONES)},
    "time": Kind(pa.time64("us"), st.times(), lambda value: str(value)),
    "short time": Kind(pa.time32("s"), st.times().map(lambda value: value.replace(microsecond=0)), str),
    "duration": Kind(
        pa.duration("us"), st.timedeltas(-TEN_YEARS, TEN_YEARS), str, is_stored=False, has_dictionary=False
    ),
    "UUID": Kind(pa.uuid(), st.uuids().map(UUID_BYTES), uuid_text, is_text=True, has_dictionary=False),
    "UUID as bytes": Kind(pa.binary(16), st.uuids(version=4).map(UUID_BYTES), uuid_text, is_text=True),
    "null": Kind(pa.null(), st.none(), str, has_dictionary=False),
}  # fmt: skip
SHAPES = ("single", "dictionary", "list", "large list", "fixed list", "map", "struct", "name pairs", "key pairs",
          "lists of lists", "struct of lists")  # fmt: skip
WIDTHS = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


def leaf_array(kind: Kind, values: Sequence[Any]) -> pa.Array:
    if isinstance(kind.dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind.dtype, pa.array(values, kind.dtype.storage_type))
    if pa.types.is_timestamp(kind.dtype):
        return pa.array(values, pa.int64()).cast(kind.dtype)
    return pa.array(values, kind.dtype)


def offsets_of(rows: Sequence[Any]) -> pa.Array:
    ends = np.cumsum([0, *(len(row or ()) for row in rows)]).tolist()
    starts = [None if row is None else start for row, start in zip(rows, ends[:-1], strict=True)]
    return pa.array([*starts, ends[-1]], pa.int32())


def array_of(kind: Kind, shape: str, rows: Sequence[Any]) -> pa.Array:
    """Build a column of rows; a mapping is a dict, whatever shape stores it."""
    if shape in ("single", "dictionary"):
        leaf = leaf_array(kind, rows)
        return leaf.dictionary_encode() if shape == "dictionary" and kind.has_dictionary else leaf
    if "struct" in shape:
        inner = "list" if "lists" in shape else "single"
        fields = [array_of(kind, inner, [row and row[name] for row in rows]) for name in ("a", "b")]
        return pa.StructArray.from_arrays(fields, ["a", "b"], mask=pa.array([row is None for row in rows]))
    flat = [value for row in rows for value in (row.values() if isinstance(row, dict) else row or ())]
    names = pa.array([name for row in rows if isinstance(row, dict) for name in row], pa.string())
    values = array_of(kind, "list" if shape == "lists of lists" else "single", flat)
    if shape == "map":
        return pa.MapArray.from_arrays(offsets_of(rows), names, values)
    if "pairs" in shape:
        values = pa.StructArray.from_arrays([values, names], ["value", shape.split()[0]])
    lists = (pa.LargeListArray if shape == "large list" else pa.ListArray).from_arrays(
        offsets_of(rows).cast(pa.int64() if shape == "large list" else pa.int32()), values
    )
    return lists.cast(pa.list_(values.type, 2)) if shape == "fixed list" and None not in rows else lists


def rows_of(kind: Kind, shape: str) -> st.SearchStrategy[Any]:
    value = st.none() | kind.values
    if shape in ("single", "dictionary"):
        return value
    if shape == "fixed list":
        return st.lists(value, min_size=2, max_size=2)
    if "struct" in shape:
        inner = st.lists(value, max_size=2) if "lists" in shape else value
        return st.none() | st.fixed_dictionaries({"a": inner, "b": inner})
    if shape == "map" or "pairs" in shape:
        return st.none() | st.dictionaries(WORDS, value, max_size=3)
    return st.none() | st.lists(st.lists(value, max_size=2) if shape == "lists of lists" else value, max_size=3)


def text_of(kind: Kind, value: Any) -> str:
    return "" if value is None else kind.text(value)


def labels_of(kind: Kind, shape: str, row: Any) -> list[str]:
    if shape in ("single", "dictionary"):
        text = text_of(kind, row)
        if not kind.is_text:
            raise Refused
        texts = json.loads(text) if text.startswith("[") else [part.strip() for part in text.split("|")]
    elif shape.endswith("list"):
        texts = [text_of(kind, value) for value in row or ()]
    else:
        raise Refused
    return sorted({*texts} - {""})


def attributes_of(kind: Kind, shape: str, row: Any) -> dict[str, str]:
    if shape in ("single", "dictionary"):
        if not kind.is_text or (text := text_of(kind, row)) not in ("", *JSON[:2]):
            raise Refused
        return {"c": "x", "d": "3"} if len(text) > 2 else {}
    if shape.endswith("list") or shape == "lists of lists":
        raise Refused
    if shape == "struct of lists":
        if any((row or {}).values()):
            raise Refused
        return {}
    texts = {name.strip(): text_of(kind, value) for name, value in (row or {}).items()}
    return {name: text for name, text in texts.items() if name and text}


def single_of(kind: Kind, shape: str, row: Any, is_name: bool) -> str | None:
    if shape not in ("single", "dictionary"):
        raise Refused
    text = text_of(kind, row)
    if is_name and text and kind.dtype in WIDTHS and not (row.is_integer() and abs(row) <= WIDTHS[kind.dtype]):
        raise Refused
    return text or None


def expected_of(column: str, kind: Kind, shape: str, rows: list[Any]) -> list[Any]:
    """Return the catalogue's values of a column, row by row. Raises `Refused`."""
    is_nested = shape not in ("single", "dictionary")
    if all(row is None or (not is_nested and text_of(kind, row) == "" and kind.dtype in WIDTHS) for row in rows):
        rows, kind, shape, is_nested = [None] * len(rows), KINDS["string"], "single", False
    if is_nested and kind.dtype == pa.timestamp("ns", getattr(kind.dtype, "tz", None)) and has_nanoseconds(rows):
        raise Refused
    if column == "labels":
        return [labels_of(kind, shape, row) for row in rows]
    if column == "attributes":
        return [attributes_of(kind, shape, row) for row in rows]
    texts = [single_of(kind, shape, row, column in NAMES) for row in rows]
    if column.startswith("attr"):
        return [{column[-1]: text} if text else {} for text in texts]
    if column in ("item_id", "image_uri") and None in texts:
        raise Refused
    if column == "item_id" and len({*texts}) < len(texts):
        raise Refused
    if column == "split" and not {*texts} <= {*SPLITS, None}:
        raise Refused
    return texts


def has_nanoseconds(row: Any) -> bool:
    if isinstance(row, dict | list):
        return any(map(has_nanoseconds, row.values() if isinstance(row, dict) else row))
    return row is not None and row % 1000 != 0


def read(column: str, data: bytes, folder: Path) -> list[Any]:
    """Return the catalogue's values of a column in the order of the table."""
    (folder / "items.parquet").write_bytes(data)
    rows = TableSource(str(folder / "items.parquet")).rows()
    if column == "item_id":
        return rows.sort("image_uri")["item_id"].to_list()
    rows = rows.sort("item_id")
    if column == "image_uri":
        return rows["image_uri"].str.strip_prefix(f"{folder}/").to_list()
    if column.startswith("attr"):
        return [{pair["name"]: pair["value"] for pair in row} for row in rows["attributes"]]
    return rows[column].to_list()


def written(column: str, array: pa.Array, **options: Any) -> bytes:
    keys = [f"{n}.jpg" for n in range(len(array))]
    stream = io.BytesIO()
    columns = {"item_id": pa.array(keys), "image_uri": pa.array(keys)} | {column: array}
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(KINDS)), shape=st.sampled_from(SHAPES), column=st.sampled_from(COLUMNS), data=st.data()
)
def test_values_of_every_type_are_read_exactly_or_refused(tmp_path_factory, kind, shape, column, data) -> None:
    drawn = KINDS[kind]
    rows = data.draw(st.lists(rows_of(drawn, shape), min_size=1, max_size=4))
    options = {
        "use_dictionary": data.draw(st.booleans()),
        "row_group_size": 4 if kind == "view of strings" else data.draw(st.sampled_from([1, 3])),
        "data_page_version": data.draw(st.sampled_from(["1.0", "2.0"])),
        "store_schema": not drawn.is_stored or data.draw(st.booleans()),
    }
    table = written(column, array_of(drawn, shape, rows), **options)
    try:
        expected = expected_of(column, drawn, shape, rows)
    except Refused:
        with pytest.raises(CatalogInvalid, match=column) as refusal:
            read(column, table, tmp_path_factory.getbasetemp())
        assert len(str(refusal.value).splitlines()) == 1
    else:
        assert read(column, table, tmp_path_factory.getbasetemp()) == expected


NOT_TEXT = pa.array([b"\xff"]).view(pa.string())
YEAR_9000 = datetime(9000, 1, 2, 3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([b"\xff\xfe"]), "Binary with bytes that are neither UTF-8 text nor UUIDs"),
        (pa.array([bytes(12)], pa.binary(12)), "Binary with bytes that are neither UTF-8 text nor UUIDs"),
        (NOT_TEXT, "string: .*Invalid UTF8"),
        (pa.array([5_000_000], pa.date32()), "date32.*: a date is not in the years 1 to 9999"),
        (pa.array([2**60], pa.timestamp("us")), "timestamp.*: a date is not in the years 1 to 9999"),
        (pa.array([2**60], pa.timestamp("ms", "UTC")), "timestamp.*: a date is not in the years 1 to 9999"),
        (pa.array([0], pa.timestamp("us", "Mars/Base")), "timestamp.*Mars/Base"),
        (pa.array([1], pa.duration("ns")), "duration.*would lose data"),
        (pa.array([Decimal(10**50)], pa.decimal256(70, 2)), "decimal256.*does not fit"),
        (pa.array([2.0**24 + 2], pa.float32()), "Float32 with the number 16777218"),
        (pa.array([0.5]), "Float64 with the number 0.5"),
    ],
)
def test_a_value_that_cannot_be_read_exactly_is_refused_by_column_and_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], array: pa.Array, reason: str
) -> None:
    with pytest.raises(CatalogInvalid, match=f"column category is {reason}"):
        read("category", written("category", array), tmp_path)
    assert capfd.readouterr().err == ""


def test_times_of_spark_are_read_beyond_the_years_of_nanoseconds(tmp_path: Path) -> None:
    data = written("category", pa.array([YEAR_9000]), use_deprecated_int96_timestamps=True)
    assert read("category", data, tmp_path) == [str(YEAR_9000)]


def test_a_type_that_only_its_writer_knows_is_refused_by_its_name(tmp_path: Path) -> None:
    """Months of pandas are numbers from 1970 on, with the name of the type beside them."""
    field = pa.field("category", pa.int64(), metadata={"ARROW:extension:name": "pandas.period"})
    keys = [pa.field("item_id", pa.string()), pa.field("image_uri", pa.string())]
    pq.write_table(pa.table([["a"], ["a.jpg"], [672]], pa.schema([*keys, field])), tmp_path / "items.parquet")
    with pytest.raises(CatalogInvalid, match=r"column category is pandas\.period"):
        TableSource(str(tmp_path / "items.parquet"))


def test_columns_without_a_meaning_may_hold_anything(tmp_path: Path) -> None:
    for array in (NOT_TEXT, pa.array([2**60], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "Mars/Base"))):
        assert read("category", written("updated at", array), tmp_path) == [None]


@pytest.mark.parametrize("dtype", [pa.int64(), pa.list_(pa.list_(pa.date32())), pa.struct([("a", pa.bool_())])])
@pytest.mark.parametrize("column", ["category", "labels", "attributes", "attr_x"])
def test_a_column_without_a_value_is_empty_whatever_its_type(tmp_path: Path, column: str, dtype: pa.DataType) -> None:
    (value,) = read(column, written(column, pa.nulls(1, dtype)), tmp_path)
    assert not value


def test_a_column_and_a_field_of_one_path_are_told_apart(tmp_path: Path) -> None:
    structs = pa.array([{"size": 3, "colour": "red"}])
    columns = {"item_id": ["a"], "image_uri": ["a.jpg"], "attributes": structs, "attributes.size": [4]}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    (pairs,) = TableSource(str(tmp_path / "items.parquet")).rows()["attributes"].to_list()
    assert pairs == [{"name": "colour", "value": "red"}, {"name": "size", "value": "4"}]


def test_a_uuid_whose_bytes_could_be_letters_is_a_uuid_where_the_type_says_so(tmp_path: Path) -> None:
    letters = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"abcdefghABCDEFGH"], pa.binary(16)))
    assert read("category", written("category", letters), tmp_path) == ["61626364-6566-6768-4142-434445464748"]
