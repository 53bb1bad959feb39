"""What a reader of a LanceDB export sees."""

import json
from pathlib import Path

import lancedb
import pytest

from retrieval_core.errors import BadConfig, TargetRefused
from retrieval_core.export.target import Address
from retrieval_core.export.targets import lancedb as lancedb_target
from retrieval_core.export.targets.registry import open_target
from retrieval_core.store.uris import open_store
from tests.core.export.conftest import ITEMS, Exporter
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(
        SealedRuns(open_store(str(tmp_path / "store"))), "lancedb", Address("shop", str(tmp_path / "lance"))
    )


def current_table(exporter: Exporter) -> lancedb.table.Table:
    database = lancedb.connect(exporter.address.url)
    return database.open_table(database.open_table("shop").to_arrow()["collection"][0].as_py())


def test_a_search_of_the_named_table_finds_the_item_itself(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(["o'brien", *ITEMS]))
    table = current_table(exporter)
    (item,) = table.search().where("item_id = 'o''brien'").to_list()
    hits = table.search(item["vector"]).distance_type("cosine").limit(3).to_list()
    assert (hits[0]["item_id"], len(hits)) == ("o'brien", 3)
    assert (item["labels"], json.loads(item["attributes"])) == ([], {})


def test_a_large_table_has_an_index(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lancedb_target, "INDEXED_ROWS", 300)
    names = [f"item-{number}" for number in range(320)]
    assert exporter.run(exporter.runs.seal(names)).ok
    assert exporter.run(exporter.runs.seal([*names[1:], "new"])).ok
    assert [index.columns for index in current_table(exporter).list_indices()] == [["vector"]]


def test_another_table_of_that_name_is_left_alone(exporter: Exporter) -> None:
    lancedb.connect(exporter.address.url).create_table("shop", [{"id": 1}])
    with pytest.raises(BadConfig, match="shop is a table and not made by an export"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_a_damaged_table_is_refused_with_a_word(exporter: Exporter) -> None:
    done = exporter.run(exporter.runs.seal(ITEMS))
    for file in (Path(exporter.address.url) / f"{done.collection}.lance" / "data").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(TargetRefused, match="refuses the export"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_a_web_address_is_refused(exporter: Exporter) -> None:
    with pytest.raises(BadConfig, match="no folder"):
        open_target("lancedb", Address("shop", "https://shop.example/lance"))
