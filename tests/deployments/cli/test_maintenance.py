"""`vitrine status`, `verify` and `promote` as a person and a script meet them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.cli.main import main
from retrieval_core.artifacts.manifests import Ref, Release
from retrieval_core.maintenance import damage
from retrieval_core.store.uris import open_store
from tests.deployments.cli.conftest import Done


def test_status_and_verify_describe_the_store(published: Path, vitrine: Callable[..., Done]) -> None:
    run = json.loads((published / "run.json").read_text())
    status = json.loads(vitrine("status", "--store=store", "--json", cwd=published).out)
    assert status["production"] == run["release"]
    assert [release["release"] for release in status["releases"]] == [run["release"]]
    assert status["last_run"]["release"] == run["release"]
    verified = json.loads(vitrine("verify", "--store=store", "--json", cwd=published).out)
    assert verified["ok"]
    assert {"name", "ok", "detail"} == set(verified["checks"][0])


def test_promote_overrules_the_gate_only_anyway_and_status_says_who_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.setattr(damage, "damage_to_search", lambda store, release: "")
    where, store = f"--store={tmp_path}", open_store(str(tmp_path))
    nowhere = Ref(kind="Catalog", key="catalogs/none")
    bundle = dict.fromkeys(("catalog", "backbone", "vectors", "index", "report"), nowhere)
    for name, causes in (("waits", ()), ("fell", ("recall@1 fell",))):
        reason = "Held: recall@1 fell." if causes else "Waits to be promoted."
        Release(
            fingerprint=name, counts={"rows": 1}, variant="raw", gate="held", gate_reason=reason, gate_causes=causes,
            **bundle,
        ).seal(store)  # fmt: skip
    assert main(["promote", where, "waits"]) == 0
    for refused in (["fell"], ["fell", "--why=I know better"], ["fell", "--anyway"]):
        assert main(["promote", where, *refused]) == 2
        assert "--why 'TEXT'" in capsys.readouterr().err
    assert main(["promote", where, "fell", "--anyway", "--why=the buyers looked"]) == 0
    assert capsys.readouterr().out == "production is fell\n"
    assert main(["status", where, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["production"] == "fell"
    first, last = status["promotions"]
    assert (first["release"], first["why"], first["overruled"]) == ("waits", "", [])
    assert (last["by"], last["why"], last["overruled"]) == ("anna", "the buyers looked", ["recall@1 fell"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(last["at"])) < timedelta(minutes=10)
    assert main(["status", where]) == 0
    assert "Promoted by anna, against the gate" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit(published: Path, vitrine: Callable[..., Done], tmp_path: Path) -> None:
    shutil.copytree(published / "store", tmp_path / "store")
    victim = next((tmp_path / "store" / "indexes" / "shards").rglob("vectors.arrow"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = vitrine("verify", "--store=store", "--json", cwd=tmp_path)
    assert done.code == 1
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert not checks["checksums"]["ok"]
    assert "vectors.arrow" in checks["checksums"]["detail"]
