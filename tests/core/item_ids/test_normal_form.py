"""One spelling for ids that people cannot tell apart; ids that look or mean otherwise stay different."""

from __future__ import annotations

from itertools import combinations
from unicodedata import normalize

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.item_ids.normal_form import normal_name, normal_names, spellings, with_normal_names

# Those blocks that hold ignorable characters, spaces, marks, or what NFC changes; the others are letters and signs.
BLOCKS = ((0, 0x3400), (0xAC00, 0xAC80), (0xF900, 0x10000), (0x1BC00, 0x1BD00), (0x1D000, 0x1D200), (0x1F300, 0x1FB00))
CODE_POINTS = [chr(code) for first, end in (*BLOCKS, (0xE0000, 0xE1200)) for code in range(first, end)]
EVERY = pl.Series(CODE_POINTS)
IGNORABLE = EVERY.filter(EVERY.str.contains(r"^\p{Default_Ignorable_Code_Point}$")).to_list()
PERSIAN = ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645")
SANSKRIT = ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u0937")
FAMILY, PAIR = "👩\u200d👧", "👩👧"
ENGLAND, SCOTLAND = (
    "🏴" + "".join(chr(0xE0000 + ord(tag)) for tag in region) + "\U000e007f" for region in ("gbeng", "gbsct")
)
MIXED = st.one_of(
    st.sampled_from(
        "aAz09-_./ é\u0301\u0323Åﬁがか\u3099한가क\u094dष\u0653آ漢👩👧🏴❤\u2190\u0338\u200c\u200d\ufe0f\u200b\u00a0"
    ),
    st.sampled_from(IGNORABLE),
    st.characters(),
)
TEXT = st.text(MIXED, max_size=12)
LATIN = st.text(st.sampled_from("abcéèåøñß019-_./"), min_size=1, max_size=10)


@settings(max_examples=200)
@given(TEXT)
def test_a_normal_name_is_its_own_normal_form(text: str) -> None:
    normal = normal_name(text)
    assert normal_name(normal) == normal == normalize("NFC", normal).strip()
    normal.encode()


@settings(max_examples=200)
@given(
    st.lists(st.none() | TEXT.filter(lambda text: text.isprintable() or text.encode(errors="ignore").decode() == text))
)
def test_a_column_is_normalised_as_its_names_are(texts: list[str | None]) -> None:
    column = pl.Series("names", texts, pl.String)
    assert normal_names(column).to_list() == [None if text is None else normal_name(text) for text in texts]


def test_every_character_alone_is_normalised_in_a_column_as_by_itself() -> None:
    assert normal_names(EVERY).to_list() == [normal_name(character) for character in CODE_POINTS]


def test_what_unicode_calls_ignorable_is_removed() -> None:
    assert {normal_name(f"a{character}b") for character in IGNORABLE} == {"ab"}
    assert not [character for character in {*CODE_POINTS} - {*IGNORABLE} if normal_name(f"a{character}b") == "ab"]


@settings(max_examples=200)
@given(LATIN, st.data())
def test_an_id_is_the_same_however_it_was_typed(item_id: str, data: st.DataObject) -> None:
    normal = normal_name(item_id)
    typed = normalize(data.draw(st.sampled_from(["NFC", "NFD"])), normal)
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(typed)))
        typed = typed[:position] + data.draw(st.sampled_from(IGNORABLE)) + typed[position:]
    typed = data.draw(st.text(" \t\n\u00a0\u3000\ufeff", max_size=2)) + typed
    assert normal_name(typed) == normal
    assert normal in spellings(typed)
    assert normalize("NFD", normal) in spellings(typed)


def test_ids_that_differ_for_a_reader_stay_different() -> None:
    ids = ["e", "E", "é", "É", FAMILY, PAIR, ENGLAND, SCOTLAND, "🏴", *PERSIAN, *SANSKRIT, "a b", "ab", "a-b", "²", "2"]
    ids += ["\ufb01", "fi", "\u0410", "A"]  # a ligature, and a letter of another alphabet
    assert [(a, b) for a, b in combinations(map(normal_name, ids), 2) if a == b] == []
    assert [normal_name(text) for text in (FAMILY, ENGLAND, SCOTLAND)] == [FAMILY, ENGLAND, SCOTLAND]


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("Bildschirmfoto 9.41\u202fAM.png", "Bildschirmfoto 9.41 AM.png"),
        ("sku\u200d1", "sku1"),
        ("\u200d👩\u200d\u200d👧\u200d", FAMILY),
        ("❤\ufe0f\u200d🔥", "❤\u200d🔥"),
        ("🏴\u200b" + ENGLAND[1:], ENGLAND),
        ("a\nb", "a\nb"),
        ("\u200b \ufeff", ""),
        ("a\udcff", "a\ufffd"),
    ],
)
def test_characters_that_are_not_displayed_stay_only_where_they_change_what_is_displayed(
    typed: str, normal: str
) -> None:
    assert normal_name(typed) == normal


def test_twins_that_an_older_version_stored_keep_their_spellings() -> None:
    stored = pl.DataFrame({"item_id": ["é", "e\u0301", "o\u0308", None], "category": ["u\u0308"] * 4})
    assert with_normal_names(stored).to_dict(as_series=False) == {
        "item_id": ["é", "e\u0301", "ö", None],
        "category": ["ü"] * 4,
    }
