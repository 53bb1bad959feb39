"""`vitrine config` prints every key as a file that it accepts, and names what a file has that no key is."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.cli.command import check_config
from deployments.cli.config import _keys, _template
from retrieval_core.config.stages import NightlyConfig, stage_models
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings
from tests.deployments.cli.conftest import Done

STAGE_KEYS = [(stage, key) for stage, model in stage_models().items() for key in model.model_fields]
KEYS = [*STAGE_KEYS, *(("settings", key) for key in Settings.model_fields)]
WHOLE = "\n".join(line.removeprefix("#") for line in _template([*_keys()]) if line[:2] != "# ")  # sets every default
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def one_edit_away(name: str) -> st.SearchStrategy[str]:
    """Draw a name from which one letter was removed, added, replaced or swapped with the next."""
    places = st.integers(0, len(name) - 1)
    removed = places.map(lambda i: name[:i] + name[i + 1 :])
    swapped = places.map(lambda i: name[:i] + name[i : i + 2][::-1] + name[i + 2 :])
    added = st.builds(lambda i, letter: name[:i] + letter + name[i:], places, st.sampled_from(LETTERS))
    replaced = st.builds(lambda i, letter: name[:i] + letter + name[i + 1 :], places, st.sampled_from(LETTERS))
    upper = st.sampled_from([name.upper(), name.title()])
    return st.one_of(removed, swapped, added, replaced, upper).filter(lambda edited: edited not in ("", name))


SHIPPED = sorted((Path(__file__).parents[3] / "configs").rglob("*.toml"))


def write(folder: Path, text: str, has_bom: bool = False) -> Path:
    path = folder / "edited.toml"
    path.write_bytes(b"\xef\xbb\xbf" * has_bom + text.encode())
    return path


@settings(max_examples=200)
@given(data=st.data(), table_and_key=st.sampled_from(KEYS))
def test_a_key_one_edit_away_is_refused_with_the_nearest(
    data: st.DataObject, table_and_key: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table, key = table_and_key
    siblings = {name for home, name in KEYS if home == table}
    edited = data.draw(one_edit_away(key).filter(lambda name: name not in siblings))
    path = write(tmp_path_factory.getbasetemp(), f"[{table}]\n{edited} = 1\n", data.draw(st.booleans()))
    with pytest.raises(BadConfig, match=rf"unknown config key {table}\.{edited}; did you mean \w+\?$"):
        check_config(path)


@settings(max_examples=200)
@given(data=st.data(), table=st.sampled_from([*stage_models(), "settings", "train", "source"]))
def test_a_table_one_edit_away_is_refused_with_the_nearest(
    data: st.DataObject, table: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    edited = data.draw(one_edit_away(table))
    path = write(tmp_path_factory.getbasetemp(), f"[{edited}]\nmode = 1\n", data.draw(st.booleans()))
    with pytest.raises(BadConfig, match=rf"unknown table {edited}; did you mean \w+\?$"):
        check_config(path)


@settings(max_examples=200)
@given(table_and_key=st.sampled_from(KEYS), home=st.sampled_from(["", *stage_models(), "settings", "train"]))
def test_a_key_in_another_place_is_refused(
    table_and_key: tuple[str, str], home: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table, key = table_and_key
    texts = [f"[{table}.{home or table}]\n{key} = 1\n"]
    if (home, key) not in KEYS:
        texts.append(f"[{home}]\n{key} = 1\n" if home else f"{key} = 1\n")
    for text in texts:
        with pytest.raises(BadConfig, match=r"unknown|expected"):
            check_config(write(tmp_path_factory.getbasetemp(), text))


@settings(max_examples=200)
@given(data=st.data())
def test_no_edit_of_a_whole_file_is_ignored(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file with one other character is refused in one line, or has only keys that there are."""
    place, character = (
        data.draw(st.integers(0, len(WHOLE) - 1)),
        data.draw(st.sampled_from([*LETTERS, *'[].="\n#9é', ""])),
    )
    text = WHOLE[:place] + character + WHOLE[place + data.draw(st.integers(0, 2)) :]
    try:
        check_config(write(tmp_path_factory.getbasetemp(), text, data.draw(st.booleans())))
    except BadConfig as error:
        assert str(error).count("\n") == 0  # noqa: PT017
    else:
        tables: dict[str, Any] = tomllib.loads(text)
        assert {(table, key) for table, keys in tables.items() if table != "train" for key in keys} <= set(KEYS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[gates]\nmode = "hold"', "unknown table gates; did you mean gate?"),
        ('[Gate]\nmode = "hold"', "unknown table Gate; did you mean gate?"),
        ('mode = "hold"', "unknown key mode; it belongs in [gate]"),
        ("quux = 1", "unknown key quux; expected one of ingest, mask"),
        ("source = 3", "source is 3; expected text"),
        ("[[gate]]\nmode = 'hold'", "expected a table [gate] with keys"),
        ("settings = 3", "expected a table [settings] with keys"),
        ("[train]\ntriplet = 3", "expected a table [train.triplet] with keys"),
        ("[train.triplets]\nmargin = 1", "unknown objective 'triplets'; did you mean triplet?"),
        ("[train.triplet]\nmargins = 1", "unknown config key train.triplet.margins; did you mean margin?"),
        ("[gate.mode]\nmode = 1", "config gate.mode: Input should be 'block'"),
        ("[settings]\nthreads = -1", "config settings.threads: Input should be greater than or equal to 0"),
        ("[[variants]]\nname = 'a'\nbackbon = 'x'", "unknown config key variants.a.backbon; did you mean backbone?"),
    ],
)
def test_a_file_with_a_mistake_is_one_line_that_names_it(
    text: str, says: str, vitrine: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "v.toml").write_text(text)
    for command in (["config", "--check=v.toml"], ["search", "--store=s", "--item=a", "--config=v.toml"]):
        done = vitrine(*command, cwd=tmp_path)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert says in done.err


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_shipped_file_is_accepted(path: Path) -> None:
    check_config(path)


def test_the_printed_keys_are_a_file_that_sets_every_default(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    template = vitrine("config", cwd=tmp_path).out
    lines = [line.removeprefix("#") if line[:2] not in ("# ", "#\n") else "" for line in template.splitlines()]
    path = tmp_path / "all.toml"
    path.write_text("\n".join(lines))
    assert vitrine("config", "--check=all.toml", cwd=tmp_path).out == "ok  all.toml\n"
    assert NightlyConfig.load(path, []) == NightlyConfig()
    tables: dict[str, Any] = tomllib.loads(path.read_text())
    assert {(table, key) for table, keys in tables.items() if table != "train" for key in keys} == set(KEYS)
    assert tables["train"]["triplet"]["margin"] == 1.0


def test_every_key_is_explained_with_its_bounds(vitrine: Callable[..., Done], tmp_path: Path) -> None:
    keys = json.loads(vitrine("config", "--json", cwd=tmp_path).out)["keys"]
    assert all(key["meaning"] for key in keys)
    bounds = {(key["table"], key["key"]): key["bounds"] for key in keys}
    assert bounds["gate", "mode"] == 'one of "block", "warn", "off", "hold"'
    assert bounds["mask", "size_px"] == "at least 64, at most 512, a multiple of 32"
    assert bounds["train.triplet", "margin"] == "more than 0"
