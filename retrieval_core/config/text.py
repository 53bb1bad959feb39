"""Configuration as a person writes it: TOML files, overrides, and mistakes said in one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from retrieval_core.errors import BadConfig


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a `vitrine.toml`. Raises `BadConfig` where it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read config {path}: {error}") from error


def toml_table(path: Path | None, *names: str) -> dict[str, Any]:
    """Return a copy of the table `[NAME.NAME…]` of a TOML file, empty where there is none. Raises `BadConfig`."""
    table: Any = read_toml(path) if path else {}
    for depth, name in enumerate(names):
        table = table.get(name, {})
        if not isinstance(table, dict):
            where = ".".join(names[: depth + 1])
            raise BadConfig(f"{path}: {where} is {table!r}; expected a table [{where}] with keys")
    return dict(table)


def parse_override(text: str) -> tuple[str, str, Any]:
    """Split `stage.key=value`; the value is parsed as TOML or else kept as text. Raises `BadConfig`."""
    name, equals, value = text.partition("=")
    stage, dot, key = name.strip().partition(".")
    if not (equals and dot and stage and key):
        raise BadConfig(f"--set expects stage.key=value, got {text!r}; for example --set embed.backbone=resnet50")
    try:
        return stage, key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return stage, key, value.strip()


def nearest(name: str, names: Iterable[str], min_similarity: float = 0.6) -> str:
    """Return a hint for an unknown name: the nearest of `names`, or all of them where none is near."""
    by_folded = {each.casefold(): each for each in names}
    near = difflib.get_close_matches(name.casefold(), by_folded, 1, min_similarity)
    return f"; did you mean {by_folded[near[0]]}?" if near else f"; expected one of {', '.join(by_folded.values())}"


def first_line(error: ValidationError, inside: str = "", model: type[BaseModel] | None = None) -> str:
    """Return the first error of a config as one line; `inside` is the path of the config within a larger one.

    The nearest key to an unknown one is named where `model`, the config's model, is given.
    """
    first = error.errors()[0]
    where = ".".join([inside] * bool(inside) + [str(part) for part in first["loc"]])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        *path, name = first["loc"]
        keys = _model_at(model, path).model_fields if model else ()
        return f"unknown config key {where}{more}{nearest(str(name), keys) if keys else ''}"
    return f"config {where}: {first['msg']}, got {first['input']!r}{more}"


def _model_at(model: type[BaseModel], path: Iterable[int | str]) -> type[BaseModel]:
    for name in path:
        model = type(model.model_fields[str(name)].default)
    return model
