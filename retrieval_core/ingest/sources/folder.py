"""`folder:PATH`: pictures in folders, local or `s3://`, one folder per category."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import SourceMissing
from retrieval_core.ingest.sources.base import DECEPTIVE, MAX_ITEM_ID_BYTES, Maskless, conform
from retrieval_core.ingest.sources.files import absolute_uri, list_files, split_query
from retrieval_core.picture_files.formats import HEAD_BYTES, SUFFIXES, is_picture_head

# Files and folders, at any depth, that systems, NAS boxes and archivers leave behind; hidden ones begin with a dot.
LEFT_BEHIND = re.compile(
    r"\..*|@eadir|@recycle|@recently-snapshot|@tmp|@sharebin|#recycle|#snapshot|\$recycle\.bin|recycler|recycled"
    r"|system volume information|lost\+found|__macosx|network trash folder|temporary items|synofile_thumb_.*"
    r"|synophoto_thumb_.*|(eh)?thumbs\.db|desktop\.ini|icon\r",
    re.IGNORECASE,
)
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "evaluation": "val",
    "test": "test", "testing": "test", "testset": "test",
    "query": "query", "queries": "query",
    "gallery": "gallery",
}  # fmt: skip
ODD_NAME = "with a name that is no plain UTF-8 text of at most 1,024 bytes"
MAX_NAMED = 5  # suffixes or folders in a note


class FolderQuery(Value):
    """The query of the URI: patterns of the paths to pass over, separated by `|`; `*` also stands for slashes."""

    skip: str = ""


class FolderSource(Maskless):
    """Pictures below a folder: `[split/]category/….jpg`, or without folders.

    The item_id is the path below the folder. When every picture lies below a folder named like a split (`SPLIT_FOLDERS`
    in any case), the first level is the split and the second the category; otherwise the first level is the category.
    Files without a suffix are recognised by their bytes, local ones only. `folder:PATH?skip=drafts/*|*_thumb.jpg`
    passes over more files. `notes` count what was passed over, and name the splits and categories.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"folder:{uri}"
        folder, query = split_query(uri, FolderQuery, self.spec) if "?skip=" in uri else (uri, FolderQuery())
        self._root = absolute_uri(folder)
        patterns = tuple(pattern for pattern in query.skip.split("|") if pattern)
        passed_over: Counter[str] = Counter()
        self._item_ids: list[str] = []
        paths = list_files(self._root, self.spec)
        is_deceptive = pl.Series(
            [path.encode(errors="replace").decode() for path in paths], dtype=pl.String
        ).str.contains(DECEPTIVE)
        for path, is_bad in zip(paths, is_deceptive, strict=True):
            reason = ODD_NAME if is_bad else self._reason_to_pass(path, patterns)
            if reason is None:
                self._item_ids.append(path)
            else:
                passed_over[reason] += 1
        self.notes = _passed_over_notes(passed_over)
        if not self._item_ids:
            raise SourceMissing("; ".join((f"{self.spec} holds no picture ({', '.join(SUFFIXES)})", *self.notes)))
        self.notes += self._layout_notes(self.rows())

    def rows(self) -> pl.DataFrame:
        folders = pl.col("item_id").str.split("/").list.slice(0, pl.col("item_id").str.count_matches("/"))
        paths = pl.DataFrame({"item_id": self._item_ids}).with_columns(folders.alias("folders"))
        top = pl.col("folders").list.get(0, null_on_oob=True)
        split = top.str.to_lowercase().replace_strict(SPLIT_FOLDERS, default=None, return_dtype=pl.String)
        has_splits = bool(paths.select(split.is_not_null().all()).item())
        frame = paths.select(
            "item_id",
            (self._root + "/" + pl.col("item_id")).alias("image_uri"),
            (split if has_splits else pl.lit(None, pl.String)).alias("split"),
            pl.col("folders").list.get(1 if has_splits else 0, null_on_oob=True).alias("category"),
        )
        return conform(frame, self.spec)

    def _reason_to_pass(self, path: str, patterns: Iterable[str]) -> str | None:
        """Return why a file is no item of the catalogue, None for a picture."""
        if any(LEFT_BEHIND.fullmatch(part) for part in path.split("/")):
            return "hidden, or left behind by a system or a NAS"
        if not _is_text(path):
            return ODD_NAME
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            return "that match skip"
        name = path.rpartition("/")[2].lower()
        if "." in name:
            return None if name.endswith(SUFFIXES) else f"of type .{name.rpartition('.')[2][:20]}"
        return None if self._begins_as_picture(path) else "without a suffix that are no local pictures"

    def _begins_as_picture(self, path: str) -> bool:
        if "://" in self._root:
            return False
        try:
            with Path(self._root, path).open("rb") as file:
                return is_picture_head(file.read(HEAD_BYTES))
        except OSError:
            return False

    def _layout_notes(self, rows: pl.DataFrame) -> tuple[str, ...]:
        splits = _counts(rows["split"])
        categories = _counts(rows["category"])
        notes = [f"splits: {_named(splits)}"] if splits else []
        notes.append(f"{len(categories)} categories: {_named(categories)}" if categories else "no categories")
        if likely := [name for name in categories if name.lower() in SPLIT_FOLDERS]:
            notes.append(
                f"warning: the categories {', '.join(sorted(likely))} look like splits; folders are splits only where "
                "every picture lies in one, so move or skip the others"
            )
        return tuple(notes)


def _is_text(path: str) -> bool:
    try:
        n_bytes = len(path.encode())
    except UnicodeEncodeError:  # a lone surrogate stands for a byte that is not UTF-8
        return False
    return n_bytes <= MAX_ITEM_ID_BYTES


def _passed_over_notes(passed_over: Counter[str]) -> tuple[str, ...]:
    if not passed_over:
        return ()
    return (f"{passed_over.total()} files passed over: {_named(dict(passed_over.most_common()))}",)


def _counts(column: pl.Series) -> dict[str, int]:
    """Return how often each value occurs, the most frequent first."""
    return dict(sorted(Counter(column.drop_nulls()).items(), key=lambda pair: (-pair[1], pair[0])))


def _named(counts: dict[str, int]) -> str:
    named = [f"{n:,} {name}" for name, n in list(counts.items())[:MAX_NAMED]]
    rest = len(counts) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
