"""Delimited text, however a program wrote it, is read record for record, or refused with the line."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retrieval_core.errors import SourceMissing
from retrieval_core.ingest.sources.tables.columns import UNNAMED
from retrieval_core.ingest.sources.tables.delimited import decode_text, read_delimited

HEADER = ["item_id", "image_uri", "product_id", "category", "attr_title"]
WORDS = st.sampled_from(["shirt", "Hosen für Männer", "weiß", "T-Shirt € blau", 'TV 15" wide', "a;b,c\td|e", "x", ""])
FIRST_CELLS = st.sampled_from(["shirt", "Hosen für Männer", "two\nlines", "a, b", 'the "best" one'])


class Written(NamedTuple):
    delimiter: str
    encoding: str
    line_end: str
    quoting: int
    is_backslashed: bool

    def write(self, records: list[list[str]]) -> bytes:
        stream = io.StringIO()
        writer = csv.writer(
            stream,
            delimiter=self.delimiter,
            lineterminator=self.line_end,
            quoting=self.quoting,
            doublequote=not self.is_backslashed,
            escapechar="\\" if self.is_backslashed else None,
        )
        writer.writerows([cell.replace("\n", self.line_end) for cell in record] for record in records)
        return stream.getvalue().encode(self.encoding)


LAYOUTS = st.builds(
    Written,
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[str] = WORDS) -> list[list[str]]:
    """Draw records of items with numbers as ids; only the category and the title vary."""
    n_rows = draw(st.integers(1, 12))
    return [
        [str(n), f"pics/{n}.jpg", f"p{n}", draw(FIRST_CELLS), draw(cells)]
        for n in draw(st.permutations(range(100, 100 + n_rows)))
    ]


def cells_of(data: bytes) -> list[list[str]]:
    frame = read_delimited(data).frame
    assert frame.columns == HEADER
    return [[re.sub("\r\n?", "\n", cell or "") for cell in row] for row in frame.rows()]


def cells_unless_refused(data: bytes) -> list[list[str]] | None:
    try:
        return cells_of(data)
    except ValueError as error:
        if not re.match(r"line \d+: ", str(error)):
            raise
        return None


@settings(max_examples=200)
@given(layout=LAYOUTS, records=tables(), n_blank=st.integers(0, 3))
def test_every_layout_of_a_program_is_read_cell_for_cell(
    layout: Written, records: list[list[str]], n_blank: int
) -> None:
    blank = [[], [""] * len(HEADER), [" "]][:n_blank]
    data = layout.write([HEADER, *records, *blank])

    assert cells_of(data) == records
    assert (f"passed over: {n_blank}" in read_delimited(data).note) == (n_blank > 0)


@settings(max_examples=200)
@given(layout=LAYOUTS, records=tables(), data=st.data())
def test_a_slip_of_the_pen_costs_no_other_record(
    layout: Written, records: list[list[str]], data: st.DataObject
) -> None:
    """One character below the header is inserted or replaced: the line is refused, or all others are read."""
    text = layout._replace(encoding="utf-8").write([HEADER, *records]).decode()
    start = text.index("attr_title") + len("attr_title") + 2
    position = data.draw(st.integers(start, len(text) - 1))
    slip = data.draw(st.sampled_from(['"', "\\", layout.delimiter, "\n", "\r", "'", '\\"', '""']))
    n_replaced = data.draw(st.integers(0, 2))
    slipped = text[:position] + slip + text[position + n_replaced :]
    read = cells_unless_refused(slipped.encode(layout.encoding))
    if read is None:
        return
    # A slip touches the record it is in, and where it removes a line end the next one.
    lost = [record for record in records if record[0] not in {row[0] for row in read}]
    assert len(lost) <= 1, slipped
    assert sum(record not in read for record in records) <= 2, slipped


@settings(max_examples=200)
@given(layout=LAYOUTS, records=tables(), n_cut=st.integers(1, 60))
def test_a_text_that_breaks_off_loses_the_last_record_alone(
    layout: Written, records: list[list[str]], n_cut: int
) -> None:
    data = layout._replace(encoding="utf-8").write([HEADER, *records])
    cut = data[: -min(n_cut, len(data) - data.index(b"attr_title") - 14)]
    assume(len(cut) > data.index(b"attr_title") + 12)
    read = cells_unless_refused(cut)
    assert read is None or read[:-1] == records[: len(read) - 1]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['1,a.jpg,"15" laptop"', "2,b.jpg,x"], 2),
        (["1,a.jpg,x", '2,b.jpg,"15""', "3,c.jpg,x"], 3),
        (["1,a.jpg,x", '2,b.jpg,"15""', '3,c.jpg,16"', "4,d.jpg,x"], 3),
        (["1,a.jpg,x,y"], 2),
        (["1,a.jpg,x", "2,b.jpg,Nice", "shirt,Blue"], 4),
        (["1,a.jpg,x", "2,b.jp"], 3),
        (['1,a.jpg,15\\" TV', "2,b.jpg,15\\"], 3),
        (["1\\,a.jpg,x", '2,b.jpg,15\\" TV'], 2),
        (['1,a.jpg,"15\\" TV"', '2,b.jpg,"15" TV"'], 3),
    ],
)
def test_a_record_that_cannot_be_read_is_named_by_its_line(lines: list[str], line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line}: "):
        read_delimited("\n".join(["item_id,image_uri,title", *lines]).encode())


def test_a_cell_that_swallows_the_next_record_is_refused_without_addresses_too() -> None:
    with pytest.raises(ValueError, match="line 2: a quoted cell runs over the next line"):
        read_delimited(b'item_id,category,note\n1,"x\n2,y"\n3,z,w\n')


def test_backslashes_escape_quotes_where_the_text_shows_it() -> None:
    text = 'item_id,image_uri,attr_title\n1,a.jpg,"15\\" laptop"\n2,b.jpg,"a ""b"" \\\\ c"\n'
    table = read_delimited(text.encode())
    assert table.frame["attr_title"].to_list() == ['15" laptop', 'a "b" \\ c']
    assert "escaped by backslashes" in table.note


def test_a_backslash_is_a_letter_where_nothing_shows_otherwise() -> None:
    text = 'item_id,image_uri,attr_title\n1,pics\\a.jpg,"C:\\"\n'
    assert read_delimited(text.encode()).frame.row(0) == ("1", "pics\\a.jpg", "C:\\")


@pytest.mark.parametrize("title", ["red, blue", "red", 'the ""best"" one', "two\nlines"])
def test_quotes_may_stand_after_spaces(title: str) -> None:
    text = f'item_id, image_uri, attr_title\n1, a.jpg, "{title}"\n'
    assert read_delimited(text.encode()).frame.row(0) == ("1", "a.jpg", title.replace('""', '"'))


def test_a_quote_after_a_space_may_belong_to_a_word() -> None:
    text = 'item_id,image_uri,attr_title\n1,a.jpg, "Best" shirt\n2,b.jpg,x\n'
    assert read_delimited(text.encode()).frame["attr_title"].to_list() == [' "Best" shirt', "x"]


@pytest.mark.parametrize("sep", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_first_line_may_name_the_delimiter(sep: str) -> None:
    table = read_delimited(f"{sep}\r\nitem_id;image_uri\r\n1;a,b.jpg\r\n".encode())
    assert table.frame.rows() == [("1", "a,b.jpg")]
    assert "semicolons" in table.note


def test_the_delimiter_that_the_first_line_names_may_be_an_unusual_one() -> None:
    assert read_delimited(b"sep=~\nitem_id~image_uri\n1~a,b.jpg\n").frame.rows() == [("1", "a,b.jpg")]


def test_cells_that_a_program_left_out_at_the_end_are_empty_and_those_too_many_are_dropped_if_empty() -> None:
    text = "item_id,image_uri,category,\n1,pics/a.jpg\n2,b.jpg,hat,,,\n"
    assert read_delimited(text.encode()).frame.rows() == [("1", "pics/a.jpg", None), ("2", "b.jpg", "hat")]


def test_a_title_of_several_lines_is_kept_even_with_delimiters_in_it() -> None:
    text = 'item_id,image_uri,attr_title\n1,a.jpg,"soft, warm, 50/50\nblue, size M, wash at 30.\n"\n2,b.jpg,x\n'
    assert read_delimited(text.encode()).frame.height == 2


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("ü".encode(), "UTF-8"),
        ("ü".encode("utf-8-sig"), "UTF-8"),
        ("item ü".encode("utf-16"), "UTF-16"),
        ("item ü, item".encode("utf-16-le"), "UTF-16"),
        ("item ü, item".encode("utf-32"), "UTF-32"),
        ("Größe € für 5 €".encode("cp1252"), "cp1252"),
    ],
)
def test_the_encoding_is_found_by_evidence(data: bytes, encoding: str) -> None:
    text, found = decode_text(data)
    assert found == encoding
    assert "ü" in text
    assert "\ufeff" not in text


@pytest.mark.parametrize(
    "data",
    [
        b"item\n\xcf\xf0\xe8\xe2\xe5\xf2, \xea\xe0\xea \xe4\xe5\xeb\xe0",  # Russian in cp1251,
        "item\nHosen für Männer".encode("mac_roman"),
        "item\nHosen für Männer".encode("cp850"),
        "item\n日本語のシャツ".encode("shift_jis"),
        "item\nGrün, weiß, für".encode()[:-1] + b"\xc3",
        "item\n±5 mm, ±10 mm".encode() + b"\xe9",
        b"\xef\xbb\xbf" + "item\nHosen für Männer".encode("cp1252"),
        "item\nweiß".encode("utf-16")[:-1],
        b"item\n\0",
    ],
)
def test_text_in_an_unknown_or_damaged_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"line 2|damaged"):
        decode_text(data)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("item_id;image_uri;attr_a,b,c,d", ["item_id", "image_uri", "attr_a,b,c,d"]),
        ("sku;url;size", ["sku", "url", "size"]),
    ],
)
def test_the_delimiter_is_that_of_the_most_columns_with_a_meaning_then_of_the_most(
    header: str, names: list[str]
) -> None:
    assert read_delimited(f"{header}\n1;2;3\n".encode()).frame.columns == names


def test_a_note_counts_in_the_singular() -> None:
    assert read_delimited(b"item_id,image_uri\n1,a.jpg\n").note == "1 row, separated by commas, in UTF-8"


def test_headers_mean_columns_in_any_case_and_with_spaces() -> None:
    headers = ["\u200bItem ID", " image_uri", "CATEGORY ", "Attr_Colour", "attributes.Size", "Price EUR"]
    assert UNNAMED.names(headers) == ["item_id", "image_uri", "category", "attr_Colour", "attributes.Size", "Price EUR"]


def test_two_headers_of_one_column_are_refused() -> None:
    with pytest.raises(ValueError, match="line 1: the header names column item_id more than once"):
        read_delimited(b"item_id,Item_ID,image_uri\n1,2,a.jpg\n")


@pytest.mark.parametrize("data", [b"", b"\n\r\n", "\ufeff".encode(), b"sep=;\n"])
def test_an_empty_text_is_a_missing_source(data: bytes) -> None:
    with pytest.raises(SourceMissing):
        read_delimited(data)


TSV = 'item_id\timage_uri\ttitle\n1\ta.jpg\t{}\n2\tb.jpg\t"Small lamp"\n3\tc.jpg\tplain'


@pytest.mark.parametrize("title", ['"Big" lamp', '"Big lamp', '12" lamp', '"', '""Big"" lamp', 'lamp "Big"'])
def test_quotes_of_a_feed_with_tabs_may_be_letters(title: str) -> None:
    table = read_delimited(f"{TSV.format(title)}\n".encode())
    assert table.frame["title"].to_list() == [title, "Small lamp", "plain"]
    assert table.frame["image_uri"].to_list() == ["a.jpg", "b.jpg", "c.jpg"]


def test_quotes_that_enclose_lines_are_never_letters() -> None:
    for title in ('"Big\nlamp" red', '"Big\tlamp" red', '"Big\nlamp'):
        with pytest.raises(ValueError, match="line"):
            read_delimited(f"{TSV.format(title)}\n".encode())


def test_a_line_of_a_quoted_cell_is_no_record_of_its_own() -> None:
    text = 'image_uri\titem_id\ttitle\na.jpg\t1\t"Big" lamp\nb.jpg\t2\t"Two\nlines. And more"\n'
    with pytest.raises(ValueError, match="line 2"):
        read_delimited(text.encode())


QUOTED_TSV = 'item_id\timage_uri\ttitle\n1\ta.jpg\t"Big ""blue"" lamp"\n2\tb.jpg\t"Small\nlamp\nof ""Acme"""\n'


@given(st.integers(1, len(QUOTED_TSV) - 2))
def test_a_quoted_text_with_tabs_that_breaks_off_is_refused_or_noted(end: int) -> None:
    whole = read_delimited(QUOTED_TSV.encode()).frame
    with suppress(ValueError, SourceMissing):
        part, note = read_delimited(QUOTED_TSV[:end].encode())
        assert part.rows() == whole.head(len(part)).rows() or "has no end" in note
        assert part[:-1].rows() == whole.head(max(len(part) - 1, 0)).rows()


def test_a_last_line_without_an_end_is_noted() -> None:
    assert "the last line has no end, so its last cell may be cut off" in read_delimited(TSV.format("x").encode()).note
    assert "no end" not in read_delimited(f"{TSV.format('x')}\n".encode()).note


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_cell_of_json_keeps_its_own_escapes(delimiter: str) -> None:
    attributes = {"width": '5" wide', "path": "a\\b", "note": "line\nbreak"}
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(["item_id", "image_uri", "attributes"])
    writer.writerow(["1", "a.jpg", json.dumps(attributes)])
    frame = read_delimited(buffer.getvalue().encode()).frame
    assert json.loads(frame["attributes"][0]) == attributes
