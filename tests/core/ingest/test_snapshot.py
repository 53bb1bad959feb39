"""A snapshot reads what changed, quarantines bad pictures, and never divides a product between splits."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval_core.artifacts import catalog_rows, mapped_rows
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id
from retrieval_core.artifacts.manifests import Reject, content_id
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import BadConfig, CatalogInvalid, StoreUnavailable, TooManyRejects
from retrieval_core.ingest import reading as reading_module
from retrieval_core.ingest import unchanged as unchanged_module
from retrieval_core.ingest.snapshot import Snapshot, catalog_fingerprint, take_snapshot
from retrieval_core.ingest.sources.base import conform
from retrieval_core.ingest.sources.folder import FolderSource

TOLERANT = IngestConfig(max_reject_fraction=1.0)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder of ten pictures, all different."""
    for number in range(10):
        draw(tmp_path / f"{number}.png", number)
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read so far."""
    seen: list[str] = []
    read_uri = reading_module.read_uri

    def counted(uri: str) -> bytes:
        seen.append(Path(uri).name)
        return read_uri(uri)

    monkeypatch.setattr(reading_module, "read_uri", counted)
    return seen


def draw(path: Path, level: int) -> None:
    """A 5 x 3 picture of one grey level, newer than whatever was there."""
    before_ns = path.stat().st_mtime_ns if path.exists() else 0
    Image.new("RGB", (5, 3), (level, level, level)).save(path)
    if before_ns:
        os.utime(path, ns=(before_ns + 10**9, before_ns + 10**9))


def snapshot(folder: Path, previous: Snapshot | None = None, config: IngestConfig = TOLERANT) -> Snapshot:
    return take_snapshot(FolderSource(str(folder)).rows(), previous, config, "2026-11-21T03:00:00+00:00")


def item(taken: Snapshot, item_id: str) -> dict[str, object]:
    return taken.items.row(by_predicate=pl.col("item_id") == item_id, named=True)


class TestSnapshot:
    def test_holds_what_the_pictures_hold(self, shop: Path) -> None:
        taken = snapshot(shop)
        assert dict(taken.items.schema) == CATALOG_SCHEMA
        assert taken.items["item_id"].to_list() == [f"{n}.png" for n in range(10)]
        row = item(taken, "3.png")
        assert row["content_id"] == content_id((shop / "3.png").read_bytes())
        assert (row["height"], row["width"], row["status"]) == (3, 5, "ok")
        assert row["size_bytes"] == (shop / "3.png").stat().st_size
        assert taken.n_read == 10
        assert taken.quarantine.is_empty()

    def test_is_the_same_in_any_order_of_rows(self, shop: Path) -> None:
        rows = FolderSource(str(shop)).rows()
        assert take_snapshot(rows.reverse(), None, TOLERANT, "now").items.equals(snapshot(shop).items)

    def test_reports_its_progress(self, shop: Path) -> None:
        reported: list[tuple[int, int]] = []
        take_snapshot(FolderSource(str(shop)).rows(), None, TOLERANT, "now", lambda *done: reported.append(done))
        assert reported == [(n, 10) for n in range(1, 11)]

    def test_survives_parquet(self, shop: Path) -> None:
        (shop / "4.png").write_bytes(b"rubbish")
        first = snapshot(shop)
        stored = []
        for table in first[:2]:
            table.write_parquet(shop / "table")
            stored.append(pl.read_parquet(shop / "table"))
        (shop / "table").unlink()
        again = snapshot(shop, Snapshot(stored[0], stored[1], 0))
        assert again.n_read == 1
        assert again.items.equals(first.items)

    def test_two_ids_with_one_row_id_are_both_named(self, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            catalog_rows, "row_id", lambda item_id: 7 if item_id in ("2.png", "5.png") else row_id(item_id)
        )
        with pytest.raises(CatalogInvalid, match=r"'2\.png' and '5\.png' share row_id 7"):
            snapshot(shop)


class TestReading:
    def test_nothing_is_read_again_when_nothing_changed(self, shop: Path, reads: list[str]) -> None:
        first = snapshot(shop)
        reads.clear()
        second = snapshot(shop, first)
        assert reads == []
        assert second.n_read == 0
        assert second.items.equals(first.items)

    def test_only_the_new_and_the_changed_are_read(self, shop: Path, reads: list[str]) -> None:
        first = snapshot(shop)
        draw(shop / "3.png", 99)
        draw(shop / "new.png", 100)
        (shop / "7.png").unlink()
        reads.clear()
        second = snapshot(shop, first)
        assert sorted(reads) == ["3.png", "new.png"]
        assert second.n_read == 2
        assert item(second, "3.png")["content_id"] != item(first, "3.png")["content_id"]
        assert "7.png" not in second.items["item_id"]

    def test_a_touched_file_is_read_and_found_the_same(self, shop: Path, reads: list[str]) -> None:
        first = snapshot(shop)
        os.utime(shop / "3.png", ns=(1, 1))
        reads.clear()
        second = snapshot(shop, first)
        assert reads == ["3.png"]
        assert catalog_fingerprint(second.items) == catalog_fingerprint(first.items)

    def test_a_renamed_item_of_the_same_file_is_not_read(self, shop: Path, reads: list[str]) -> None:
        first = snapshot(shop)
        rows = FolderSource(str(shop)).rows().with_columns("sku-" + pl.col("item_id"))
        reads.clear()
        renamed = take_snapshot(rows, first, TOLERANT, "now")
        assert reads == []
        assert renamed.items["content_id"].to_list() == first.items["content_id"].to_list()

    def test_changed_labels_need_no_reading(self, shop: Path, reads: list[str]) -> None:
        first = snapshot(shop)
        rows = FolderSource(str(shop)).rows().with_columns(pl.lit("coat").alias("category"))
        reads.clear()
        second = take_snapshot(rows, first, TOLERANT, "now")
        assert reads == []
        assert second.items["category"].unique().to_list() == ["coat"]


class TestMasks:
    @staticmethod
    def rows(shop: Path) -> pl.DataFrame:
        frame = pl.DataFrame(
            {"item_id": ["a"], "image_uri": [str(shop / "1.png")], "mask_uri": [str(shop / "mask.png")]}
        )
        return conform(frame, "test")

    def test_a_mask_is_known_by_its_bytes(self, shop: Path) -> None:
        draw(shop / "mask.png", 255)
        taken = take_snapshot(self.rows(shop), None, TOLERANT, "now")
        assert taken.items["mask_id"].to_list() == [content_id((shop / "mask.png").read_bytes())]

    def test_a_changed_mask_is_noticed(self, shop: Path, reads: list[str]) -> None:
        draw(shop / "mask.png", 255)
        first = take_snapshot(self.rows(shop), None, TOLERANT, "now")
        assert take_snapshot(self.rows(shop), first, TOLERANT, "now").n_read == 0
        draw(shop / "mask.png", 254)
        second = take_snapshot(self.rows(shop), first, TOLERANT, "now")
        assert second.items["mask_id"][0] != first.items["mask_id"][0]
        assert second.items["content_id"][0] == first.items["content_id"][0]

    def test_an_absent_mask_leaves_the_picture_usable_until_it_comes(self, shop: Path) -> None:
        first = take_snapshot(self.rows(shop), None, TOLERANT, "now")
        assert first.items.select("status", "mask_id").row(0) == ("ok", None)
        assert take_snapshot(self.rows(shop), first, TOLERANT, "now").n_read == 0
        draw(shop / "mask.png", 255)
        assert take_snapshot(self.rows(shop), first, TOLERANT, "now").items["mask_id"][0] is not None


class TestQuarantine:
    def test_a_bad_picture_stands_in_the_ledger(self, shop: Path) -> None:
        (shop / "4.png").write_bytes(b"%PDF-1.7")
        taken = snapshot(shop)
        row = item(taken, "4.png")
        assert (row["status"], row["content_id"], row["height"]) == ("quarantined", None, None)
        assert [Reject(**reject) for reject in taken.quarantine.to_dicts()] == [
            Reject(
                item_id="4.png",
                image_uri=str(shop / "4.png"),
                content_id=content_id(b"%PDF-1.7"),
                reason="is a PDF, not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG 2000",
                attempts=1,
                last_seen="2026-11-21T03:00:00+00:00",
            )
        ]

    def test_a_file_that_is_not_there_stands_in_the_ledger(self, shop: Path) -> None:
        rows = FolderSource(str(shop)).rows()
        (shop / "4.png").unlink()
        taken = take_snapshot(rows, None, TOLERANT, "now")
        assert taken.quarantine.select("item_id", "reason", "content_id").rows() == [("4.png", "file is missing", "")]
        assert len(taken.items) == 10

    def test_a_file_that_vanishes_before_it_is_read_stands_in_the_ledger(
        self, shop: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stat_uri = unchanged_module.stat_uri

        def stat_and_lose(uri: str, *_: object) -> object:
            found = stat_uri(uri)
            if uri.endswith("4.png"):
                Path(uri).unlink()
            return found

        monkeypatch.setattr(unchanged_module, "stat_uri", stat_and_lose)
        assert snapshot(shop).quarantine["reason"].to_list() == ["file is missing"]

    def test_attempts_grow_until_the_file_recovers(self, shop: Path) -> None:
        (shop / "4.png").write_bytes(b"")
        taken = None
        for attempt in (1, 2, 3):
            taken = snapshot(shop, taken)
            assert taken.quarantine.select("item_id", "reason", "attempts").rows() == [
                ("4.png", "the file is empty", attempt)
            ]
        draw(shop / "4.png", 50)
        recovered = snapshot(shop, taken)
        assert recovered.quarantine.is_empty()
        assert item(recovered, "4.png")["status"] == "ok"
        (shop / "4.png").write_bytes(b"")
        assert snapshot(shop, recovered).quarantine["attempts"].to_list() == [1]

    def test_an_unchanged_bad_file_is_tried_again(self, shop: Path, reads: list[str]) -> None:
        (shop / "4.png").write_bytes(b"rubbish")
        first = snapshot(shop)
        reads.clear()
        assert snapshot(shop, first).n_read == 1
        assert reads == ["4.png"]

    def test_a_picture_that_turns_bad_loses_its_content(self, shop: Path) -> None:
        first = snapshot(shop)
        data = (shop / "4.png").read_bytes()
        (shop / "4.png").write_bytes(data[: len(data) // 2])
        second = snapshot(shop, first)
        assert item(second, "4.png")["content_id"] is None
        assert second.quarantine["item_id"].to_list() == ["4.png"]
        assert item(second, "4.png")["split"] == item(first, "4.png")["split"]

    def test_the_bound_on_pixels_is_the_configs(self, shop: Path) -> None:
        taken = snapshot(shop, config=IngestConfig(max_pixels=14, max_reject_fraction=1))
        assert len(taken.quarantine) == 10
        assert "more than the bound of 14 pixels" in taken.quarantine["reason"][0]

    def test_too_many_are_named_with_count_fraction_and_reasons(self, shop: Path) -> None:
        for name in ("1.png", "4.png"):
            (shop / name).write_bytes(b"")
        assert len(snapshot(shop, config=IngestConfig(max_reject_fraction=0.2)).quarantine) == 2
        with pytest.raises(
            TooManyRejects, match=r"2 of 10 pictures \(20\.0%\).* 19\.0% allows: 1\.png: the file is empty"
        ):
            snapshot(shop, config=IngestConfig(max_reject_fraction=0.19))

    @pytest.mark.parametrize("outage", [StoreUnavailable("down"), BadConfig("no credentials")])
    @pytest.mark.parametrize(("module", "call"), [(unchanged_module, "stat_uri"), (reading_module, "read_uri")])
    def test_an_outage_quarantines_nothing(
        self, shop: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str, outage: Exception
    ) -> None:
        def fail(uri: str, *_: object) -> None:
            raise outage

        monkeypatch.setattr(module, call, fail)
        with pytest.raises(type(outage)):
            snapshot(shop)


class TestSplits:
    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def _picture(tmp_path_factory: pytest.TempPathFactory) -> None:
        """One picture that all items of these tests share."""
        TestSplits.picture = tmp_path_factory.mktemp("splits") / "a.png"
        draw(TestSplits.picture, 1)

    picture: Path

    def taken(
        self,
        rows: dict[str, tuple[str | None, str | None]],
        previous: Snapshot | None = None,
        published: Snapshot | None = None,
        **config: int,
    ) -> Snapshot:
        """Snapshot of items given as id -> (product, split)."""
        items = published.items if published else None
        frame = pl.DataFrame(
            {
                "item_id": list(rows),
                "image_uri": str(self.picture),
                "product_id": pl.Series([product for product, _ in rows.values()], dtype=pl.String),
                "split": pl.Series([split for _, split in rows.values()], dtype=pl.String),
            }
        )
        return take_snapshot(conform(frame, "test"), previous, IngestConfig(**config), "now", published=items)

    @staticmethod
    def splits(taken: Snapshot) -> dict[str, str]:
        return dict(taken.items.select("item_id", "split").rows())

    def test_about_the_wanted_number_is_held_out(self) -> None:
        rows = {f"{n}": (None, None) for n in range(3000)}
        held_out = [split for split in self.splits(self.taken(rows, n_holdout=300)).values() if split == "query"]
        assert 240 < len(held_out) < 360

    def test_never_more_than_about_a_third(self) -> None:
        rows = {f"{n}": (None, None) for n in range(900)}
        share = np.mean([split == "query" for split in self.splits(self.taken(rows, n_holdout=10**6)).values()])
        assert 0.27 < share < 0.4

    def test_no_holdout_means_none(self) -> None:
        rows = {f"{n}": (None, None) for n in range(50)}
        assert set(self.splits(self.taken(rows, n_holdout=0)).values()) == {"train"}

    def test_another_seed_holds_out_others(self) -> None:
        rows = {f"{n}": (None, None) for n in range(100)}
        assert self.splits(self.taken(rows, seed=1)) != self.splits(self.taken(rows, seed=2))

    def test_the_sources_own_split_is_kept(self) -> None:
        rows = {split: (None, split) for split in ("train", "val", "query", "gallery", "test")}
        assert self.splits(self.taken(rows)) == {split: split for split in rows}

    def test_a_source_may_part_a_product_itself(self) -> None:
        rows = {"a": ("p", "query"), "b": ("p", "gallery")}
        assert self.splits(self.taken(rows)) == {"a": "query", "b": "gallery"}

    def test_a_row_without_split_follows_its_product(self) -> None:
        rows = {"a": ("p", "gallery"), "b": ("p", None)}
        assert self.splits(self.taken(rows))["b"] == "gallery"

    def test_a_product_and_an_item_of_the_same_name_are_two(self) -> None:
        rows = {f"{n}": (None, None) for n in range(100)} | {f"x{n}": (f"{n}", None) for n in range(100)}
        splits = self.splits(self.taken(rows))
        assert any(splits[f"{n}"] != splits[f"x{n}"] for n in range(100))

    def test_a_new_view_joins_its_product_though_the_old_ones_are_gone(self) -> None:
        first = self.taken({f"{n}": (f"p{n}", None) for n in range(30)}, n_holdout=10)
        second = self.taken({f"new{n}": (f"p{n}", None) for n in range(30)}, first, n_holdout=0)
        assert [split for _, split in sorted(self.splits(second).items(), key=lambda pair: int(pair[0][3:]))] == [
            self.splits(first)[f"{n}"] for n in range(30)
        ]

    def test_a_broken_source_that_was_not_published_leaves_the_splits_of_the_next(self) -> None:
        """First most rows are absent, then all products: splits are drawn anew, and apart for items of one product."""
        rows = {f"{n}": (f"p{n // 3}", None) for n in range(90)}
        good = self.taken(rows, n_holdout=30)
        cut = self.taken(dict(list(rows.items())[:8]), good, good, n_holdout=30)
        bare = self.taken(dict.fromkeys(rows, (None, None)), cut, n_holdout=30)
        assert self.splits(self.taken(rows, bare, n_holdout=30)) != self.splits(good)
        assert self.splits(self.taken(rows, bare, good, n_holdout=30)) == self.splits(good)

    def test_products_that_merge_are_trained_on(self) -> None:
        first = self.taken({"a": ("p", None), "b": ("q", None)}, n_holdout=0)
        mixed = first._replace(items=first.items.with_columns(pl.Series("split", ["query", "train"])))
        second = self.taken({"a": ("p", None), "b": ("p", None)}, mixed)
        assert set(self.splits(second).values()) == {"train"}

    @settings(max_examples=40)
    @given(
        tonight=st.dictionaries(st.integers(0, 30), st.integers(0, 8) | st.none(), min_size=1),
        tomorrow=st.dictionaries(st.integers(0, 30), st.integers(0, 8) | st.none(), min_size=1),
        holdouts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    )
    def test_no_product_is_ever_parted(
        self, tonight: dict[int, int | None], tomorrow: dict[int, int | None], holdouts: tuple[int, int]
    ) -> None:
        previous = None
        for night, n_holdout in zip((tonight, tomorrow), holdouts, strict=True):
            rows = {f"{i}": (None if p is None else f"{p}", None) for i, p in night.items()}
            previous = self.taken(rows, previous, n_holdout=n_holdout)
            splits_of = defaultdict(set)
            for product, split in previous.items.select("product_id", "split").rows():
                splits_of[product].add(split)
            assert all(len(splits) == 1 for product, splits in splits_of.items() if product is not None)

    @settings(max_examples=40)
    @given(
        products=st.dictionaries(st.integers(0, 30), st.integers(0, 8) | st.none(), min_size=1),
        kept=st.sets(st.integers(0, 60)),
        holdouts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    )
    def test_what_stays_keeps_its_split(
        self, products: dict[int, int | None], kept: set[int], holdouts: tuple[int, int]
    ) -> None:
        """Whatever comes, goes, or is held out now."""
        product_of = {f"{i}": (None if p is None else f"{p}", None) for i, p in products.items()}
        first = self.taken(product_of, n_holdout=holdouts[0])
        later = {f"{i}": product_of.get(f"{i}", (f"{i % 8}", None)) for i in kept | {0}}
        second = self.splits(self.taken(later, first, n_holdout=holdouts[1]))
        assert all(second[item_id] == split for item_id, split in self.splits(first).items() if item_id in second)


class TestFingerprint:
    def test_does_not_see_order_size_time_or_the_clock(self, shop: Path) -> None:
        items = snapshot(shop).items
        other = items.sample(fraction=1, shuffle=True, seed=1).with_columns(
            size_bytes=pl.col("size_bytes") + 1, version=pl.lit("other")
        )
        assert catalog_fingerprint(other) == catalog_fingerprint(items)

    @pytest.mark.parametrize(
        "change",
        [
            pl.lit("elsewhere").alias("image_uri"),
            pl.lit("p").alias("product_id"),
            pl.lit("coat").alias("category"),
            pl.lit("val").alias("split"),
            pl.lit(["long"]).alias("labels"),
            pl.lit([{"name": "colour", "value": "red"}]).alias("attributes"),
            pl.lit("0" * 32).alias("content_id"),
            pl.lit("0" * 32).alias("mask_id"),
            pl.lit("quarantined").alias("status"),
            ("x" + pl.col("item_id")).alias("item_id"),
        ],
        ids=str,
    )
    def test_sees_what_an_item_says(self, shop: Path, change: pl.Expr) -> None:
        items = snapshot(shop).items
        is_first = pl.col("item_id") == "0.png"
        name = change.meta.output_name()
        changed = items.with_columns(pl.when(is_first).then(change).otherwise(pl.col(name)).alias(name))
        assert catalog_fingerprint(changed) != catalog_fingerprint(items)

    def test_does_not_depend_on_how_many_rows_are_hashed_at_once(
        self, shop: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = snapshot(shop).items
        whole = catalog_fingerprint(items)
        monkeypatch.setattr(mapped_rows, "BATCH_ROWS", 3)
        assert catalog_fingerprint(items) == whole

    def test_a_label_list_is_not_its_concatenation(self, shop: Path) -> None:
        items = snapshot(shop).items
        ids = [
            catalog_fingerprint(items.with_columns(labels=pl.lit(labels))) for labels in (["a", "b"], ["ab"], ["a,b"])
        ]
        assert len(set(ids)) == 3
