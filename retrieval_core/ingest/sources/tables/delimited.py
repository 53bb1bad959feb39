"""Read delimited text as spreadsheets and shops export it, so that no record is lost without a word."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import polars as pl

from retrieval_core.errors import SourceMissing
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.columns import UNNAMED, Columns, header_names

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BYTE_ORDER_MARKS = (  # UTF-32 first, because its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
SLICE_ROWS = 10_000  # rows whose Python objects are in memory at once

SEP_LINE = re.compile(r'"?sep=(.)"?(\r\n|\r|\n|$)', re.IGNORECASE)  # Excel's first line that names the delimiter
LINE_END = re.compile(r"\r\n|\r|\n")
LINE = re.compile(r"[^\r\n]*(\r\n|\r|\n)|[^\r\n]+")
PICTURE_ADDRESS = re.compile(r"\s*(s3://|https?://|/)\S.*|.*\S\.\w{2,5}\"?\s*")
# Western words have single accented letters, in lower case within a word. Read as cp1252, another script becomes runs
# of them, and the letters of DOS and old Mac code pages become signs and capitals within words.
FOREIGN_RUN = re.compile(r"[^\x00-\x7f]{3,}")
FOREIGN_LETTER = re.compile(r"(?<=[A-Za-zß-ÿ])[À-ÞŠŒŽŸƒ„†‡‰¤§¦¨¬¯¶·\u201a\u02c6\xb8](?=[a-zß-ÿ])")
MULTIBYTE_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


# The options of a text whose quotes are part of its cells, unless one opens and one closes a cell.
LITERAL: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
QUOTED = re.compile(r'"(?:[^"]|"")*"')


class DelimitedTable(NamedTuple):
    """The rows of a delimited text, every column as text and null where empty, and how the text was read."""

    frame: pl.DataFrame
    note: str


class _Layout(NamedTuple):
    delimiter: str
    n_skipped: int  # lines before the text that holds the header
    options: dict[str, Any]  # of csv.reader


class _Reading(NamedTuple):
    frame: pl.DataFrame
    layout: _Layout
    n_blank: int
    has_end: bool  # of the last line


def read_delimited(data: bytes, columns: Columns = UNNAMED) -> DelimitedTable:
    """Read a delimited text with a header. The encoding, delimiter and escape are those that the text is evidence for.

    Blank records are passed over and counted in the note. A record lacks only empty cells at its end. Raises
    `SourceMissing` for an empty text, `ValueError` with the line of a record that cannot be read.
    """
    text, encoding = decode_text(data)
    sep = SEP_LINE.match(text)
    if sep:
        text = text[sep.end() :]
    header = next((line for line in _lines(text) if line.strip()), "")
    if not header:
        raise SourceMissing("the text is empty")
    delimiter = sep.group(1) if sep else _find_delimiter(header, columns)
    readings, failures = list[_Reading](), list[_BadRecord]()
    for options in _quoting(text, delimiter):
        try:
            readings.append(_read_records(text, _Layout(delimiter, bool(sep), options), columns))
        except _BadRecord as bad:
            failures.append(bad)
    if not readings and delimiter == "\t":
        with suppress(_BadRecord):
            readings.append(_read_records(text, _Layout(delimiter, bool(sep), LITERAL), columns))
    reading = max(readings, key=lambda reading: len(reading.frame), default=None)
    # Escapes that are left in the cells show that the failed layout, with escapes, was meant.
    if reading is None or (failures and reading.layout.options != LITERAL and _has_escapes(reading.frame)):
        failure = max(failures, key=lambda failure: failure.line)  # of the layout that fits best
        raise ValueError(f"line {failure.line}: {failure}") from failure
    return DelimitedTable(reading.frame, _describe(reading, encoding))


def decode_text(data: bytes) -> tuple[str, str]:
    """Return a text without its byte order mark, and the encoding: UTF-8, UTF-16, UTF-32 or cp1252.

    Raises `ValueError` with the line of the first character that is damaged or in another encoding.
    """
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if data.startswith(mark)), "")
    encoding = encoding or _unmarked_utf16(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(
                f"damaged {encoding.removesuffix('-sig').upper()} text: {error.reason}; save it as UTF-8"
            ) from error
        text, encoding = _decode_cp1252(data, _line_of(data, error.start)), "cp1252"
    if "\0" in text:
        line = len(LINE_END.findall(text[: text.index("\0")])) + 1
        raise ValueError(f"line {line}: holds a NUL character; save the table as UTF-8 text")
    return text.removeprefix("\ufeff"), encoding.removesuffix("-sig").replace("utf", "UTF").removesuffix("-le")


class _BadRecord(Exception):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _unmarked_utf16(data: bytes) -> str:
    """Return the byte order of UTF-16 text of mostly ASCII characters, whose other bytes are 0; "" for other text."""
    sample = data[:4096]
    half = len(sample) // 2
    if sample[1::2].count(0) > 0.8 * half:
        return "utf-16-le"
    return "utf-16-be" if sample[::2].count(0) > 0.8 * half else ""


def _decode_cp1252(data: bytes, line: int) -> str:
    """Decode text that is not UTF-8 from `line` on. Raises `ValueError` unless it looks like Western text."""
    advice = f"line {line}: neither UTF-8 nor cp1252 text; save the table as UTF-8"
    n_multibyte = len(MULTIBYTE_UTF8.findall(data))
    n_other = sum(byte >= 0x80 for byte in MULTIBYTE_UTF8.sub(b"", data))
    if n_multibyte > n_other / 4:
        raise ValueError(f"line {line}: damaged UTF-8 text; save the table as UTF-8 again")
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError(advice) from error
    n_foreign = sum(map(len, FOREIGN_RUN.findall(text))) + len(FOREIGN_LETTER.findall(text))
    if n_foreign > n_other / 2:
        raise ValueError(advice)
    return text


def _line_of(data: bytes, position: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", data[:position])) + 1


def _find_delimiter(header: str, columns: Columns) -> str:
    """Return the delimiter that finds the most used columns in the header, then the most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        names = header_names(next(csv.reader([header], delimiter=delimiter)))
        return sum(map(columns.is_used, names)), len(names)

    return max(DELIMITERS, key=score)


def _quoting(text: str, delimiter: str) -> list[dict[str, Any]]:
    """Return the options of `csv.reader` by which quotes and backslashes may be meant, the likelier first.

    A quote in a quoted cell is doubled, or follows a backslash.
    """
    escapes: list[dict[str, Any]] = [{}, {"escapechar": "\\"}] if "\\" in text else [{}]
    if '\\"' in text:
        escapes.reverse()
    has_spaces = re.search(re.escape(delimiter) + ' +"', text) is not None
    return [{"skipinitialspace": skip, **escape} for skip in dict.fromkeys((has_spaces, False)) for escape in escapes]


def _has_escapes(frame: pl.DataFrame) -> bool:
    r"""Return whether a cell has a `\"` that is not JSON's own."""
    cells = (cell for column in frame for cell in column.filter(column.str.contains('\\"', literal=True)))
    return any(not _is_json(cell) for cell in cells)


def _is_json(cell: str) -> bool:
    try:
        return isinstance(json.loads(cell), dict | list)
    except (ValueError, RecursionError):
        return False


def _read_records(text: str, layout: _Layout, columns: Columns) -> _Reading:
    """Return the rows below the header, and the number of blank records. Raises `_BadRecord`."""
    records = _records(text, layout)
    line, headers = next(((line, cells) for line, cells in records if any(cells)), (1, []))
    while headers and not headers[-1].strip():
        headers.pop()
    try:
        names = columns.names(headers)
    except ValueError as error:
        raise _BadRecord(line, str(error)) from error
    check = _RecordCheck(names, columns.picture, layout)
    slices, rows, n_blank = [_as_frame(names, [])], list[list[str]](), 0
    line, is_short, last = 0, False, [""]
    for line, cells in records:
        if not any(map(str.strip, cells)):
            n_blank += 1
            continue
        is_short = len(cells) < len(names)
        last = check.fitted(line, cells)
        rows.append(last)
        if len(rows) == SLICE_ROWS:
            slices.append(_as_frame(names, rows))
            rows = []
    has_end = text.endswith(("\r", "\n"))
    is_open = layout.options == LITERAL and last[-1].startswith('"') and last[-1].count('"') % 2 == 1
    if (is_short and not has_end) or is_open:
        raise _BadRecord(line, "the last line is cut off; export the table again")
    return _Reading(pl.concat([*slices, _as_frame(names, rows)]), layout, n_blank, has_end)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text with their ends, without a copy of the text, of which a StringIO makes one."""
    return (match[0] for match in LINE.finditer(text))


def _records(text: str, layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells. Raises `_BadRecord`."""
    reader = csv.reader(_lines(text), delimiter=layout.delimiter, strict=True, **layout.options)
    line = 1 + layout.n_skipped
    try:
        for cells in reader:
            yield line, _unquoted(cells) if layout.options == LITERAL else cells
            line = reader.line_num + 1 + layout.n_skipped
    except csv.Error as error:
        reason = str(error)
        if "expected after" in reason:
            reason = 'a quote stands inside a quoted cell; write two ("") for one'
        elif "unexpected end" in reason:
            reason = "the quote that opens a cell is never closed"
        raise _BadRecord(line, reason) from error


def _unquoted(cells: list[str]) -> list[str]:
    return [cell[1:-1].replace('""', '"') if QUOTED.fullmatch(cell) else cell for cell in cells]


class _RecordCheck:
    """Fits records to the header, and refuses those that a misplaced quote or line end has run together or cut."""

    def __init__(self, names: list[str], picture: str, layout: _Layout) -> None:
        self._n_cells = len(names)
        self._delimiter = layout.delimiter
        self._is_literal = layout.options == LITERAL
        self._image_cell = names.index(picture) if picture in names else None

    def fitted(self, line: int, cells: list[str]) -> list[str]:
        """Return as many cells as the header has. Raises `_BadRecord`."""
        is_short = len(cells) < self._n_cells
        if self._is_literal and is_short:  # perhaps the first line of a quoted cell of several
            raise _BadRecord(line, f"{len(cells)} cells; the header has {self._n_cells}")
        if any("\n" in cell or "\r" in cell for cell in cells) and (is_short or any(map(self._holds_record, cells))):
            raise _BadRecord(line, "a quoted cell runs over the next line; a quote is missing or too many")
        if is_short and self._image_cell is not None:
            # Programs leave out empty cells at the end; the second half of a record cut in two has no address here.
            address = cells[self._image_cell] if len(cells) > self._image_cell else ""
            if not re.search(r"[./]", address):
                raise _BadRecord(line, f"{len(cells)} cells; the header has {self._n_cells}")
        if any(map(str.strip, cells[self._n_cells :])):
            raise _BadRecord(line, f"{len(cells)} cells; the header has {self._n_cells}; quote a cell with a delimiter")
        return [*cells[: self._n_cells], *[""] * (self._n_cells - len(cells))]

    def _holds_record(self, cell: str) -> bool:
        """Return whether a later line of a cell has the address of a picture where a record has it."""
        position = self._image_cell
        lines = (line.split(self._delimiter) for line in LINE_END.split(cell)[1:])
        return position is not None and any(
            len(parts) > max(position, 1) and PICTURE_ADDRESS.fullmatch(parts[position]) for parts in lines
        )


def _as_frame(names: list[str], rows: list[list[str]]) -> pl.DataFrame:
    """Return rows as columns of text, without unnamed columns; of two with one name the first counts."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    named = {name: column for name, column in reversed([*zip(names, columns, strict=True)]) if name}
    series = [pl.Series(name, named[name], pl.String) for name in dict.fromkeys(names) if name]
    return pl.DataFrame(series).with_columns(pl.col(pl.String).replace("", None))


def _describe(reading: _Reading, encoding: str) -> str:
    layout = reading.layout
    escape = ", quotes escaped by backslashes" * ("escapechar" in layout.options)
    blank = f"; blank records passed over: {reading.n_blank}" * bool(reading.n_blank)
    literal = ", quotes that do not enclose a cell taken literally" * (layout.options == LITERAL)
    end = "; the last line has no end, so its last cell may be cut off" * (not reading.has_end)
    delimiter = DELIMITERS.get(layout.delimiter, repr(layout.delimiter))
    return f"{counted(len(reading.frame), 'row')}, separated by {delimiter}, in {encoding}{escape}{literal}{blank}{end}"
