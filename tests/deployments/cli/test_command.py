"""Settings and sources that the options name, and the answer of a command."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from deployments.cli.command import JSON, STORE, find_config, named_source, open_settings, print_answer, source_options
from retrieval_core.errors import BadConfig


def parse(*words: str) -> argparse.Namespace:
    return argparse.ArgumentParser(parents=[JSON, STORE, source_options()]).parse_args(words)


def test_an_option_wins_over_the_file_and_the_file_is_read_without_one(tmp_path: Path) -> None:
    toml = tmp_path / "vitrine.toml"
    toml.write_text('source = "folder:photos"\n[settings]\nstore = "from-the-file"\n')
    file_only = parse(f"--config={toml}")
    assert (named_source(file_only), open_settings(file_only).store) == ("folder:photos", "from-the-file")
    both = parse(f"--config={toml}", "--source=table:items.csv", "--store=elsewhere")
    assert (named_source(both), open_settings(both).store) == ("table:items.csv", "elsewhere")


def test_the_columns_of_the_file_belong_to_the_source(tmp_path: Path) -> None:
    toml = tmp_path / "vitrine.toml"
    toml.write_text('source = "table:items.csv"\n[columns]\nitem_id = "sku"\nfield.season = "collection"\n')
    assert named_source(parse(f"--config={toml}")) == "table:items.csv?item_id=sku&field.season=collection"
    other = parse(f"--config={toml}", "--source=jsonl:items.jsonl?image_uri=photo")
    assert named_source(other) == "jsonl:items.jsonl?image_uri=photo&item_id=sku&field.season=collection"
    with pytest.raises(BadConfig, match=r"both .* name item_id"):
        named_source(parse(f"--config={toml}", "--source=table:items.csv?item_id=id"))
    open_settings(parse(f"--config={toml}", "--store=x"))


def test_the_config_of_the_working_folder_is_read_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRINE_STORE", raising=False)
    arguments = parse()
    find_config(arguments)
    assert arguments.config is None
    Path("vitrine.toml").write_text('\ufeffsource = "folder:photos"\n[settings]\nstore = "here"\n')
    Path("other.toml").write_text('[settings]\nstore = "there"\n')
    for words, store in (((), "here"), (("--config=other.toml",), "there")):
        arguments = parse(*words)
        find_config(arguments)
        assert open_settings(arguments).store == store


def test_no_source_is_wrong_usage() -> None:
    with pytest.raises(BadConfig, match="no source named: give --source KIND:URI"):
        named_source(parse())


def test_pictures_are_read_from_the_endpoint_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", "")  # restored after the test
    toml = tmp_path / "vitrine.toml"
    toml.write_text('[settings]\ns3_endpoint_url = "http://127.0.0.1:9000"\n')
    monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL")
    open_settings(parse(f"--config={toml}"))
    assert os.environ["VITRINE_S3_ENDPOINT_URL"] == "http://127.0.0.1:9000"


def test_values_to_set_are_collected_in_order() -> None:
    assert parse().set == []
    assert parse("--set=embed.size_px=64", "--set", "mask.enabled=false").set == [
        "embed.size_px=64",
        "mask.enabled=false",
    ]


def test_an_answer_is_one_document_or_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(parse("--json"), {"name": "Größe\n\x1b[2J"}, ["never printed"])
    out = capsys.readouterr().out
    assert (json.loads(out), out.count("\n")) == ({"name": "Größe\n\x1b[2J"}, 1)
    print_answer(parse(), {}, ["first\nforged", "second \x1b[2J"])
    assert capsys.readouterr().out == "first\\nforged\nsecond \\x1b[2J\n"
