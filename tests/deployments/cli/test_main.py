"""The command line as a script meets it: one JSON document, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deployments.cli.main import _parser, main
from retrieval_core.artifacts.manifests import Ref, Release
from retrieval_core.images import thumbnail
from retrieval_core.store.uris import open_store

QUICK = [
    "--set=embed.weights=random:0",
    "--set=embed.size_px=64",
    "--set=embed.background=raw",
    "--set=reduce.dims=[4]",
    "--set=evaluate.queries=4",
    "--set=evaluate.synthetic_queries=4",
]


TRAIN = ["train", "backbone", "--source=folder:photos", "--store=s"]


def vitrine(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two categories, one of them broken, and a published release of them."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    for category in ("red", "blue"):
        (folder / "photos" / category).mkdir(parents=True)
        for number in range(6):
            colour = (200, 40, 40) if category == "red" else (40, 40, 200)
            pixels = np.clip(rng.normal(colour, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
            (folder / "photos" / category / f"{number}.jpg").write_bytes(thumbnail(pixels, 64))
    (folder / "photos" / "red" / "5.jpg").write_bytes(b"\xff\xd8\xff broken")
    done = vitrine(
        "run", "--source=folder:photos", "--store=store", "--json", "--set=ingest.max_reject_fraction=0.1", *QUICK,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "run.json").write_text(done.stdout)
    return folder


def test_run_prints_its_document_and_nothing_else(shop: Path) -> None:
    run = json.loads((shop / "run.json").read_text())
    assert {"release", "gate", "catalog", "masked", "embedded", "trained", "seconds", "metrics", "report"} <= set(run)
    assert run["gate"] == "published"
    assert set(run["catalog"]) == {"rows", "added", "changed", "removed", "unchanged", "quarantined"}
    assert (run["catalog"]["rows"], run["catalog"]["quarantined"], run["embedded"]) == (12, 1, 11)
    assert run["seconds"]["total"] >= run["seconds"]["embed"]
    assert Path(run["report"]).read_text().startswith("<!")


def test_search_finds_the_query_itself(shop: Path) -> None:
    done = vitrine("search", "--store=store", "--image=photos/red/0.jpg", "-k", "3", "--json", cwd=shop)
    answer = json.loads(done.stdout)
    assert answer["release"] == json.loads((shop / "run.json").read_text())["release"]
    assert len(answer["hits"]) == 3
    assert set(answer["hits"][0]) == {"item_id", "score", "image_uri", "product_id", "category", "labels"}
    assert (answer["hits"][0]["item_id"], answer["hits"][0]["category"]) == ("red/0.jpg", "red")


def test_search_joins_what_it_is_given_and_keeps_to_the_filter(shop: Path) -> None:
    done = vitrine(
        "search", "--store=store", "--json", "-k=20", "--collapse", "--whole", "--where=category=blue",
        "--image=photos/red/0.jpg", "--image=photos/blue/1.jpg", "--item=blue/2.jpg", "--unlike-image=photos/red/1.jpg",
        cwd=shop,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {hit["item_id"] for hit in json.loads(done.stdout)["hits"]}
    assert found == {f"blue/{number}.jpg" for number in (0, 1, 3, 4, 5)}
    wrong = vitrine("search", "--store=store", "--item=blue/2.jpg", "--where=colour=blue", cwd=shop)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert "'colour'" in wrong.stderr
    assert "category" in wrong.stderr


def test_the_python_of_the_readme_runs(shop: Path, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    (tmp_path / "vitrine-store").symlink_to(shop / "store")
    (tmp_path / "query.jpg").symlink_to(shop / "photos" / "blue" / "3.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1.000 blue/3.jpg"


def test_the_commands_of_the_readme_are_understood() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    commands = [line.partition("#")[0] for line in readme.splitlines() if line.startswith("vitrine ")]
    assert len(commands) >= 3
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


def test_backfill_fills_in_what_is_chosen_and_says_why_there_is_no_release(shop: Path) -> None:
    options = ["--source=folder:photos", "--store=filled", "--set=ingest.max_reject_fraction=0.1", *QUICK]
    done = vitrine("backfill", *options, "--where=category=red", "--item=red/1.jpg", "--json", cwd=shop)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["items"], document["rows"], document["embedded"]) == (1, 12, 1)
    assert (document["through"], document["release"]) == ("embed", None)
    assert document["outcome"].startswith("No release: 1 of 12 items")
    for wrong, message in (("--since=tomorrow", "since is 'tomorrow'"), ("--pictures-per-second=-1", "expected 0")):
        refused = vitrine("backfill", *options, wrong, cwd=shop)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr


def test_train_prints_its_document_and_names_the_backbone(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE_DIR", str(shop / "cache"))
    done = vitrine(
        "train", "backbone", "rotation", "--source=folder:photos", "--store=trained", "--name=mine", "--json",
        "--set=size_px=32", "--set=max_epochs=1", "--set=batch_size=4", "--set=ingest.max_reject_fraction=0.1",
        cwd=shop,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"backbone", "name", "objective", "trained", "metrics", "epochs", "seconds"}
    assert (document["name"], document["objective"], document["trained"], document["epochs"]) == (
        "mine",
        "rotation",
        True,
        1,
    )
    assert "val_loss" in document["metrics"]
    manifest = shop / "trained" / "backbones" / document["backbone"] / "manifest.json"
    assert json.loads(manifest.read_text())["counts"]["pictures"] == 11


def test_status_and_verify_describe_the_store(shop: Path) -> None:
    run = json.loads((shop / "run.json").read_text())
    status = json.loads(vitrine("status", "--store=store", "--json", cwd=shop).stdout)
    assert status["production"] == run["release"]
    assert [release["release"] for release in status["releases"]] == [run["release"]]
    assert status["last_run"]["release"] == run["release"]
    verified = json.loads(vitrine("verify", "--store=store", "--json", cwd=shop).stdout)
    assert verified["ok"]
    assert {"name", "ok", "detail"} == set(verified["checks"][0])


def test_promote_overrules_the_gate_only_anyway_and_status_says_who_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
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


def test_verify_finds_a_flipped_bit(shop: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(shop / "store"), str(tmp_path / "store")], check=True)
    victim = next((tmp_path / "store" / "indexes" / "shards").glob("*/vectors.arrow"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = vitrine("verify", "--store=store", "--json", cwd=tmp_path)
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert not checks["checksums"]["ok"]
    assert "vectors.arrow" in checks["checksums"]["detail"]


def test_plan_says_what_a_run_would_do(shop: Path) -> None:
    done = vitrine("plan", "--source=folder:photos", "--store=store", "--json", *QUICK, cwd=shop)
    plan = json.loads(done.stdout)
    assert (plan["rows"], plan["to_read"], plan["gone"], plan["refit"]) == (12, 1, 0, False)
    assert plan["recipe"] == "Flat"
    fresh = json.loads(vitrine("plan", "--source=folder:photos", "--store=new", "--json", *QUICK, cwd=shop).stdout)
    assert (fresh["to_read"], fresh["refit"]) == (12, True)
    assert not (shop / "new").exists(), "a plan writes nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "--store=s", "--source=folder:absent"], 2, "absent"),
        (["run", "--store=s", "--source=folder:empty"], 2, "empty"),
        (["run", "--store=s", "--source=nothing"], 2, "KIND:URI"),
        (["run", "--store=s"], 2, "--source"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.backbone=resnet19"], 2, "resnet19"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.weights=file:nope.pt"], 1, "nope.pt"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.weights=file:notes.txt"], 1, "notes.txt"),
        (["run", "--source=folder:photos", "--store=notes.txt/s", "--set=embed.weights=random:0"], 1, "notes.txt"),
        (["search", "--store=s", "--image=photos/a.jpg"], 1, "nothing is published"),
        (["search", "--store=s", "--text=red dress", "--mode=classified"], 2, "give --image"),
        (["search", "--store=s", "--unlike-text=red", "--where=category=dress"], 2, "--image, --text or --item"),
        (["rollback", "--store=s"], 1, "no earlier release"),
        ([*TRAIN, "tripletts"], 2, "unknown objective 'tripletts'; expected one of multilabel"),
        ([*TRAIN, "triplet", "--set=margins=1"], 2, "has no key margins; it has backbone"),
        ([*TRAIN, "triplet", "--teacher=production"], 2, "has no key teacher"),
        ([*TRAIN, "triplet", "--set=margin"], 2, "key=value"),
        ([*TRAIN, "triplet", "--set=mask.sice_px=64"], 2, "unknown config key mask.sice_px"),
        ([*TRAIN, "triplet", "--set=weights=file:nope.pt"], 1, "nope.pt"),
        ([*TRAIN, "triplet", "--set=weights=artifact:nobody"], 2, "no backbone 'nobody'"),
        (["train", "segmenter", "--source=folder:photos", "--store=s", "--set=mask.enabled=false"], 2, "mask.enabled"),
        (["train", "head", "--source=folder:photos", "--store=s", "--set=embed.backbone=resnet19"], 2, "resnet19"),
        (["promote", "--store=s", "ghost"], 1, "ghost"),
        (["verify", "--store=ftp://host"], 2, "ftp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRINE_STORE", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(thumbnail(np.zeros((8, 8, 3), np.uint8), 8))
    (tmp_path / "notes.txt").write_text("not weights")
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vitrine: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["publish-everything"])
    assert raised.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
