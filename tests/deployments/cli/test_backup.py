"""`vitrine backup` and `restore` as a person and a script meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
