"""`folder:PATH`: pictures in folders, local or `s3://`, one folder per category."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import CatalogInvalid, NotFound, Permanent, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import absolute_uri, split_query
from retrieval_core.ingest.sources.listing import counted, list_dataset, named_counts, passed_over_notes
from retrieval_core.picture_files.formats import HEAD_BYTES, SUFFIXES, is_picture_head
from retrieval_core.store.traffic import counting
from retrieval_core.store.uris import is_remote, read_uri

# Each is read at every run; on S3, 100,000 requests take about a minute and cost a few cents.
MAX_WITHOUT_SUFFIX = 100_000
READERS = 32  # requests to S3 at a time
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "evaluation": "val",
    "test": "test", "testing": "test", "testset": "test",
    "query": "query", "queries": "query",
    "gallery": "gallery",
}  # fmt: skip


class FolderQuery(Value):
    """The query of the URI: patterns of the paths to pass over, separated by `|`; `*` also stands for slashes."""

    skip: str = ""


class FolderSource(Maskless):
    """Pictures below a folder: `[split/]category/….jpg`, or without folders.

    The item_id is the path below the folder. When every picture lies below a folder named like a split (`SPLIT_FOLDERS`
    in any case), the first level is the split and the second the category; otherwise the first level is the category.
    Files without a suffix are recognised by their first bytes. `folder:PATH?skip=drafts/*|*_thumb.jpg` passes over more
    files. `notes` count what was passed over, and name the splits and categories.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"folder:{uri}"
        folder, query = split_query(uri, FolderQuery, self.spec) if "?skip=" in uri else (uri, FolderQuery())
        self._root = absolute_uri(folder)
        try:
            listing = list_dataset(self._root, self.spec, [pattern for pattern in query.skip.split("|") if pattern])
        except Permanent as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            raise Permanent(f"{error}, or pass it over with {self.spec.partition('?')[0]}?skip=NAME/*") from error
        self._item_ids = self._pictures(listing.paths, listing.passed_over)
        self.notes, self.n_passed_over = passed_over_notes(listing.passed_over), listing.passed_over.total()
        stats = dict(zip(listing.paths, listing.stats, strict=True)) if is_remote(self._root) else {}
        self._stats = [stats[path] for path in self._item_ids] if stats else []
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
        if self._stats:  # S3's listing tells them, so that no picture has to be asked for
            sizes, versions = zip(*(stat[:2] for stat in self._stats), strict=True)
            frame = frame.with_columns(size_bytes=pl.Series(sizes), version=pl.Series(versions))
        return conform(frame, self.spec)

    def _pictures(self, paths: list[str], passed_over: Counter[str]) -> list[str]:
        """Return the paths of pictures, by suffix or first bytes, and count the others in `passed_over`.

        Raises `CatalogInvalid` for more files without a suffix than are read.
        """
        suffixes = {path: path.rpartition("/")[2].lower().rpartition(".")[1:] for path in paths}
        bare = [path for path, (dot, _) in suffixes.items() if not dot]
        if len(bare) > MAX_WITHOUT_SUFFIX:
            raise CatalogInvalid(
                f"{self.spec} holds {counted(len(bare), 'file')} without a suffix, e.g. {bare[0][:80]!r}; at most "
                f"{MAX_WITHOUT_SUFFIX:,} are read to see whether they are pictures: pass over others with ?skip=, or "
                "list the pictures in a table:"
            )
        with ThreadPoolExecutor(READERS) as pool:
            is_picture = dict(zip(bare, pool.map(counting(self._begins_as_picture), bare), strict=True))
        pictures = []
        for path, (dot, suffix) in suffixes.items():
            if is_picture[path] if not dot else f".{suffix}" in SUFFIXES:
                pictures.append(path)
            else:
                passed_over[f"of type .{suffix[:20]}" if dot else "without a suffix that are no pictures"] += 1
        return pictures

    def _begins_as_picture(self, path: str) -> bool:
        try:
            return is_picture_head(read_uri(f"{self._root}/{path}", HEAD_BYTES))
        except NotFound:  # deleted since it was listed, or no regular file
            return False

    def _layout_notes(self, rows: pl.DataFrame) -> tuple[str, ...]:
        splits = _counts(rows["split"])
        categories = _counts(rows["category"])
        notes = [f"splits: {named_counts(splits)}"] if splits else []
        notes.append(
            f"{counted(len(categories), 'category')}: {named_counts(categories)}" if categories else "no categories"
        )
        if likely := [name for name in categories if name.lower() in SPLIT_FOLDERS]:
            notes.append(
                f"warning: the categories {', '.join(sorted(likely))} look like splits; folders are splits only where "
                "every picture lies in one, so move or skip the others"
            )
        return tuple(notes)


def _counts(column: pl.Series) -> dict[str, int]:
    """Return how often each value occurs, the most frequent first."""
    return dict(sorted(Counter(column.drop_nulls()).items(), key=lambda pair: (-pair[1], pair[0])))
