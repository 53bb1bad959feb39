"""The files that readers of a Parquet export see."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.errors import AliasConflict, TargetRefused
from retrieval_core.export.export import How, export
from retrieval_core.export.target import Address
from retrieval_core.export.targets import parquet
from retrieval_core.export.targets.registry import open_target
from retrieval_core.store.uris import open_store
from tests.core.export.conftest import ITEMS, Exporter
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(
        SealedRuns(open_store(str(tmp_path / "store"))), "parquet", Address("shop", str(tmp_path / "files"))
    )


def listed(exporter: Exporter) -> list[Path]:
    folder = Path(exporter.address.url)
    return [folder / file for file in json.loads((folder / "shop.json").read_text())["files"]]


def read(exporter: Exporter) -> pl.DataFrame:
    return pl.read_parquet(listed(exporter))


def test_the_listed_files_hold_each_item_once_and_no_other_file_is_left(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(ITEMS))
    done = exporter.run(exporter.runs.seal(["item-0@2", *ITEMS[2:]]))
    table = read(exporter)
    assert sorted(table["item_id"]) == sorted({"item-0", *ITEMS[2:]})
    assert table["image_uri"].to_list().count("item-0@2.jpg") == 1
    assert (table["vector"].dtype, len(table)) == (pl.Array(pl.Float32, 8), done.rows)
    assert sorted(Path(exporter.address.url).glob("shop/*")) == sorted(listed(exporter))


def test_files_without_a_change_stay_and_small_ones_are_merged(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FILE_ROWS", 8)
    exporter.run(exporter.runs.seal(ITEMS))
    before = listed(exporter)
    assert [len(pl.read_parquet(file)) for file in before] == [8, 8, 8, 6]
    victim = pl.read_parquet(before[1])["item_id"][0]
    exporter.run(exporter.runs.seal([f"{victim}@2" if name == victim else name for name in ITEMS]))
    after = listed(exporter)
    assert set(before) - set(after) == {before[1]}
    for _ in range(3):
        exporter.run(exporter.runs.seal(ITEMS[:12]))
    assert [len(pl.read_parquet(file)) for file in listed(exporter)] in ([8, 4], [6, 6], [5, 7], [7, 5], [4, 8])


def test_of_two_exports_at_once_the_second_to_publish_is_told(exporter: Exporter) -> None:
    one, two = exporter.open(), exporter.open()
    release = exporter.runs.seal(ITEMS)
    export(exporter.runs.store, release, one, How("shop"))
    with pytest.raises(AliasConflict, match="run the command again"):
        export(exporter.runs.store, exporter.runs.seal(ITEMS[1:]), two, How("shop"))
    assert len(read(exporter)) == 30
    assert exporter.run(exporter.runs.seal(ITEMS[1:])).ok
    assert len(read(exporter)) == 29
    assert sorted(Path(exporter.address.url).glob("shop/*")) == sorted(listed(exporter))


def test_a_damaged_document_or_file_is_named(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(ITEMS))
    listed(exporter)[0].write_bytes(b"PAR1")
    with pytest.raises(TargetRefused, match=r"cannot be read.*remove shop\.json"):
        exporter.run(exporter.runs.seal(ITEMS))
    document = Path(exporter.address.url) / "shop.json"
    document.write_text('{"collection": 3}')
    with pytest.raises(TargetRefused, match="not the document of an export"):
        exporter.run(exporter.runs.seal(ITEMS))
    document.unlink()
    assert exporter.run(exporter.runs.seal(ITEMS)).ok


def test_neighbours_are_those_of_all_files(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FILE_ROWS", 8)
    done = exporter.run(exporter.runs.seal(ITEMS))
    table = read(exporter)
    target = open_target("parquet", exporter.address)
    target.open(done.collection, 8)
    vectors = table["vector"].to_numpy()
    expected = np.argsort(-(vectors @ vectors[4]))[:3]
    assert target.nearest(vectors[4:5], 3) == [table["row_id"].to_numpy()[expected].tolist()]
