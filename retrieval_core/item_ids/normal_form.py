"""The normal form of the names in a catalogue, so that an id is found however its characters were typed or copied.

A name in normal form is in NFC, and each space in it is a plain one, none at either end. It has none of the characters
that Unicode calls default-ignorable because they are not displayed (zero-width characters, soft hyphens, byte-order
marks, directional marks, variation selectors), except where one changes what is displayed: a zero-width joiner or
non-joiner between two emoji, symbols or letters of a joining script (Arabic, Indic and the like), and the tags after a
black flag. Upper and lower case, and letters that only look alike, stay different.
"""

from __future__ import annotations

import re
from typing import Annotated
from unicodedata import normalize

import polars as pl
from pydantic import AfterValidator

NORMAL_COLUMNS = ("item_id", "product_id", "category")  # of a catalogue, kept in normal form

_JOINERS = "\u200c\u200d"
_TAGS = "\U000e0020-\U000e007f"
# Default_Ignorable_Code_Point of https://www.unicode.org/Public/14.0.0/ucd/DerivedCoreProperties.txt
_IGNORABLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
_SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_KEPT_IN_CONTEXT = {*map(ord, _JOINERS), *range(0xE0020, 0xE0080)}
_REPLACED: dict[int, str | None] = (
    {code: None for first, last in _IGNORABLE for code in range(first, last + 1) if code not in _KEPT_IN_CONTEXT}
    | dict.fromkeys(map(ord, _SPACES), " ")
    | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # half a character, which cannot be stored
)
_UNUSUAL = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _IGNORABLE)}{_SPACES}\ud800-\udfff]")
_JOINING = "[\u0600-\u1dff\u2070-\u2fff\U00010000-\U0001faff]"
_IN_CONTEXT = re.compile(
    f"(\U0001f3f4[{_TAGS}]+)|(?<={_JOINING})([{_JOINERS}])[{_JOINERS}]*(?={_JOINING})|[{_JOINERS}{_TAGS}]"
)
# A text without any of these is in normal form: what it has are letters, digits, signs and emoji that NFC keeps.
_ODD = (
    r"^\s|\s$|[^ -~\u{C0}-\u{2AF}\u{388}-\u{3FF}\u{400}-\u{482}\u{48A}-\u{52F}\u{5D0}-\u{5EA}\u{621}-\u{64A}"
    r"\u{1E00}-\u{1EFF}\u{3041}-\u{3096}\u{30A1}-\u{30FF}\u{4E00}-\u{9FFF}\u{AC00}-\u{D7A3}\u{1F300}-\u{1FAFF}]"
)


def normal_name(text: str) -> str:
    """Return the normal form of a name; "" for one that has no visible character."""
    if text.isascii():
        return text.strip()
    if _UNUSUAL.search(text):
        text = _IN_CONTEXT.sub(r"\1\2", normalize("NFC", text.translate(_REPLACED)))
    return normalize("NFC", text).strip()


Names = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(map(normal_name, names)))]


def normal_names(column: pl.Series) -> pl.Series:
    """Return a column of names in normal form; null stays null."""
    odd = column.filter(column.str.contains(_ODD)).unique()
    if odd.is_empty():
        return column
    return column.replace(odd, pl.Series([normal_name(text) for text in odd], dtype=pl.String))


def with_normal_names(table: pl.DataFrame) -> pl.DataFrame:
    """Return a stored table whose item ids are unique with its names in normal form, as older versions did not store.

    Where two ids have one normal form, both keep their spelling.
    """
    columns = [normal_names(table[name]).alias(name) for name in NORMAL_COLUMNS if name in table.columns]
    normal = table.with_columns(columns)
    if "item_id" not in table.columns or normal["item_id"].equals(table["item_id"]):
        return normal
    is_shared = normal["item_id"].is_duplicated()
    return normal.with_columns(table["item_id"].zip_with(is_shared, normal["item_id"]))


def spellings(item_id: str) -> list[str]:
    """Return the ids that an older version may have stored for `item_id`, the normal form first."""
    normal = normal_name(item_id)
    as_typed = item_id.encode(errors="backslashreplace").decode()
    return list(dict.fromkeys([normal, normalize("NFD", normal), as_typed]))
