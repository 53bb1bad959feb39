"""A synthetic catalogue is drawn once, the same anywhere, and then belongs to its users."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig, CatalogInvalid, ImageRefused, NotFound, SourceMissing
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.ingest.sources.synthetic import SyntheticSource

QUERY = "products=10&views=2&seed=3&size_px=64"


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    SyntheticSource(f"{folder}?{QUERY}").rows()
    return folder


@pytest.fixture
def folder(drawn_once: Path, tmp_path: Path) -> Path:
    """A drawn catalogue that a test may damage."""
    return Path(shutil.copytree(drawn_once, tmp_path / "catalogue"))


def rows_of(folder: Path, query: str = QUERY) -> pl.DataFrame:
    return SyntheticSource(f"{folder}?{query}").rows()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its relative path, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The table


def test_rows_follow_the_source_schema(folder: Path) -> None:
    rows = rows_of(folder)
    assert dict(rows.schema) == SOURCE_SCHEMA
    assert rows["item_id"].to_list() == [f"p{product:04d}-v{view}" for product in range(10) for view in range(2)]
    assert rows["split"].null_count() == len(rows)
    assert all(Path(uri).is_file() for uri in rows["image_uri"])


def test_the_source_is_opened_by_its_kind(folder: Path) -> None:
    spec = f"synthetic:{folder}?{QUERY}"
    assert open_source(spec).spec == spec
    assert open_source(spec).rows().equals(rows_of(folder))


def test_views_of_a_product_share_its_words_and_no_picture(folder: Path) -> None:
    words = rows_of(folder).group_by("product_id").agg(pl.col("category", "labels", "attributes").n_unique(), pl.len())
    assert words.select("category", "labels", "attributes").unique().rows() == [(1, 1, 1)]
    assert len(set(contents(folder / "images").values())) == 20


# The same everywhere


def test_two_folders_and_two_thread_counts_hold_the_same_bytes(drawn_once: Path, tmp_path: Path) -> None:
    SyntheticSource(f"{tmp_path}?{QUERY}", n_threads=1).rows()
    assert contents(tmp_path) == contents(drawn_once)


def test_a_picture_does_not_depend_on_how_many_others_are_drawn(drawn_once: Path, tmp_path: Path) -> None:
    rows_of(tmp_path, "products=3&views=1&seed=3&size_px=64")
    few, many = contents(tmp_path / "images"), contents(drawn_once / "images")
    assert few == {name: many[name] for name in ("p0000-v0.jpg", "p0001-v0.jpg", "p0002-v0.jpg")}


def test_another_seed_draws_other_pictures(drawn_once: Path, tmp_path: Path) -> None:
    rows_of(tmp_path, "products=3&views=1&seed=4&size_px=64")
    assert not set(contents(tmp_path / "images").values()) & set(contents(drawn_once / "images").values())


def test_reading_again_touches_no_file(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    first = rows_of(folder)
    assert rows_of(folder).equals(first)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_no_unfinished_file_is_left_behind(folder: Path) -> None:
    assert not [name for name in contents(folder) if Path(name).name.startswith(".")]


# Masks


def test_the_stored_mask_has_the_size_of_the_picture_and_is_neither_empty_nor_full(folder: Path) -> None:
    source = SyntheticSource(f"{folder}?{QUERY}")
    for image_uri, mask_uri in source.rows().select("image_uri", "mask_uri").iter_rows():
        mask = source.read_mask(mask_uri)
        with Image.open(image_uri) as picture:
            assert (mask.dtype, mask.shape, picture.size, picture.format) == (np.bool_, (64, 64), (64, 64), "JPEG")
        assert 0.02 < mask.mean() < 0.9


# A folder that people change


def test_a_deleted_picture_disappears_from_the_rows_and_stays_away(folder: Path) -> None:
    (folder / "images" / "p0004-v1.jpg").unlink()
    for _ in range(2):
        item_ids = rows_of(folder)["item_id"].to_list()
        assert len(item_ids) == 19
        assert "p0004-v1" not in item_ids


def test_a_replaced_or_damaged_picture_is_left_as_it_is(folder: Path) -> None:
    (folder / "images" / "p0001-v0.jpg").write_bytes(b"no picture")
    assert len(rows_of(folder)) == 20
    assert (folder / "images" / "p0001-v0.jpg").read_bytes() == b"no picture"


def test_a_picture_whose_mask_was_deleted_has_none(folder: Path) -> None:
    (folder / "masks" / "p0001-v0.png").unlink()
    assert rows_of(folder).filter(pl.col("mask_uri").is_null())["item_id"].to_list() == ["p0001-v0"]


def test_a_damaged_or_absent_mask_is_refused_by_name(folder: Path) -> None:
    source = SyntheticSource(f"{folder}?{QUERY}")
    path = folder / "masks" / "p0001-v0.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageRefused, match="p0001-v0"):
        source.read_mask(str(path))
    path.unlink()
    with pytest.raises(NotFound):
        source.read_mask(str(path))


def test_a_folder_without_any_picture_left_is_an_empty_source(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    with pytest.raises(SourceMissing):
        rows_of(folder)


def test_interrupted_drawing_is_resumed(folder: Path) -> None:
    whole = contents(folder)
    (folder / "catalog.json").unlink()
    for path in sorted((folder / "images").iterdir())[::2]:
        path.unlink()
    (folder / "masks" / "p0000-v1.png").unlink()
    kept = folder / "images" / "p0001-v1.jpg"
    written_ns = kept.stat().st_mtime_ns
    assert len(rows_of(folder)) == 20
    assert contents(folder) == whole
    assert kept.stat().st_mtime_ns == written_ns


def test_asking_for_more_products_draws_only_the_new_ones(folder: Path) -> None:
    (folder / "images" / "p0002-v0.jpg").unlink()
    item_ids = rows_of(folder, "products=12&views=2&seed=3&size_px=64")["item_id"].to_list()
    assert len(item_ids) == 23
    assert "p0002-v0" not in item_ids
    assert item_ids[-1] == "p0011-v1"


def test_asking_for_fewer_lists_fewer_and_deletes_nothing(folder: Path) -> None:
    before = contents(folder)
    assert len(rows_of(folder, "products=4&views=1&seed=3&size_px=64")) == 4
    assert contents(folder) == before


@pytest.mark.parametrize("query", ["products=10&views=2&seed=4&size_px=64", "products=10&views=2&seed=3&size_px=96"])
def test_a_folder_of_another_seed_or_size_is_not_mixed(folder: Path, query: str) -> None:
    with pytest.raises(BadConfig, match="name another folder"):
        rows_of(folder, query)


def test_an_interrupted_folder_remembers_its_seed(folder: Path) -> None:
    record = json.loads((folder / "catalog.json").read_text())
    (folder / "catalog.json").write_text(json.dumps({**record, "drawn": []}))
    with pytest.raises(BadConfig, match="seed=3"):
        rows_of(folder, "products=10&views=2&seed=4&size_px=64")


def test_a_damaged_record_says_what_to_do(folder: Path) -> None:
    (folder / "catalog.json").write_text("{")
    with pytest.raises(CatalogInvalid, match="delete it"):
        rows_of(folder)


# Wrong usage


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "?products=3",
        "s3://bucket/drawn",
        "drawn?colour=red",
        "drawn?products=many",
        "drawn?products=0",
        "drawn?views=-1",
        "drawn?seed=-1",
        "drawn?size_px=9999",
        "drawn?size_px=",
        "drawn?products",
    ],
)
def test_a_wrong_uri_is_refused_before_anything_is_drawn(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfig):
        SyntheticSource(uri)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"colour.*products, views, seed, size_px"):
        SyntheticSource("drawn?colour=red")


def test_a_folder_that_cannot_be_made_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadConfig, match="cannot draw"):
        rows_of(tmp_path / "taken")


def test_the_defaults_are_three_hundred_products_in_four_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(SyntheticSource, "_draw", lambda self, items: drawn.extend(items))
    with pytest.raises(SourceMissing):
        SyntheticSource(str(tmp_path)).rows()
    assert len(drawn) == 1200
