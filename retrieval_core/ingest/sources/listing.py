"""List the files of a dataset, local or on S3, and count those that no catalogue means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import polars as pl

from retrieval_core.errors import NotFound, SourceMissing
from retrieval_core.ingest.sources.base import DECEPTIVE, MAX_ITEM_ID_BYTES
from retrieval_core.ingest.sources.files import require_folder
from retrieval_core.item_ids.normal_form import normal_name
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import list_uris

# Files and folders, at any depth, that systems, NAS boxes and archivers leave behind; hidden ones begin with a dot.
LEFT_BEHIND = re.compile(
    r"\..*|@eadir|@recycle|@recently-snapshot|@tmp|@sharebin|#recycle|#snapshot|\$recycle\.bin|recycler|recycled"
    r"|system volume information|lost\+found|__macosx|network trash folder|temporary items|synofile_thumb_.*"
    r"|synophoto_thumb_.*|(eh)?thumbs\.db|desktop\.ini|icon\r",
    re.IGNORECASE,
)
ODD_NAME = "with a name that is no plain UTF-8 text of at most 1,024 bytes"
MAX_NAMED = 5  # suffixes or folders in a note


class Listing(NamedTuple):
    """The paths and stats of files below a folder, and how many others were passed over for which reason."""

    paths: list[str]
    stats: list[UriStat]
    passed_over: Counter[str]


def list_dataset(root: str, spec: str, skip: Sequence[str] = ()) -> Listing:
    """List the files below `root` but those left behind by systems, oddly named ones and those that match `skip`.

    Raises `SourceMissing` when `root` is not a folder, `Permanent` for a folder of pictures that may not be read.
    """
    require_folder(root, spec)
    skip = [normal_name(pattern) for pattern in skip]
    folder = root.rstrip("/") + "/"

    def is_passed_over(uri: str) -> bool:
        return _reason_to_pass(uri.removeprefix(folder), skip) is not None

    try:
        files = [(uri.removeprefix(folder), stat) for uri, stat in list_uris(root, is_passed_over)]
    except NotFound as error:
        raise SourceMissing(f"{spec}: {error}") from error
    texts = pl.Series([path.encode(errors="replace").decode() for path, _ in files], dtype=pl.String)
    listing = Listing([], [], Counter())
    for (path, stat), is_deceptive in zip(files, texts.str.contains(DECEPTIVE), strict=True):
        reason = ODD_NAME if is_deceptive else _reason_to_pass(path, skip)
        if reason is None:
            listing.paths.append(path)
            listing.stats.append(stat)
        else:
            listing.passed_over[reason] += 1
    return listing


def is_left_behind(path: str) -> bool:
    """Return whether a file, or a folder above it, is hidden or left behind by a system, a NAS box or an archiver."""
    return any(LEFT_BEHIND.fullmatch(part) for part in path.split("/"))


def passed_over_notes(passed_over: Counter[str]) -> tuple[str, ...]:
    """Return a line that counts the files passed over by their reasons, none without such files."""
    if not passed_over:
        return ()
    return (f"{counted(passed_over.total(), 'file')} passed over: {named_counts(dict(passed_over.most_common()))}",)


def counted(n: int, noun: str) -> str:
    """Return a number and its noun: 1 file, 2,000 files, 3 categories."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def named_counts(counts: Mapping[str, int]) -> str:
    """Return the first counts with their names, and how many more there are."""
    named = [f"{n:,} {name}" for name, n in list(counts.items())[:MAX_NAMED]]
    rest = len(counts) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")


def _reason_to_pass(path: str, skip: Sequence[str]) -> str | None:
    if is_left_behind(path):
        return "hidden, or left behind by a system or a NAS"
    if not _is_text(path):
        return ODD_NAME
    return "that match skip" if any(fnmatchcase(normal_name(path), pattern) for pattern in skip) else None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # a lone surrogate stands for a byte that is not UTF-8
        return False
    return 0 < len(normal_name(path).encode()) <= MAX_ITEM_ID_BYTES
