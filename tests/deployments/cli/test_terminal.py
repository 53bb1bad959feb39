"""A catalogue's words are shown in a terminal and never obeyed there."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from deployments.cli.command import print_answer
from deployments.cli.main import main
from deployments.cli.terminal import escape_unprintable, visible
from tests.core.conftest import Shop

TITLE, CLEAR, FORGED, TURNED = "\x1b]0;pwned\x07", "\x9b2J\x7f", "red\r\n 1.000  forged", "\u202egpj.exe\u2066"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class HostileShop(Shop):
    """A shop whose rows hold what a terminal obeys, in the fields that a search prints."""

    @property
    def items(self) -> pl.DataFrame:
        words = pl.Series([TITLE, CLEAR, FORGED], dtype=pl.String)
        category = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit(TURNED + TITLE + FORGED)).otherwise(None)
        return super().items.with_columns(category.alias("category"), pl.lit(words).implode().alias("labels"))


@pytest.fixture
def shop(new_shop: Callable[[Path], Shop], tmp_path: Path) -> Shop:
    made = new_shop(tmp_path)
    made.__class__ = HostileShop
    made.publish()
    return made


def test_hits_are_one_line_each_and_move_no_cursor(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    query = ["search", "--store", shop.settings.store, "--item", "item-1-0", "-k", "6"]
    assert main(query) == 0
    out = capsys.readouterr().out
    assert not OBEYED.search(out), out
    assert len(out.splitlines()) == 6
    assert "\\x1b]0;pwned\\x07" in out
    assert "\\u202egpj.exe" in out

    assert main([*query, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert any(hit["category"] == TURNED + TITLE + FORGED for hit in hits)


@pytest.mark.parametrize(
    "asked",
    [["--item", TITLE], ["--where", f"category={CLEAR} or {TITLE}=x", "--item", "item-1-0"]],
    ids=["item", "where"],
)
def test_an_error_that_repeats_them_moves_no_cursor(
    asked: list[str], shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--store", shop.settings.store, *asked]) != 0
    said = capsys.readouterr().err
    assert not OBEYED.search(said), said
    assert len(said.splitlines()) == 1


def test_words_of_any_language_stay_as_they_are() -> None:
    for text in ("", "Größe 38 · 東京 · שמלה · ثوب · 👩🏽‍🎨 · नमस्ते", "a\\nb", "~!{}[]%s"):
        assert visible(text) == text
    assert visible("a\tb\nc\ud800") == "a\\tb\\nc\\ud800"


def test_a_terminal_that_lacks_letters_shows_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    escape_unprintable()
    print("caf\u00e9 \u6771")
    print_answer(argparse.Namespace(json=True), {"name": "\u00e9\U0001f600"}, [])
    assert isinstance(stream.buffer, io.BytesIO)
    text, document = stream.buffer.getvalue().decode("ascii").splitlines()
    assert (text, json.loads(document)) == ("caf\\xe9 \\u6771", {"name": "\u00e9\U0001f600"})
