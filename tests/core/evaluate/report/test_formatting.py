"""Numbers, sizes and times are written for people."""

import pytest

from retrieval_core.evaluate.report.formatting import (
    MINUS,
    counted,
    day,
    duration,
    listed,
    moment,
    number,
    p_value,
    percent,
    short_moment,
    signed,
    size,
)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "\N{EN DASH}"),
        (number(-0.5), f"{MINUS}0.500"),
        (signed(0.0123), "+0.012"),
        (signed(-0.0004), "0.000"),
        (percent(0.031), "3.1%"),
        (percent(0), "0%"),
        (percent(0.0001), "under 0.1%"),
        (percent(0.9999), "over 99.9%"),
        (duration(0.281), "0.28 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(252), "4 min 12 s"),
        (duration(7500), "2 h 05 min"),
        (size(999.7), "1 kB"),
        (size(206_248), "206 kB"),
        (size(16_240_000), "16.2 MB"),
        (moment("2026-11-21T07:04:49+00:00"), "Saturday 21 November 2026, 07:04 UTC"),
        (moment("yesterday"), "yesterday"),
        (p_value(None), "\N{EN DASH}"),
        (p_value(0.00001), "under 0.0001"),
        (p_value(0.0213), "0.021"),
        (day("2026-11-21T07:04:49+00:00"), "21 November 2026"),
        (short_moment("2026-11-21T07:04:49+00:00"), "21 November, 07:04"),
    ],
)
def test_numbers_are_written_for_people(shown, expected):
    assert shown == expected


def test_counts_have_the_noun_of_their_number():
    assert [counted(n, "item") for n in (0, 1, 1234)] == ["0 items", "1 item", "1,234 items"]
    assert counted(2, "search", "searches") == "2 searches"


def test_a_list_reads_as_in_a_sentence():
    assert [listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
