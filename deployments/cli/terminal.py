"""Text for a terminal: control characters in it are shown and never obeyed."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable

from retrieval_core.errors import VitrineError

# Control characters and line ends, marks that change the writing direction, and lone surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Escape everything that a terminal would obey as in a Python string, for example `\\x1b`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def visible_lines(lines: Iterable[str]) -> str:
    """Join `lines` with line ends after escaping each, so that each stays one line."""
    return "\n".join(map(visible, lines))


def one_line(error: Exception | str) -> str:
    """Replace every run of white space in a message, line ends included, by one space."""
    return " ".join(str(error).split())


def print_error(error: VitrineError) -> int:
    """Print an error as one line on stderr and return its exit code."""
    print(f"vitrine: {visible(one_line(error))}", file=sys.stderr)
    return error.exit_code


def escape_unprintable() -> None:
    """Escape from now on what the encoding of stdout or stderr lacks, for example `\\u6771` on an ASCII terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
