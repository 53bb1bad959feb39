"""`folder:PATH`: pictures in folders, local or `s3://`, one folder per class."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import SPLITS
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import IMAGE_SUFFIXES, conform
from retrieval_core.store.uris import list_uris


class FolderSource:
    """Pictures under a folder: `[split/]class/….jpg`, or flat.

    The item_id is the path below the folder. When every picture lies under a folder named train, val, query, gallery or
    test, that level is the split; the next level is the category. Hidden files and folders are passed over.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"folder:{uri}"
        self._root = absolute_uri(uri)
        self._item_ids = [path for path, _ in list_files(self._root, self.spec) if is_picture(path)]
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

    def read_mask(self, mask_uri: str) -> Bool:
        raise NotFound(f"{self.spec} has no masks, so none at {mask_uri}; a table: source can name them")


def absolute_uri(uri: str) -> str:
    """A local path made absolute, so that a catalogue means the same from any working folder; no trailing slash."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def list_files(root: str, spec: str) -> list[tuple[str, str]]:
    """(path below `root`, URI) of every file.

    Raises `SourceMissing` when `root` is no folder, `CatalogInvalid` for a name that is no text.
    """
    if "://" not in root and not Path(root).is_dir():
        raise SourceMissing(f"{spec}: {root} is not a folder; check the path")
    try:
        files = [(uri.removeprefix(root.rstrip("/") + "/"), uri) for uri, _ in list_uris(root)]
    except NotFound as error:
        raise SourceMissing(f"{spec}: {error}") from error
    if not_text := [uri for _, uri in files if any("\ud800" <= character <= "\udfff" for character in uri)]:
        raise CatalogInvalid(f"{spec}: the file name {not_text[0]!r} is not UTF-8; rename the file")
    return files


def is_picture(path: str) -> bool:
    """Whether a relative posix path looks like a picture that nobody hid."""
    return path.lower().endswith(IMAGE_SUFFIXES) and not any(part.startswith(".") for part in path.split("/"))
