"""`vitrine config`: every key of a `vitrine.toml`, and whether a file has only such keys."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from deployments.cli.command import JSON, Commands, add_command, check_config, print_answer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

WIDTH = 100
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}
INTRODUCTION = (
    "Every key of a vitrine.toml with its default. Remove the # of a line to set its key.",
    'source = "KIND:URI" above the first table names the catalogue, for example "folder:photos".',
    'A table [columns] says which columns of a table are what: item_id = "sku", image_uri = ["front", "back"].',
)


class Key(NamedTuple):
    """A key of a table, with its default as a JSON value, its meaning and its bounds ("" where it has none)."""

    table: str
    key: str
    default: Any
    meaning: str
    bounds: str


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    text = "print every config key with its default, meaning and bounds, as a vitrine.toml"
    config = add_command(commands, "config", _config, text, JSON)
    text = "instead, check the tables, keys and values of a vitrine.toml or of a comparison"
    config.add_argument("--check", type=Path, metavar="FILE", help=text)


def _config(arguments: argparse.Namespace) -> int:
    if arguments.check:
        check_config(arguments.check)
        print_answer(arguments, {"file": str(arguments.check), "ok": True}, [f"ok  {arguments.check}"])
        return 0
    keys = [*_keys()]
    print_answer(arguments, {"keys": [key._asdict() for key in keys]}, _template(keys))
    return 0


def _keys() -> Iterator[Key]:
    from retrieval_core.config.stages import stage_models
    from retrieval_core.settings import Pools, Settings
    from retrieval_core.train.config import CONFIG_BY_OBJECTIVE

    trainings = {f"train.{objective}": model for objective, model in CONFIG_BY_OBJECTIVE.items()}
    settings: dict[str, type[BaseModel]] = {"settings": Settings, "settings.pools": Pools}
    models = settings | stage_models() | trainings
    for table, model in models.items():
        defaults = model.model_construct().model_dump(mode="json")
        for name, field in model.model_fields.items():
            if name != "objective" and f"{table}.{name}" not in models:
                yield Key(table, name, defaults[name], field.description or "", _bounds(field))


def _bounds(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(map(json.dumps, get_args(field.annotation)))
    limits = {name: getattr(limit, name) for limit in field.metadata for name in BOUNDS if hasattr(limit, name)}
    return ", ".join(f"{words} {limits[name]}" for name, words in BOUNDS.items() if name in limits)


def _template(keys: list[Key]) -> Iterator[str]:
    """Yield the lines of a `vitrine.toml` that sets nothing and explains everything."""
    yield from (f"# {line}" for line in INTRODUCTION)
    table = ""
    for key in keys:
        if key.table != table:
            table = key.table
            yield from ("", f"[{table}]")
        bounds = f" ({key.bounds})" if key.bounds else ""
        yield from (f"# {line}" for line in wrap(key.meaning + bounds, WIDTH))
        yield f"#{key.key} = {json.dumps(key.default, ensure_ascii=False)}"  # these values read the same in TOML
