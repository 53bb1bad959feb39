"""`KIND:URI` opens a source of that kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import BadConfig, SourceMissing
from retrieval_core.ingest.sources.folder import FolderSource
from retrieval_core.ingest.sources.registry import KINDS, checked_spec, configured_spec, open_source

README = Path(__file__).parents[4] / "README.md"


@pytest.mark.parametrize("spec", ["", "folder", "folder:", ":pictures", "ftp:pictures", "pictures/summer", "FOLDER:x"])
def test_an_unknown_kind_is_a_bad_config_that_names_the_kinds(spec: str) -> None:
    with pytest.raises(
        BadConfig,
        match="folder, table, merchant, shopify, woocommerce, jsonl, sql, webdataset, hf, ccp, synthetic, inshop",
    ):
        open_source(spec)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "synthetic"])
def test_an_absent_source_is_missing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        open_source(f"{kind}:{tmp_path / 'nowhere.csv'}")


@pytest.mark.parametrize(
    "kind", [kind for kind, (module, _) in KINDS.items() if "." not in module and kind != "synthetic"]
)
def test_a_file_is_no_folder(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceMissing, match="is not a folder"):
        open_source(f"{kind}:{tmp_path / 'file'}")


@pytest.mark.parametrize(
    "address", ["host:8080/a@b.csv", "[::1]:80/a@b", "reader@host/a:b", "host/a:b@c", "host/?at=12:30@noon"]
)
def test_a_colon_and_an_at_sign_may_stand_in_an_address_that_has_no_password(address: str) -> None:
    assert checked_spec(f"table:https://{address}")


def test_a_source_knows_its_spec(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    source = open_source(f"folder:{tmp_path}")
    assert isinstance(source, FolderSource)
    assert source.spec == f"folder:{tmp_path}"


def test_the_readme_lists_every_kind() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    listed = [kind for row in rows for kind in re.findall(r"`([a-z0-9-]+):[^`]*`", row.split("|")[1])]
    assert sorted(listed) == sorted(KINDS)


SPEC = "table:items.csv"


@pytest.mark.parametrize(
    ("spec", "columns", "expected"),
    [
        (SPEC, {}, SPEC),
        (
            SPEC,
            {"item_id": "sku", "image_uri": ["front", "back"]},
            f"{SPEC}?item_id=sku&image_uri=front&image_uri=back",
        ),
        (SPEC, {"version": "updated_at"}, f"{SPEC}?version=updated_at"),
        (f"{SPEC}?mode=delta", {"deleted": "is gone"}, f"{SPEC}?mode=delta&deleted=is%20gone"),
        ("table:what?.csv", {"field": {"season": "a&b=c+d"}}, "table:what?.csv?field.season=a%26b%3Dc%2Bd"),
        ("table:https://host/a?key=7", {"item_id": "sku"}, "table:https://host/a?key=7#item_id=sku"),
        ("table:https://host/a?category=7#", {"item_id": "sku"}, "table:https://host/a?category=7#item_id=sku"),
        ("merchant:feed.xml", {"field.label": "custom_label_0"}, "merchant:feed.xml?field.label=custom_label_0"),
    ],
)
def test_the_columns_of_a_config_become_the_query_of_the_source(
    spec: str, columns: dict[str, Any], expected: str
) -> None:
    assert configured_spec(spec, columns) == expected


@pytest.mark.parametrize(
    ("spec", "columns", "says"),
    [
        (f"{SPEC}?item_id=id", {"item_id": "sku"}, "both .* name item_id"),
        ("table:https://host/a?category=7", {"category": "kind"}, "both .* name category"),
        (SPEC, {"sku": "item_id"}, r"\[columns\] sku = 'item_id': expected the name of a column"),
        (SPEC, {"item_id": 3}, r"\[columns\] item_id = 3"),
        (SPEC, {"item_id": ""}, "expected the name of a column"),
        ("folder:photos", {"item_id": "sku"}, "folder: has none"),
        ("table:s3://a:b@c/d.csv", {}, "holds a password"),
    ],
)
def test_columns_of_a_config_that_cannot_be_used_are_named(spec: str, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        configured_spec(spec, columns)


def test_columns_of_a_config_are_read_like_those_of_a_query(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,front,back,a&b=c+d\n1,a.jpg,b.jpg,SS26\n")
    columns = {"item_id": "sku", "image_uri": ["front", "back"], "field": {"season": "a&b=c+d"}}
    rows = open_source(configured_spec(f"table:{tmp_path / 'items.csv'}", columns)).rows()
    assert rows["item_id"].to_list() == ["1", "1/2"]
    assert rows["fields"].to_list()[0] == [{"name": "season", "value": "SS26"}]
