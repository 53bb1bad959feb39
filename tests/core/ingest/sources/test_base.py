"""`KIND:URI` names a source, and every source yields one checked table."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import conform
from retrieval_core.ingest.sources.folder import FolderSource
from retrieval_core.ingest.sources.registry import KINDS, open_source


@pytest.mark.parametrize("spec", ["", "folder", "folder:", ":pictures", "ftp:pictures", "pictures/summer", "FOLDER:x"])
def test_an_unknown_kind_is_a_bad_config_that_names_the_kinds(spec: str) -> None:
    with pytest.raises(BadConfig, match="folder, table, ccp, synthetic, inshop, fashion-products, mnist"):
        open_source(spec)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "synthetic"])
def test_an_absent_source_is_missing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        open_source(f"{kind}:{tmp_path / 'nowhere.csv'}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("table", "synthetic")])
def test_a_file_is_no_folder(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceMissing, match="is not a folder"):
        open_source(f"{kind}:{tmp_path / 'file'}")


def test_a_source_knows_its_spec(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    source = open_source(f"folder:{tmp_path}")
    assert isinstance(source, FolderSource)
    assert source.spec == f"folder:{tmp_path}"


class TestConform:
    def test_absent_columns_are_null_or_empty(self) -> None:
        rows = conform(pl.DataFrame({"item_id": ["a"], "image_uri": ["/a.jpg"]}), "here")
        assert dict(rows.schema) == SOURCE_SCHEMA
        assert rows.row(0) == ("a", "/a.jpg", None, None, None, None, [], [])

    def test_rows_are_ordered_by_id_and_other_columns_dropped(self) -> None:
        frame = pl.DataFrame({"note": [1, 2], "item_id": ["b", "a"], "image_uri": ["/b.jpg", "/a.jpg"]})
        rows = conform(frame, "here")
        assert rows["item_id"].to_list() == ["a", "b"]
        assert "note" not in rows.columns

    def test_empty_text_is_null(self) -> None:
        frame = pl.DataFrame({"item_id": ["a"], "image_uri": ["/a.jpg"], "product_id": [""], "split": [""]})
        assert conform(frame, "here").select("product_id", "split").row(0) == (None, None)

    def test_no_row_is_a_missing_source(self) -> None:
        with pytest.raises(SourceMissing, match="here is empty"):
            conform(pl.DataFrame(schema=SOURCE_SCHEMA), "here")

    @pytest.mark.parametrize(
        ("item_ids", "uris", "splits", "message"),
        [
            (["a", ""], ["/a", "/b"], [None, None], "1 rows have an empty item_id"),
            (["a", None], ["/a", "/b"], [None, None], "1 rows have an empty item_id"),
            (["a", "b"], ["/a", ""], [None, None], "1 rows have an empty image_uri"),
            (["a", "a"], ["/a", "/b"], [None, None], "1 item_ids occur more than once, e.g. 'a'"),
            (["a", "b"], ["/a", "/b"], ["train", "dev"], "item 'b' has split 'dev'; expected train, val, query"),
        ],
    )
    def test_a_broken_contract_is_told(
        self, item_ids: list[str], uris: list[str], splits: list[str], message: str
    ) -> None:
        frame = pl.DataFrame({"item_id": item_ids, "image_uri": uris, "split": splits})
        with pytest.raises(CatalogInvalid, match=message):
            conform(frame, "here")
