"""The values of fields: what shops write as amounts, numbers and dates, and what stays text."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.fields.values import CODES, THREE_DECIMALS, FieldValue, as_json, parse_value

# How the thousands and the decimals of a number are separated.
STYLES = [("", "."), ("", ","), (",", "."), (".", ","), (" ", ","), ("'", "."), ("\u202f", ","), ("\u00a0", ",")]


@given(
    cents=st.integers(0, 99_999_999),
    style=st.sampled_from(STYLES),
    currency=st.sampled_from([code for code in CODES.split("|") if code not in THREE_DECIMALS]),
    form=st.sampled_from(["{0}", "{0} {1}", "{1} {0}", "{0}{1}", "{1}{0}", " {0}\u00a0{1} "]),
)
def test_an_amount_is_read_however_a_country_writes_it(
    cents: int, style: tuple[str, str], currency: str, form: str
) -> None:
    thousands, decimal = style
    written = f"{cents // 100:,}".replace(",", thousands) + decimal + f"{cents % 100:02}"
    value = parse_value(form.format(written, currency))
    assert value.number == cents / 100
    assert value.currency == (currency if "{1}" in form else None)
    assert value.text == form.format(written, currency)


@pytest.mark.parametrize(
    ("text", "number", "currency"),
    [
        ("1.299,00 €", 1299, "EUR"), ("EUR 19,99", 19.99, "EUR"), ("£5", 5, "GBP"), ("$19.99", 19.99, "$"),
        ("US$ 5", 5, "USD"), ("99,00 zł", 99, "PLN"), ("-5 €", -5, "EUR"), ("0", 0, None), ("2026", 2026, None),
        ("1.299 €", 1299, "EUR"), ("1,299 USD", 1299, "USD"), ("12.500 KWD", 12.5, "KWD"), ("0,999 €", 0.999, "EUR"),
        ("1.299", 1.299, None), ("4006381333931", 4006381333931, None),
    ],
)  # fmt: skip
def test_a_separator_before_three_digits_is_read_by_the_currency(
    text: str, number: float, currency: str | None
) -> None:
    assert parse_value(text) == FieldValue(text, number, currency)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "on request", "1,299", "007", "30 GSM", "19.99 EUR USD", "EUR 5 USD", "19.99 - 29.99 EUR", "10%",
        "1e5", "nan", "inf", "1 2 3", "1.2.3", "1.29.9", "12.34,5.6", "\u0662", "1234567890123456", "EUR",
        "5 eur", "2026-13-01", "2026-02-30", "30.02.2026", "9999-12-31T23:59-12:00",
        "2026-03-01/2026-03-08", "9" * 10_000, "1," * 5_000,
    ],
)  # fmt: skip
def test_what_is_no_number_or_date_stays_text(text: str) -> None:
    assert parse_value(text) == FieldValue(text)
    assert as_json(parse_value(text)) == text


@pytest.mark.parametrize(
    ("text", "moment", "shown"),
    [
        ("2026-03-01", datetime(2026, 3, 1), "2026-03-01"),
        ("01.03.2026", datetime(2026, 3, 1), "2026-03-01"),
        ("2026-03-01T12:00+01:00", datetime(2026, 3, 1, 11), "2026-03-01T11:00:00Z"),
        ("2026-03-01 12:30:05", datetime(2026, 3, 1, 12, 30, 5), "2026-03-01T12:30:05Z"),
    ],
)
def test_a_date_is_a_moment_in_utc(text: str, moment: datetime, shown: str) -> None:
    assert parse_value(text) == FieldValue(text, moment=moment)
    assert as_json(parse_value(text)) == shown


def test_json_shows_a_number_as_one_and_an_amount_with_its_currency_and_text() -> None:
    assert as_json(parse_value("19,90")) == 19.9
    assert as_json(parse_value("1.299,00 €")) == {"amount": 1299, "currency": "EUR", "text": "1.299,00 €"}


@given(st.text())
def test_any_text_has_a_value(text: str) -> None:
    value = parse_value(text)
    assert value.text == text
    assert value.currency is None or value.number is not None
    assert value.number is None or value.moment is None
