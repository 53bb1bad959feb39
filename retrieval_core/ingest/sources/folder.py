"""`folder:PATH`: pictures in folders, local or `s3://`, one folder per category."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.catalog_rows import SPLITS
from retrieval_core.errors import SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import IMAGE_SUFFIXES, absolute_uri, is_picture, list_source_files


class FolderSource(Maskless):
    """Pictures below a folder: `[split/]category/….jpg`, or without folders.

    The item_id is the path below the folder. When every picture lies below a folder named train, val, query, gallery or
    test, the first level is the split and the second the category; otherwise the first level is the category. Hidden
    files and folders are skipped.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"folder:{uri}"
        self._root = absolute_uri(uri)
        self._item_ids = [path for path, _ in list_source_files(self._root, self.spec) if is_picture(path)]
        if not self._item_ids:
            raise SourceMissing(f"{self.spec} holds no picture ({', '.join(IMAGE_SUFFIXES)})")

    def rows(self) -> pl.DataFrame:
        folders = pl.col("item_id").str.split("/").list.slice(0, pl.col("item_id").str.count_matches("/"))
        paths = pl.DataFrame({"item_id": self._item_ids}).with_columns(folders.alias("folders"))
        top = pl.col("folders").list.get(0, null_on_oob=True)
        has_splits = bool(paths.select(top.is_in(SPLITS).fill_null(False).all()).item())
        frame = paths.select(
            "item_id",
            (self._root + "/" + pl.col("item_id")).alias("image_uri"),
            (top if has_splits else pl.lit(None, pl.String)).alias("split"),
            pl.col("folders").list.get(1 if has_splits else 0, null_on_oob=True).alias("category"),
        )
        return conform(frame, self.spec)
