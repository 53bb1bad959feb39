"""Suggest the existing ids that a person who typed an unknown one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import polars as pl

N_SUGGESTIONS = 3
MAX_COMPARED = 500  # ids compared letter by letter
MAX_EDITED = 40  # letters and digits of an id in which one error is looked for anywhere; longer patterns are slow
N_PIECES, MIN_PIECE = 4, 3  # pieces of an id, and characters in one

_SEPARATORS = r"[\s\-_./\\:#+,]*"


def did_you_mean(item_id: str, ids: pl.Series) -> str:
    """Return "; did you mean 'a' or 'b'?" with the nearest of `ids`, the end of an error message; "" if none is near.

    Near is first an id that differs in case and punctuation only, then one with one letter wrong, missing, added or
    swapped, then one that shares most of its text. A million ids take less than a second.
    """
    near = _nearest(item_id, ids)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _nearest(item_id: str, ids: pl.Series) -> list[str]:
    letters = [character for character in item_id if character.isalnum()]
    if not letters:
        return []
    patterns = [_pattern([letters])]
    if MIN_PIECE <= len(letters) <= MAX_EDITED:
        patterns.append(_pattern(_one_edit(letters)))
    for pattern in patterns:
        matching = ids.filter(ids.str.contains(pattern))
        if len(matching):
            return _most_similar(item_id, matching, 0)
    size = max(MIN_PIECE, -(-len(item_id) // N_PIECES))
    pieces = [item_id[start : start + size] for start in range(0, len(item_id), size)]
    n_shared = pl.select(pl.sum_horizontal(ids.str.contains(piece, literal=True) for piece in pieces)).to_series()
    least = max(n_shared.top_k(MAX_COMPARED).min() or 0, 1)
    ranked = pl.concat([ids.filter(n_shared > least), ids.filter(n_shared == least)])
    return _most_similar(item_id, ranked, 0.6)


def _most_similar(item_id: str, ids: pl.Series, cutoff: float) -> list[str]:
    return difflib.get_close_matches(item_id, ids.head(MAX_COMPARED).to_list(), N_SUGGESTIONS, cutoff)


def _one_edit(letters: Sequence[str]) -> Iterator[list[str]]:
    """Yield what matches the letters with one of them wrong or missing, one added, or two swapped."""
    for position in range(len(letters) + 1):
        before, after = [*letters[:position]], [*letters[position:]]
        yield [*before, ".", *after]
        if after:
            yield [*before, ".?", *after[1:]]
        if len(after) > 1:
            yield [*before, after[1], after[0], *after[2:]]


def _pattern(words: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> str:
    """Return a regular expression for any of the words, in any case and with any separators."""
    alternatives = "|".join(_SEPARATORS.join(word) for word in words)
    return f"(?i)^{_SEPARATORS}(?:{alternatives}){_SEPARATORS}$"
