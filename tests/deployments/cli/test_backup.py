"""`vitrine backup`, `restore` and `export` as a person and a script meet them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
from tests.deployments.cli.conftest import Done

ITEMS = [f"item-{number}" for number in range(14)]


def test_a_backup_is_restored_into_an_empty_store_and_verified(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    release = SealedRuns(open_store(str(tmp_path / "store"))).seal(ITEMS).fingerprint

    done = vitrine("backup", "--store=store", "--to=backup", "--json", cwd=tmp_path)
    copied = json.loads(done.out)
    assert (done.code, copied["release"], copied["n_skipped"], copied["damaged"]) == (0, release, 0, {})
    done = vitrine("backup", "--store=store", "--to=backup", "--verify", "--prune", cwd=tmp_path)
    assert f"copied      0 objects, 0 bytes\nskipped     {copied['n_copied']} objects" in done.out

    done = vitrine("restore", "--from=backup", "--store=new", "--json", cwd=tmp_path)
    assert (done.code, json.loads(done.out)["verification"]["ok"]) == (0, True)
    assert vitrine("restore", "--from=backup", "--store=new", cwd=tmp_path).out.endswith("\nverified\n")


def test_what_is_damaged_ends_in_exit_code_1(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    runs = SealedRuns(open_store(str(tmp_path / "store")))
    reports = [runs.seal(items).report for items in (ITEMS, ITEMS[2:])]
    for report, is_current in zip(reports, (False, True), strict=True):
        victim = next((tmp_path / "store" / report.key).glob("*/report.html"))
        victim.write_bytes(b"another page")
        done = vitrine("backup", "--store=store", f"--to=backup-{is_current}", cwd=tmp_path)
        assert done.code == 1
        assert str(victim.relative_to(tmp_path / "store")) in (done.err if is_current else done.out)
    assert vitrine("backup", "--store=empty", "--to=backup-False", cwd=tmp_path).code == 1
    assert vitrine("backup", "--store=store", "--to=store", cwd=tmp_path).code == 2


def test_an_export_says_what_it_did_and_that_it_was_verified(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    runs = SealedRuns(open_store(str(tmp_path / "store")))
    release = runs.seal(ITEMS)
    done = vitrine("export", "--store=store", "--to=parquet", "--url=files", "--json", cwd=tmp_path)
    document = json.loads(done.out)
    assert (done.code, document["ok"], document["release"]) == (0, True, release.fingerprint)
    assert (document["rows"], document["added"], document["switched"]) == (14, 14, True)
    assert document["verification"]["overlap"] == 1.0
    assert document["collection"] == json.loads((tmp_path / "files" / "vitrine.json").read_text())["collection"]

    runs.seal(ITEMS[1:])
    done = vitrine("export", "--store=store", "--to=parquet", "--url=files", cwd=tmp_path)
    assert "rows        13: 0 added, 0 changed, 13 unchanged; 1 removed" in done.out
    assert "verified    13 rows; 1.000 of the 10 nearest of 13 items are found" in done.out


def test_an_export_that_is_not_verified_ends_in_exit_code_1(
    vitrine: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SealedRuns(open_store(str(tmp_path / "store"))).seal(ITEMS)
    monkeypatch.setattr("retrieval_core.export.targets.parquet.ParquetTarget.nearest", lambda *_: [[]] * len(ITEMS))
    done = vitrine("export", "--store=store", "--to=parquet", "--url=files", cwd=tmp_path)
    assert done.code == 1
    assert "vitrine does not use it" in done.out
    assert "FAILED      it finds 0.000 of the 10 nearest" in done.out
    assert not (tmp_path / "files" / "vitrine.json").exists()


def test_a_held_release_and_a_wrong_call_end_in_exit_code_2(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    runs = SealedRuns(open_store(str(tmp_path / "store")))
    held = runs.seal(ITEMS).model_copy(update={"fingerprint": "e" * 32, "gate": "held", "gate_reason": "It lost."})
    held.seal(runs.store)
    export = ("export", "--store=store", "--to=parquet")
    for arguments, says in (
        (("--url=files", "--release=eeee"), "the gate keeps release eeeeeeeeeeee back"),
        (("--url=files", "--min-overlap=90"), "--min-overlap is a share"),
        (("--url=files", "--name=My Shop"), "--name 'My Shop'"),
        ((), "VITRINE_EXPORT_URL"),
    ):
        done = vitrine(*export, *arguments, cwd=tmp_path)
        assert (done.code, says in done.err) == (2, True)
    releases.point_alias(runs.store, releases.PRODUCTION, "e" * 32)
    assert vitrine(*export, "--url=files", cwd=tmp_path).code == 0


def test_a_missing_library_of_a_database_is_named_with_its_extra(
    vitrine: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SealedRuns(open_store(str(tmp_path / "store"))).seal(ITEMS)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    done = vitrine("export", "--store=store", "--to=lancedb", "--url=lance", cwd=tmp_path)
    assert (done.code, "pip install 'vitrine[lancedb]'" in done.err) == (2, True)
