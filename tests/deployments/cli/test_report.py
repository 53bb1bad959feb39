"""`vitrine report` and `vitrine explain` as a person and a script meet them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Catalog, Release
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.store.uris import open_store
from tests.deployments.conftest import FIRST, SECOND

NAME = "evil\x1b]0;title\x07\u202e\nfake line"
NEW = {"release": "e" * 32}


@pytest.fixture
def where(shop: Any) -> str:
    return f"--store={shop.store.url}"


def test_explain_prints_a_page_of_text_or_one_document(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", where, "--item=item-8-0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"item        item-8-0: in the index, release {SECOND[:12]}")
    assert 20 <= len(lines) <= 30
    assert any(line.startswith("itself") and "place 1" in line for line in lines)
    assert sum(line.lstrip().startswith(("0.", "1.", "-0.")) for line in lines) == 10
    assert SECOND[:12] in lines[-1], "an item of the second half came with the second release"
    assert main(["explain", where, "--item=item-8-0", "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert (story["release"], story["state"], story["itself"]["place"]) == (SECOND, "indexed", 1)
    assert [(event["release"], event["what"]) for event in story["history"]["events"]] == [(SECOND, "came")]


def test_explain_tells_of_an_item_that_the_release_does_not_have(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", where, "--item=item-8-0", f"--release={FIRST[:6]}"]) == 0
    assert "not in this release" in capsys.readouterr().out
    assert main(["explain", where, "--item=item-0-0", f"--release={FIRST[:6]}"]) == 0
    assert f"{FIRST[:12]}  came" in capsys.readouterr().out


def test_explain_writes_a_page(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "item.html"
    assert main(["explain", where, "--item=item-8-0", f"--out={page}"]) == 0
    assert str(page) in capsys.readouterr().out
    assert page.read_text().count("<img") == 11
    assert main(["explain", where, "--item=item-8-0", f"--out={tmp_path / 'absent' / 'item.html'}"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "cannot be written" in printed.err


@pytest.mark.parametrize("item_id", ["item-8-00", "\x1b[2Jitem-8-0", "bad\udcffbytes"], ids=ascii)
def test_a_stranger_is_one_line(where: str, item_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", where, "--item", item_id]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "no item" in printed.err
    assert "\x1b" not in printed.err


def test_a_terminal_shows_hostile_words_and_never_obeys_them(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import polars as pl

    items = shop.items.with_columns(pl.lit(NAME).alias("category"), pl.lit([NAME]).alias("labels"))
    part = put_part(shop.store, f"catalogs/{NEW['release']}/items.parquet", table_bytes(items), len(items))
    catalog = Catalog(fingerprint=NEW["release"], parts=(part,)).seal(shop.store)
    old = releases.get_release(shop.store, SECOND)
    old.model_copy(update={"fingerprint": NEW["release"], "catalog": catalog.ref}).seal(shop.store)
    assert main(["explain", f"--store={shop.store.url}", "--item=item-8-0", f"--release={NEW['release']}"]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert not any(line.startswith("fake line") for line in out.splitlines())
    assert r"\x1b]0;title" in out


def test_report_of_the_first_release_is_the_one_that_its_night_wrote(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(published)
    run = json.loads((published / "run.json").read_text())
    before = set(open_store("store").list(""))
    assert main(["report", "--store=store", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"release", "against", "report", "verdict", "reason", "metrics", "page"}
    assert (document["release"], document["against"], document["verdict"]) == (run["release"], "", "published")
    assert Path(document["page"]).samefile(run["report"])
    assert document["metrics"].items() >= run["metrics"].items()
    assert set(open_store("store").list("")) == before, "nothing was made, and no lease stays behind"
    copy = published / "copy.html"
    assert main(["report", "--store=store", f"--out={copy}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"published  {run['release'][:12]} without a baseline\nreason     ")
    assert copy.read_bytes() == Path(run["report"]).read_bytes()


def test_a_report_copied_into_a_folder_has_the_lists_that_it_links_to(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(published)
    run = json.loads((published / "run.json").read_text())
    assert main(["report", "--store=store", f"--out={tmp_path}"]) == 0
    copies = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(copies) == {"report.html", "fixes.html", "fixes.csv"}
    assert capsys.readouterr().out.count("\ncopy ") == len(copies)
    assert copies == {name: (Path(run["report"]).parent / name).read_bytes() for name in copies}
    links = set(re.findall(r'href="([^"#:]+)"', copies["report.html"].decode()))
    assert links <= set(copies), "no link of the page leads nowhere"


def test_report_of_a_pair_is_made_without_a_server_and_a_held_verdict_is_an_answer(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(published / "store", tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nobody listens there
    store = open_store("store")
    production = releases.read_alias(store, releases.PRODUCTION)
    assert production is not None
    old = releases.get_release(store, production.release)
    held = old.config | {"gate": old.config["gate"] | {"mode": "hold"}}
    Release.model_validate(old.model_dump() | {"fingerprint": "f" * 32, "config": held}).seal(store)
    assert main(["report", "--store=store", f"--release={'f' * 8}", "--against=production", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["release"], document["against"]) == ("f" * 32, old.fingerprint)
    assert document["verdict"] == "held"
    assert document["reason"]
    assert "<html" in Path(document["page"]).read_text()
    assert releases.read_alias(store, releases.PRODUCTION) == production
    assert main(["report", "--store=store", "--release=feed"]) == 1
    assert "no release 'feed'" in capsys.readouterr().err
