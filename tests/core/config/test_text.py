"""Tables and overrides are read from text, and a mistake in them is one clear line."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from retrieval_core.config.text import first_line, nearest, parse_override, read_toml, toml_table
from retrieval_core.errors import BadConfig


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size_px: int = 1


class Outer(BaseModel):
    embed: Inner = Inner()


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"absent\.toml"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[embed")
    with pytest.raises(BadConfig, match=r"broken\.toml"):
        read_toml(tmp_path / "broken.toml")


def test_a_table_is_found_at_any_depth_and_empty_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "vitrine.toml"
    path.write_text("[train.triplet]\nmargin = 1\n[embed]\nsize_px = 2\n")
    assert toml_table(path, "train", "triplet") == {"margin": 1}
    assert toml_table(path, "head") == toml_table(None, "head") == {}
    with pytest.raises(BadConfig, match=r"embed\.size_px is 2; expected a table \[embed\.size_px\]"):
        toml_table(path, "embed", "size_px")


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("reduce.dims=[32, 16]", ("reduce", "dims", [32, 16])),
        ("embed.weights=random:0", ("embed", "weights", "random:0")),  # not TOML: kept as text
        (" gate.mode = hold ", ("gate", "mode", "hold")),
        ("index.recipe=PCA64,IVF=8", ("index", "recipe", "PCA64,IVF=8")),
    ],
)
def test_an_override_is_a_stage_a_key_and_a_value(text: str, override: tuple[str, str, Any]) -> None:
    assert parse_override(text) == override


@pytest.mark.parametrize("text", ["backbone", "embed.backbone", "backbone=resnet18", ".backbone=x", "embed.=x", ""])
def test_an_override_without_stage_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match=r"expects stage\.key=value"):
        parse_override(text)


def test_a_name_that_is_near_none_gets_them_all() -> None:
    assert nearest("Gates", ["mask", "gate"]) == "; did you mean gate?"
    assert nearest("quux", ["mask", "gate"]) == "; expected one of mask, gate"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sizepx": 1}, "unknown config key variants.a.embed.sizepx; did you mean size_px?"),
        ({"size_px": "x"}, "config variants.a.embed.size_px: Input should be a valid integer"),
        ({"size_px": "x", "colour": 1}, "(and 1 more)"),
    ],
)
def test_the_first_error_of_a_config_is_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"embed": values})
    line = first_line(raised.value, inside="variants.a", model=Outer)
    assert says in line
    assert "\n" not in line
