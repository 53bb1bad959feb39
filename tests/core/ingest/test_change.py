from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval_core.artifacts import catalog_rows
from retrieval_core.artifacts.catalog_rows import row_id
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import CatalogInvalid, SourceMissing, TooManyRejects
from retrieval_core.ingest import unchanged as unchanged_module
from retrieval_core.ingest.change import Change, read_item_ids, resolve_change
from retrieval_core.ingest.snapshot import Snapshot, take_snapshot, update_snapshot
from retrieval_core.ingest.sources.base import conform

CONFIG = IngestConfig(max_reject_fraction=1.0, n_holdout=3)
IDS = "abcdefgh"
PRODUCTS = (None, "P", "Q")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two pictures, one file that is none, and one that is absent."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / name for name in ("dark.png", "light.png", "text.png", "absent.png")]
    for path, level in zip(paths, (10, 200), strict=False):
        Image.new("RGB", (4, 3), (level,) * 3).save(path)
    paths[2].write_text("no picture")
    return [str(path) for path in paths]


def rows_of(items: dict[str, dict[str, object]], pictures: list[str]) -> pl.DataFrame:
    described = [
        {**item, "item_id": name, "image_uri": pictures[int(str(item["image_uri"]))]} for name, item in items.items()
    ]
    return conform(pl.DataFrame(described, infer_schema_length=None), "test")


items_strategy = st.dictionaries(
    st.sampled_from(IDS),
    st.fixed_dictionaries(
        {
            "image_uri": st.integers(0, 3),
            "product_id": st.sampled_from(PRODUCTS),
            "category": st.sampled_from(("hat", "shoe")),
            "split": st.sampled_from((None, "train", "query", "gallery")),
        }
    ),
    min_size=1,
)


class TestUpdate:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(before=items_strategy, after=items_strategy, extra=st.sets(st.sampled_from(IDS)))
    def test_reading_only_what_changed_gives_the_snapshot_of_reading_everything(
        self,
        pictures: list[str],
        before: dict[str, dict[str, object]],
        after: dict[str, dict[str, object]],
        extra: set[str],
    ) -> None:
        old, new = rows_of(before, pictures), rows_of(after, pictures)
        last = take_snapshot(old, None, CONFIG, "first")
        named = {name for name in IDS if before.get(name) != after.get(name)} | extra
        updated = update_snapshot(last, new, named, CONFIG, "second")
        whole = take_snapshot(new, last, CONFIG, "second")
        assert updated.items.equals(whole.items)
        assert set(updated.quarantine["item_id"]) == set(whole.quarantine["item_id"])
        again = updated.quarantine.join(whole.quarantine, on="item_id")
        assert again.filter(
            pl.col("item_id").is_in(list(named)) & (pl.col("attempts") != pl.col("attempts_right"))
        ).is_empty()

    def test_items_that_are_not_named_stay_and_are_not_read(
        self, pictures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {name: {"image_uri": 0, "category": "hat"} for name in "abc"}
        last = take_snapshot(rows_of(before, pictures), None, CONFIG, "first")
        after = {"b": {"image_uri": 1, "category": "shoe"}, "c": {"image_uri": 1, "category": "shoe"}}
        seen: list[str] = []
        stat_uri = unchanged_module.stat_uri
        monkeypatch.setattr(unchanged_module, "stat_uri", lambda uri, *_: seen.append(uri) or stat_uri(uri))
        updated = update_snapshot(last, rows_of(after, pictures), {"b"}, CONFIG, "second")
        assert seen == [pictures[1]]
        assert updated.n_read == 1
        assert updated.items["category"].to_list() == ["hat", "shoe", "hat"]

    def test_an_update_that_leaves_too_few_items_is_refused(self, pictures: list[str]) -> None:
        items: dict[str, dict[str, object]] = {name: {"image_uri": 0} for name in "abc"}
        last = take_snapshot(rows_of(items, pictures), None, CONFIG, "first")
        with pytest.raises(SourceMissing, match="3 items named"):
            update_snapshot(last, rows_of({"d": {"image_uri": 0}}, pictures), set("abc"), CONFIG, "second")
        strict = IngestConfig(max_reject_fraction=0.5)
        broken = rows_of({name: {"image_uri": 2} for name in "abc"}, pictures)
        with pytest.raises(TooManyRejects, match="2 of 3"):
            update_snapshot(last, broken, {"a", "b"}, strict, "second")

    def test_a_new_item_that_shares_a_row_id_is_refused(
        self, pictures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalog_rows, "row_id", lambda item_id: 7 if item_id in "ab" else row_id(item_id))
        last = take_snapshot(rows_of({"a": {"image_uri": 0}}, pictures), None, CONFIG, "first")
        both = rows_of({"a": {"image_uri": 0}, "b": {"image_uri": 0}}, pictures)
        with pytest.raises(CatalogInvalid, match="'a' and 'b' share row_id 7"):
            update_snapshot(last, both, {"b"}, CONFIG, "second")


class TestNames:
    @pytest.fixture(scope="class")
    def last(self, pictures: list[str]) -> Snapshot:
        return take_snapshot(rows_of({n: {"image_uri": i} for i, n in enumerate("ab")}, pictures), None, CONFIG, "now")

    def rows(self, pictures: list[str]) -> pl.DataFrame:
        return rows_of({"b": {"image_uri": 1}, "c": {"image_uri": 1}}, pictures)

    def test_an_item_is_named_by_its_id_or_by_its_picture(self, pictures: list[str], last: Snapshot) -> None:
        named = resolve_change(Change(added=("c", "x"), removed=(pictures[0], "y")), self.rows(pictures), last.items)
        assert named.item_ids == ("a", "c")
        assert named.unknown == ("x",), "y is gone already, as it should be"
        assert named.removed == ("a",)
        assert resolve_change(Change(changed=(pictures[1],)), self.rows(pictures), last.items).item_ids == ("b", "c")

    def test_a_product_names_all_its_items(self, pictures: list[str], last: Snapshot) -> None:
        items = {"b": {"image_uri": 1, "product_id": "b"}, "b/2": {"image_uri": 1, "product_id": "b"}}
        assert resolve_change(Change(changed=("b",)), rows_of(items, pictures), last.items).item_ids == ("b", "b/2")

    def test_only_what_is_listed_as_removed_counts_as_removed_on_purpose(
        self, pictures: list[str], last: Snapshot
    ) -> None:
        """The source lacks a and still has b, whatever the lists say."""
        rows = self.rows(pictures)
        assert resolve_change(Change(changed=("a",), removed=("b",)), rows, last.items).removed == ()
        assert resolve_change(Change(removed=("a", "b")), rows, last.items).removed == ("a",)

    def test_unknown_names_are_noted_unless_they_were_to_be_removed(self, pictures: list[str], last: Snapshot) -> None:
        for empty in (Change(), Change(removed=("x",))):
            named = resolve_change(empty, self.rows(pictures), last.items)
            assert (named.item_ids, named.notes) == ((), ())
        named = resolve_change(Change(changed=("B", "x")), self.rows(pictures), last.items)
        assert named.item_ids == ()
        assert named.notes == ("2 names found in neither the source nor the catalogue: 'B', 'x'; did you mean 'b'?",)

    def test_a_table_names_items(self, tmp_path: Path, pictures: list[str], last: Snapshot) -> None:
        table = tmp_path / "changes.csv"
        table.write_text("item_id,why\nc,new\n 0012 ,\n")
        assert read_item_ids(str(table)) == ["c", "0012"]
        named = resolve_change(Change(manifest_uri=str(table)), self.rows(pictures), last.items)
        assert (named.item_ids, named.unknown) == (("c",), ("0012",))
        pl.DataFrame({"item_id": [1, 2]}).write_parquet(tmp_path / "changes.parquet")
        assert read_item_ids(str(tmp_path / "changes.parquet")) == ["1", "2"]
        assert read_item_ids(f"{table}?item_id=why") == ["new"]

    @pytest.mark.parametrize(
        ("name", "content", "error", "message"),
        [
            ("a.csv", "sku\n1\n", CatalogInvalid, "lacks column item_id"),
            ("a.csv", "", SourceMissing, "is empty"),
            ("a.csv", "item_id\n", SourceMissing, "names no item"),
            ("a.parquet", "item_id\n1\n", CatalogInvalid, "cannot be read"),
            ("a.txt", "item_id\n1\n", CatalogInvalid, "none of .csv, .tsv"),
            ("a.csv", None, SourceMissing, "no manifest"),
        ],
    )
    def test_a_bad_table_is_refused_with_the_reason(
        self, tmp_path: Path, name: str, content: str | None, error: type[Exception], message: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(error, match=message):
            read_item_ids(str(tmp_path / name))
