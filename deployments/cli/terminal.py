"""What a terminal is given: a catalogue's words are shown there, never obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Control characters, line ends among them; marks that turn the direction of what follows; halves of a character.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with what a terminal would obey spelt out as in a Python string: `\\x1b` for the escape character."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(lines: Iterable[str]) -> str:
    """One line for each of `lines`, whatever line ends it holds."""
    return "\n".join(map(visible, lines))
