"""A cursor says what it was made of, to its own search only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.serve.api.cursors import MAX_SEEN, Cursor, read_cursor, write_cursor
from deployments.serve.api.problems import Refused
from deployments.serve.api.requests import MAX_CURSOR_CHARS, SearchRequest, Unlike

REQUEST = SearchRequest(texts=("red",), images=(b"a",), unlike=Unlike(images=(b"b",)))
OTHERS = [
    REQUEST.model_copy(update=changed)
    for changed in (
        {"texts": ("blue",)},
        {"images": (b"a", b"b")},
        {"images": (b"c",)},
        {"unlike": Unlike(images=(b"c",))},
        {"unlike": Unlike(images=(b"b",), texts=("x",))},
        {"where": "category=dress"},
        {"collapse": True},
        {"release": "abcd"},
    )
]


def sent(request: SearchRequest, text: str | None) -> SearchRequest:
    assert text is not None
    return request.model_copy(update={"cursor": text})


@given(st.text("0123456789abcdef", min_size=1, max_size=32), st.lists(st.integers(0, 2**63 - 1), max_size=20))
def test_a_cursor_is_read_as_it_was_written(release: str, seen: list[int]) -> None:
    cursor = Cursor(release, tuple(seen))
    text = write_cursor(REQUEST, cursor)
    assert read_cursor(sent(REQUEST.model_copy(update={"k": 7, "facets": ("x",)}), text)) == cursor
    for other in OTHERS:
        with pytest.raises(Refused, match="another search"):
            read_cursor(sent(other, text))


@given(st.text(max_size=60))
def test_text_that_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        read_cursor(sent(REQUEST, text))
    assert refused.value.status == 400


def test_a_list_ends_where_a_cursor_would_be_too_long() -> None:
    longest = write_cursor(REQUEST, Cursor("f" * 32, tuple(range(MAX_SEEN))))
    assert longest is not None
    assert len(longest) <= MAX_CURSOR_CHARS
    assert write_cursor(REQUEST, Cursor("f" * 32, tuple(range(MAX_SEEN + 1)))) is None
