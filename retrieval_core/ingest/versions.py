"""The version of a picture, by which a later run knows without reading it that it has not changed."""

from __future__ import annotations

from typing import NamedTuple, Self

from retrieval_core.store.base import UriStat

_ROW, _FRESH = "row ", "fresh until "


class PictureVersion(NamedTuple):
    """What tells whether a picture has changed, as the column `version` of a catalogue holds it.

    `file` is the version of its file, "" if a web server tells none. `mask` is "" without a mask, else the size and
    version of its mask's file, or "none" where that is missing. `row` is the version that the source gives its row, ""
    if it gives none. Until `fresh_until_s`, in seconds since 1970, the file need not be asked for.
    """

    file: str = ""
    mask: str = ""
    row: str = ""
    fresh_until_s: int = 0

    @classmethod
    def parse(cls, text: str, has_mask: bool) -> Self:
        """Return the version that `as_text` wrote."""
        first, *lines = text.split("\n")
        file, _, mask = first.rpartition("+") if has_mask else (first, "", "")
        row = next((line.removeprefix(_ROW) for line in lines if line.startswith(_ROW)), "")
        fresh = next((line.removeprefix(_FRESH) for line in lines if line.startswith(_FRESH)), "0")
        return cls(file, mask, row, int(fresh))

    @classmethod
    def of(cls, stat: UriStat, mask: UriStat | None, has_mask: bool, row: str) -> Self:
        """Return the version of a picture by the stat of its file and of its mask; `mask` is None if it is missing."""
        if not has_mask:
            return cls(stat.version, "", row, stat.fresh_until_s)
        if mask is None:
            return cls(stat.version, "none", row, stat.fresh_until_s)
        is_known = stat.version and mask.version
        return cls(stat.version if is_known else "", f"{mask.size_bytes}-{mask.version}", row, stat.fresh_until_s)

    def as_text(self) -> str | None:
        """Return the version as text; null where nothing tells whether the picture has changed."""
        if not self.file and not self.row:
            return None
        lines = [f"{self.file}+{self.mask}" if self.mask else self.file]
        lines += [f"{_ROW}{self.row}"] * bool(self.row)
        lines += [f"{_FRESH}{self.fresh_until_s}"] * bool(self.fresh_until_s)
        return "\n".join(lines)
