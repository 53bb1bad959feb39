"""The value of a field, read from the text that a shop wrote: an amount of money, a number, a date, or text.

Amounts and numbers may be written as in English (1,299.00), German (1.299,00), French (1 299,00) or Swiss (1'299.00). A
single separator before three digits says thousands in an amount (1.299 €), unless its currency has three decimals.
Without a currency such a point is a decimal point, and such a comma can be either, so that the value stays text; so
does one with a leading zero or more than 15 digits, which is an identifier.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

TEXT_FIELDS = ("title", "link", "brand", "availability")  # always text
FIELDS = (*TEXT_FIELDS, "price", "sale_price")  # columns of these names are fields in any table
MAX_DIGITS = 15  # that a 64-bit float keeps
MAX_VALUE_CHARS = 60  # of a number or a date

# https://www.six-group.com/en/products-services/financial-information/data-standards.html, ISO 4217, without metals
CODES = (
    "AED|AFN|ALL|AMD|AOA|ARS|AUD|AWG|AZN|BAM|BBD|BDT|BGN|BHD|BIF|BMD|BND|BOB|BRL|BSD|BTN|BWP|BYN|BZD|CAD|CDF|CHF|CLP|"
    "CNY|COP|CRC|CUP|CVE|CZK|DJF|DKK|DOP|DZD|EGP|ERN|ETB|EUR|FJD|FKP|GBP|GEL|GHS|GIP|GMD|GNF|GTQ|GYD|HKD|HNL|HTG|HUF|"
    "IDR|ILS|INR|IQD|IRR|ISK|JMD|JOD|JPY|KES|KGS|KHR|KMF|KPW|KRW|KWD|KYD|KZT|LAK|LBP|LKR|LRD|LSL|LYD|MAD|MDL|MGA|MKD|"
    "MMK|MNT|MOP|MRU|MUR|MVR|MWK|MXN|MYR|MZN|NAD|NGN|NIO|NOK|NPR|NZD|OMR|PAB|PEN|PGK|PHP|PKR|PLN|PYG|QAR|RON|RSD|RUB|"
    "RWF|SAR|SBD|SCR|SDG|SEK|SGD|SHP|SLE|SOS|SRD|SSP|STN|SVC|SYP|SZL|THB|TJS|TMT|TND|TOP|TRY|TTD|TWD|TZS|UAH|UGX|USD|"
    "UYU|UZS|VES|VND|VUV|WST|XAF|XCD|XOF|XPF|YER|ZAR|ZMW|ZWG"
)
# A sign that several currencies share, such as $, stands for itself.
SIGNS = {
    "€": "EUR", "£": "GBP", "₹": "INR", "₽": "RUB", "₺": "TRY", "₩": "KRW", "₴": "UAH", "₪": "ILS", "₫": "VND",
    "฿": "THB", "zł": "PLN", "Kč": "CZK", "Ft": "HUF", "R$": "BRL", "US$": "USD", "CA$": "CAD", "A$": "AUD",
    "$": "$", "¥": "¥", "kr": "kr",
}  # fmt: skip
THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

_CURRENCY = "|".join([CODES, *(re.escape(sign) for sign in sorted(SIGNS, key=len, reverse=True))])
_AMOUNT = re.compile(
    rf"(?P<before>{_CURRENCY})?\s*(?P<number>-?[0-9][0-9 .,'\u2019\u00a0\u2009\u202f]*)(?P<after>{_CURRENCY})?"
)
_GROUPED = re.compile(r"([0-9]{1,3})(?:([ .,'\u2019\u00a0\u2009\u202f])[0-9]{3})(?:\2[0-9]{3})*(?:(?!\2)[.,][0-9]+)?")
_PLAIN = re.compile(r"(?:0|[1-9][0-9]*)(?:[.,][0-9]+)?")
_THREE = re.compile(r"[1-9][0-9]{0,2}([.,])[0-9]{3}")  # thousands, or three decimals
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_GERMAN_DATE = re.compile(r"(\d\d)\.(\d\d)\.(\d{4})", re.ASCII)


class FieldValue(NamedTuple):
    """The text of a value, and what it says: a number, with a currency if it is an amount, or a moment in UTC."""

    text: str
    number: float | None = None
    currency: str | None = None
    moment: datetime | None = None


def parse_value(text: str) -> FieldValue:
    """Return the value of a text; one that is no amount, number or date has only its text."""
    stripped = text.strip()
    if len(stripped) > MAX_VALUE_CHARS:
        return FieldValue(text)
    number, currency = _amount(stripped)
    return FieldValue(text, number, currency, _moment(stripped) if number is None else None)


Json = str | int | float | dict[str, str | int | float]


def as_json(value: FieldValue) -> Json:
    """Return a value for JSON: text, a number, a date in ISO 8601, or an amount with its currency and its text."""
    if value.number is not None:
        number = int(value.number) if value.number.is_integer() else value.number
        return {"amount": number, "currency": value.currency, "text": value.text} if value.currency else number
    if value.moment is None:
        return value.text
    is_day = not any((value.moment.hour, value.moment.minute, value.moment.second, value.moment.microsecond))
    return value.moment.date().isoformat() if is_day else f"{value.moment.isoformat()}Z"


def shown(value: Json) -> str:
    """Return a value of `as_json` as people read it: an amount as the shop wrote it."""
    return str(value["text"] if isinstance(value, dict) else value)


def _amount(text: str) -> tuple[float | None, str | None]:
    """Return the number of a text and its currency, None where the text has none."""
    match = _AMOUNT.fullmatch(text)
    if match is None or (match["before"] and match["after"]):
        return None, None
    sign = match["before"] or match["after"]
    currency = SIGNS.get(sign, sign)
    number = _number(match["number"].strip(), currency)
    return number, currency if number is not None else None


def _number(text: str, currency: str | None) -> float | None:
    digits = text.removeprefix("-")
    three = _THREE.fullmatch(digits)
    if three and currency is None and three[1] == ",":
        return None
    is_decimal = three is not None and (currency is None or currency in THREE_DECIMALS)
    grouped = None if is_decimal else _GROUPED.fullmatch(digits)
    if grouped and not grouped[1].startswith("0"):
        digits = digits.replace(grouped[2], "")
    elif not _PLAIN.fullmatch(digits):
        return None
    if sum(map(str.isdigit, digits)) > MAX_DIGITS:
        return None
    number = float(digits.replace(",", "."))
    return -number if text.startswith("-") else number


def _moment(text: str) -> datetime | None:
    if match := _GERMAN_DATE.fullmatch(text):
        text = f"{match[3]}-{match[2]}-{match[1]}"
    elif not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return None
