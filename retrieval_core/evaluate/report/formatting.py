"""Numbers, sizes and times as text for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
SMALLEST_SHOWN = 0.0005  # a smaller number is 0.000 with three decimals


def number(value: float | None) -> str:
    """Write a metric with three decimals; a dash if it is None or not finite."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Write a difference of metrics as +0.012, with a true minus sign; without a sign if it rounds to zero."""
    if abs(value) < SMALLEST_SHOWN:
        return "0.000"
    return f"{'+' if value > 0 else MINUS}{abs(value):.3f}"


def percent(share: float) -> str:
    """Write a share, 0 to 1, as 4.2%; 0% and 100% stand only for exactly none and all."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    if text == "0" and share > 0:
        return "under 0.1%"
    return "over 99.9%" if text == "100" and share < 1 else f"{text}%"


def counted(n: int, one: str, many: str = "") -> str:
    """Write a count with its noun: 1 item, 1,234 items; `many` is the plural where it is not `one` with an s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def listed(parts: Sequence[str]) -> str:
    """Join parts as a sentence does: a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def p_value(p: float | None) -> str:
    """Write a p value with two digits, never as 0; a dash if it is None or not finite."""
    if p is None or not math.isfinite(p):
        return NOTHING
    return "under 0.0001" if p < 0.0001 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """Write seconds as 0.28 s, 12.3 s, 4 min 12 s or 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes} min {s:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(n_bytes: float) -> str:
    """Write bytes in decimal units: 206 kB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def day(iso: str) -> str:
    """Write an ISO date as 21 November 2026; anything else is returned as it is."""
    when = _parse(iso)
    return f"{when.day} {when:%B %Y}" if when else iso


def moment(iso: str) -> str:
    """Write an ISO moment as Saturday 21 November 2026, 07:04 UTC; anything else is returned as it is."""
    when = _parse(iso)
    return f"{when:%A} {when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip() if when else iso


def short_moment(iso: str) -> str:
    """Write an ISO moment as 21 November, 07:04; anything else is returned as it is."""
    when = _parse(iso)
    return f"{when.day} {when:%B, %H:%M}" if when else iso


def _parse(iso: str) -> datetime | None:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None
