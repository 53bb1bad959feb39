"""Hostile source tables and folders: refused with the row named, or treated as plain text."""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA, read_items
from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.images import thumbnail
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.folder import FolderSource
from retrieval_core.ingest.sources.inshop import InShopSource
from retrieval_core.ingest.sources.tables.table import TableSource
from retrieval_core.item_ids.normal_form import normal_name
from retrieval_core.settings import Settings
from tests.ingesting import ingest_source

SCRIPT = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}${7*7}"
ODD_IDS = (
    "../../../etc/passwd", "/etc/passwd", "..", ".", "a/b/c", "a\\b", "C:\\x", "~root", "$(touch pwned)", "`id`",
    "%2e%2e%2f",
    SCRIPT, "=cmd|' /C calc'!A0", "+1", "-1", "@x", "🧥👩\u200d👧", "مرحبا", "e\u0301", "sku\u202egpj.exe", "NUL",
    "CON.parquet",
    "x" * 1024, "a b",
    "production", "latest", "manifest.json", "'; DROP TABLE items; --", "{item_id}", "%s%n",
)  # fmt: skip
DECEPTIVE_IDS = ("a\nb", "a\rb", "a\tb", "a\0b", "\x1b[2J", "a\x7fb", "a\x85b", "a\u2028b")
DECEPTIVE_ADDRESSES = ("sku\u202egpj.exe", "a\u200fb", "a\u2066b\u2069")


def picture(seed: int = 0) -> bytes:
    return thumbnail(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8), 24)


def table(folder: Path, **columns: Any) -> TableSource:
    """Return a Parquet source, which unlike CSV can hold any value."""
    pl.DataFrame(columns).write_parquet(folder / "items.parquet")
    return TableSource(str(folder / "items.parquet"))


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


class TestNames:
    @pytest.mark.parametrize(
        ("column", "name"),
        [
            *(("item_id", name) for name in DECEPTIVE_IDS),
            *((column, name) for column in ("image_uri", "mask_uri") for name in DECEPTIVE_IDS + DECEPTIVE_ADDRESSES),
        ],
        ids=ascii,
    )
    def test_a_name_that_can_pass_for_another_in_a_log_is_refused(self, tmp_path: Path, column: str, name: str) -> None:
        columns = {"item_id": ["good", "bad"], "image_uri": ["a.jpg", "b.jpg"], "mask_uri": [None, "m.png"]}
        source = table(tmp_path, **(columns | {column: ["first", name]}))
        with pytest.raises(CatalogInvalid, match=f"{column} .* control character") as caught:
            source.rows()
        assert str(caught.value).isprintable()

    def test_a_file_with_a_newline_in_its_name_is_passed_over(self, tmp_path: Path) -> None:
        for name in ("a\nERROR b.jpg", "c.jpg"):
            (tmp_path / name).write_bytes(picture())
        source = FolderSource(str(tmp_path))
        assert source.rows()["item_id"].to_list() == ["c.jpg"]
        assert source.notes[0].startswith("1 file passed over")

    def test_an_id_of_ten_thousand_bytes_is_refused_briefly(self, tmp_path: Path) -> None:
        for item_id in ("x" * 10_000, "🧥" * 2_500):
            with pytest.raises(CatalogInvalid, match="10000 bytes") as caught:
                table(tmp_path, item_id=["a", item_id], image_uri=["a.jpg", "b.jpg"]).rows()
            assert len(str(caught.value)) < 500

    def test_ids_that_only_look_alike_are_two_ids(self, tmp_path: Path) -> None:
        """Upper and lower case, letters of two alphabets, a letter and its ligature."""
        ids = ["É", "é", "E", "e", "A", "\u0410", "\ufb01", "fi"]
        rows = table(tmp_path, item_id=ids, image_uri=["a.jpg"] * len(ids)).rows()
        assert sorted(rows["item_id"]) == sorted(ids)

    @pytest.mark.parametrize("twin", ["e\u0301", "\u00e9\u200b", "\u202e\u00e9", "\u00e9\ufe0f", "\u00ad\u00e9"])
    def test_an_id_spelled_in_two_ways_is_refused_with_both(self, tmp_path: Path, twin: str) -> None:
        source = table(tmp_path, item_id=["\u00e9", "b", twin], image_uri=["a.jpg"] * 3)
        with pytest.raises(CatalogInvalid, match=r"1 item_ids occur more than once, e\.g\. 'é', spelled") as caught:
            source.rows()
        assert ascii("\u00e9") in str(caught.value)
        assert ascii(twin) in str(caught.value)

    @pytest.mark.parametrize("ids", [["a", "a"], ["a", " a "], ["1", "1\u00a0"]])
    def test_a_repeated_id_is_refused(self, tmp_path: Path, ids: list[str]) -> None:
        with pytest.raises(CatalogInvalid, match=r"more than once, e\.g\. '[a1]'"):
            table(tmp_path, item_id=ids, image_uri=["a.jpg", "b.jpg"]).rows()

    def test_an_absent_id_or_uri_is_named_by_its_row(self, tmp_path: Path) -> None:
        for column in ("item_id", "image_uri"):
            columns = {"item_id": ["a", "b", "c"], "image_uri": ["1.jpg", "2.jpg", "3.jpg"]}
            columns[column][1] = "  "
            with pytest.raises(CatalogInvalid, match=f"1 rows have an empty {column}, the first after 1 others"):
                table(tmp_path, **columns).rows()


class TestUris:
    @pytest.mark.parametrize("column", ["image_uri", "mask_uri"])
    @pytest.mark.parametrize(
        "uri",
        [
            "../secret.jpg", "a/../../secret.jpg", "..", "a/..", "file:///etc/passwd",
            "s3://", "s3:///key", "s3://bucket", "s3://bucket/", "S3://bucket/key", "ftp://host/a.jpg",
        ],
    )  # fmt: skip
    def test_a_uri_outside_the_folder_is_refused_and_its_row_named(self, tmp_path: Path, uri: str, column: str) -> None:
        columns = {"item_id": ["a", "row-2"], "image_uri": ["a.jpg", "b.jpg"], "mask_uri": [None, None]}
        with pytest.raises(CatalogInvalid, match=f"item 'row-2' has {column} .*; expected"):
            table(tmp_path, **(columns | {column: ["a.jpg", uri]})).rows()

    @pytest.mark.parametrize("column", ["image_uri", "mask_uri"])
    @pytest.mark.parametrize(
        "uri",
        [
            "http://169.254.169.254/latest", "HTTP://127.0.0.1:4200/api", "http://2130706433/", "https://[::1]/", "http://localhost/",
        ],
    )  # fmt: skip
    def test_an_address_inside_this_network_is_quarantined_and_not_connected_to(
        self, tmp_path: Path, uri: str, column: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
        (tmp_path / "a.jpg").write_bytes(picture(1))
        columns = {"item_id": ["a", "b"], "image_uri": ["a.jpg", "a.jpg"], "mask_uri": [None, None]}
        rows = table(tmp_path, **(columns | {column: [columns[column][0], uri]})).rows()
        taken = take_snapshot(rows, None, IngestConfig(max_reject_fraction=1.0), "now")
        assert taken.quarantine["item_id"].to_list() == ["b"]
        assert "not on the public internet" in taken.quarantine["reason"][0]

    def test_two_dots_within_a_name_do_not_climb(self, tmp_path: Path) -> None:
        rows = table(tmp_path, item_id=["a", "b"], image_uri=["a..jpg", "x/..b.jpg"]).rows()
        assert rows["image_uri"].to_list() == [f"{tmp_path}/a..jpg", f"{tmp_path}/x/..b.jpg"]

    @pytest.mark.parametrize(
        "uri",
        [
            "https://user:S3CRET@shop/a.jpg",
            "ftp://shop/a.jpg?X-Amz-Signature=S3CRET",
            "s3://AKIA:S3/CRET@bucket/a.jpg",
            "s3://AKIA:S3CRET@bucket/a.jpg",
        ],
    )
    def test_the_error_of_a_refused_uri_holds_no_password(self, tmp_path: Path, uri: str) -> None:
        with pytest.raises(CatalogInvalid, match="item 'a'") as caught:
            table(tmp_path, item_id=["a"], image_uri=[uri]).rows()
        assert "CRET" not in str(caught.value)
        assert "S3" not in str(caught.value).replace("s3://", "")

    @pytest.mark.usefixtures("aws_environment")
    def test_a_table_on_s3_names_no_file_of_this_machine(
        self, bucket: str, s3_client: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
        s3_client.put_object(Bucket=bucket, Key="shop/items.csv", Body=b"item_id,image_uri\na,a.jpg\nb,/etc/passwd\n")
        with pytest.raises(CatalogInvalid, match=r"item 'b' has image_uri '/etc/passwd'.*lies on S3"):
            TableSource(f"s3://{bucket}/shop/items.csv").rows()

    def test_the_list_of_a_dataset_does_not_climb(self, tmp_path: Path) -> None:
        (tmp_path / "img").mkdir()
        (tmp_path / "img" / "a.jpg").write_bytes(picture())
        (tmp_path / "Eval").mkdir()
        partition = "1\nimage_name item_id evaluation_status\nimg/../../../secret.jpg id_1 train\n"
        (tmp_path / "Eval" / "list_eval_partition.txt").write_text(partition)
        with pytest.raises(CatalogInvalid, match="line 3"):
            InShopSource(str(tmp_path)).rows()


class TestCells:
    @pytest.mark.parametrize(
        ("column", "cell"),
        [
            ("labels", "[" * 100_000),
            ("labels", '["\\ud800"]'),
            ("labels", '[{"a": 1}]'),
            ("attributes", '{"a":' * 100_000),
            ("attributes", '{"a": "\\udfff"}'),
            ("attributes", '{"\\ud800": "a"}'),
            ("attributes", '{"a": ' + "9" * 5_000 + "}"),
            ("attributes", '{"a": {"b": 1}}'),
            ("attributes", "[]"),
        ],
    )
    def test_a_hostile_cell_is_refused_and_its_row_named(self, tmp_path: Path, column: str, cell: str) -> None:
        columns = {"item_id": ["a", "row-2"], "image_uri": ["a.jpg", "b.jpg"], column: [None, cell]}
        with pytest.raises(CatalogInvalid, match=f"item 'row-2', {column}") as caught:
            table(tmp_path, **columns).rows()
        assert len(str(caught.value)) < 500

    def test_nulls_at_any_depth_are_nothing(self, tmp_path: Path) -> None:
        attributes = [[None, {"name": None, "value": "x"}, {"name": "a", "value": None}], None]
        rows = table(
            tmp_path,
            item_id=["a", "b"],
            image_uri=["a.jpg", "b.jpg"],
            category=pl.Series([None, None], dtype=pl.Null),
            labels=[[None, "x"], None],
            attributes=pl.Series(attributes, dtype=SOURCE_SCHEMA["attributes"]),
        ).rows()
        assert rows["labels"].to_list() == [["x"], []]
        assert rows["attributes"].to_list() == [[], []]

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(max_size=300))
    def test_no_text_of_a_cell_raises_anything_else(self, tmp_path: Path, text: str) -> None:
        encodable = text.encode("utf-8", "ignore").decode()
        for column in ("labels", "attributes", "category", "split", "item_id", "image_uri"):
            columns = {"item_id": ["a"], "image_uri": ["a.jpg"], column: [encodable]}
            with suppress(CatalogInvalid):
                assert dict(table(tmp_path, **columns).rows().schema) == SOURCE_SCHEMA


class TestDamagedTables:
    @pytest.mark.parametrize("kind", ["parquet", "csv"])
    def test_a_damaged_table_is_read_or_refused_and_never_ends_the_process(self, tmp_path: Path, kind: str) -> None:
        rng, path, outcomes = np.random.default_rng(0), tmp_path / f"items.{kind}", set()
        for number in range(300):
            damaged = bytearray(self._table(kind, number))
            for _ in range(rng.integers(1, 5)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.2 else damaged)
            try:
                TableSource(str(path)).rows()
                outcomes.add("read")
            except (CatalogInvalid, SourceMissing):
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}

    def _table(self, kind: str, number: int) -> bytes:
        columns = {"item_id": ["a", "b"], "image_uri": ["a.jpg", "b.jpg"], "labels": ["x|y", None]}
        frame, out = pl.DataFrame(columns), io.BytesIO()
        if kind == "csv":
            frame.write_csv(out)
        else:
            frame.write_parquet(out, compression=("zstd", "snappy", "uncompressed", "gzip")[number % 4])
        return out.getvalue()


class TestLinks:
    def test_a_link_to_another_file_is_refused_and_nothing_of_it_is_stored(self, tmp_path: Path) -> None:
        secret, folder = tmp_path / "secret.txt", tmp_path / "shop"
        folder.mkdir()
        secret.write_text("the password is swordfish")
        (folder / "a.jpg").symlink_to(secret)
        (folder / "b.jpg").write_bytes(picture())
        (folder / "round").symlink_to(folder)
        (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
        (folder / "there").symlink_to(folder / "and back")
        (folder / "and back").symlink_to(folder / "there")
        (folder / "nowhere.jpg").symlink_to(folder / "absent")

        kept = _snapshot(tmp_path, f"folder:{folder}")

        assert dict(kept.select("item_id", "status").rows()) == {"a.jpg": "quarantined", "b.jpg": "ok"}
        written = b"".join(path.read_bytes() for path in files(tmp_path / "store"))
        assert b"swordfish" not in written


def test_whatever_an_id_says_nothing_is_written_outside_the_store(tmp_path: Path) -> None:
    """An id names rows; keys of the store are made of hashes."""
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "a.jpg").write_bytes(picture())
    table(shop, item_id=ODD_IDS, image_uri=["a.jpg"] * len(ODD_IDS), category=[SCRIPT] * len(ODD_IDS))
    before = files(tmp_path)

    kept = _snapshot(tmp_path, f"table:{shop / 'items.parquet'}")

    assert set(kept["item_id"]) == set(map(normal_name, ODD_IDS))
    new = files(tmp_path) - before
    assert new
    assert all(path.is_relative_to(tmp_path / "store") for path in new)
    assert not [path for path in new if path.suffix in (".csv", ".tsv", ".xlsx")]  # nothing that a formula would run in
    assert not (Path.cwd() / "pwned").exists()


def _snapshot(folder: Path, source: str) -> pl.DataFrame:
    """Return the items of the catalogue that the first task of a run seals."""
    settings = Settings.load(store=str(folder / "store"), cache_dir=folder / "store" / "cache")
    done = ingest_source(settings, source, IngestConfig(max_reject_fraction=1.0))
    store = settings.open_store()
    return read_items(store, Catalog.open(store, done.catalog))
