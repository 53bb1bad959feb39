"""The config of a comparison from the tables of its TOML file, with `[defaults]`, `[training]` and `like` filled in.

What a variant or model sets itself always wins. Shared sizes and framings apply only to networks that can have them: a
network that was trained, or that accepts one input size only, keeps its own.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrieval_core.config.text import first_line, nearest, parse_override, read_toml
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import CLASSIFIER_KEYS, ComparisonConfig, VariantConfig, model_of
from retrieval_core.train.config import CONFIG_BY_OBJECTIVE, AnyTraining, Training

Table = dict[str, Any]

_NETWORK_KEYS = ("backbone", "weights", "size_px", "framing")
_SET_BY_VARIANTS = ("head.enabled", "reduce.dims", "classify.enabled", "classify.backbone", "classify.weights")
_IGNORED_TABLES = ("source", "columns", "settings")


def load_comparison(path: Path, overrides: list[str]) -> ComparisonConfig:
    """Return the config of a TOML file and `table.key=value` overrides, of which the later win.

    A file with `extends = PATH`, relative to itself, has the tables of that file too, except those it has itself. An
    override reaches a variant or model by name: `models.NAME.max_epochs=3`. Raises `BadConfig`.
    """
    tables = compose(_read_extended(path), overrides)
    try:
        return ComparisonConfig.model_validate(tables)
    except ValidationError as error:
        raise BadConfig(first_line(error, model=ComparisonConfig)) from error


def _read_extended(path: Path) -> Table:
    document = read_toml(path)
    base = document.pop("extends", None)
    if base is None:
        return document
    return read_toml(path.parent / str(base)) | document


def compose(document: Table, overrides: list[str]) -> Table:
    """Return the fields of a `ComparisonConfig` from a TOML document and `table.key=value` overrides.

    `[defaults]` holds keys of every variant; its keys of the network apply to the models too. `[training]` holds keys
    of every model. A variant with `like = NAME` takes the keys that variant NAME sets. Raises `BadConfig`.
    """
    tables = {key: deepcopy(value) for key, value in document.items() if key not in _IGNORED_TABLES}
    _refuse_unknown_keys("", tables, {*ComparisonConfig.model_fields, "defaults", "training"} - {"teachers"})
    _check_shapes(tables)
    for override in overrides:
        _override(tables, override)
    defaults, training = tables.pop("defaults", {}), tables.pop("training", {})
    variants, models = tables.pop("variants", []), tables.pop("models", {})
    _refuse_unknown_keys("defaults.", defaults, set(VariantConfig.model_fields) - {"name"})
    _refuse_unknown_keys("training.", training, set(Training.model_fields))
    for stage, _, key in (name.partition(".") for name in _SET_BY_VARIANTS):
        if key in tables.get(stage, {}):
            raise BadConfig(f"config key {stage}.{key} is set by the variants; leave it out of [{stage}]")
    shared = {key: defaults[key] for key in _NETWORK_KEYS if key in defaults and not model_of(str(defaults[key]))}
    teachers = {name: table.pop("teacher_variant") for name, table in models.items() if "teacher_variant" in table}
    trainings = _trainings(models, shared | training)
    return {
        **tables,
        "variants": tuple(_variant(_with_like(variant, variants), defaults, trainings) for variant in variants),
        "models": trainings,
        "teachers": teachers,
    }


def _check_shapes(tables: Table) -> None:
    """Raise `BadConfig` if the document has a value where a table belongs."""
    for key, value in tables.items():
        is_list = key in ("variants", "tables")
        entries = value if is_list and isinstance(value, list) else [value]
        entries = list(value.values()) if key == "models" and isinstance(value, dict) else entries
        if key not in ("title", "about") and not all(isinstance(entry, dict) for entry in entries):
            raise BadConfig(
                f"config {key} is {value!r}; expected {f'[[{key}]]' if is_list else f'[{key}]'} and its keys"
            )


def _override(tables: Table, text: str) -> None:
    table, key, value = parse_override(text)
    if table not in ("variants", "models"):
        tables.setdefault(table, {})[key] = value
        return
    name, _, key = key.rpartition(".")
    variants = {str(variant.get("name", "")): variant for variant in tables.get("variants", [])}
    entries = variants if table == "variants" else tables.get("models", {})
    if name not in entries:
        raise BadConfig(f"--set {text}: no {table[:-1]} {name!r}; there are {', '.join(entries) or 'none'}")
    entries[name][key] = value


def _refuse_unknown_keys(prefix: str, table: Table, known: set[str]) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise BadConfig(f"unknown config key {prefix}{unknown[0]}{nearest(unknown[0], sorted(known))}")


def _trainings(models: dict[str, Table], shared: Table) -> dict[str, AnyTraining]:
    """Return each model's config; a model that starts from another model takes its backbone."""
    trainings: dict[str, AnyTraining] = {}

    def add(name: str, waiting: tuple[str, ...]) -> AnyTraining:
        if name not in trainings:
            table = models[name]
            start = model_of(str((shared | table).get("weights", "")))
            has_start = start in models and start not in waiting
            inherited = {"backbone": add(start, (*waiting, name)).backbone} if has_start else {}
            trainings[name] = _training(name, _applicable(shared, table) | inherited | table)
        return trainings[name]

    return {name: add(name, (name,)) for name in models}


def _training(name: str, table: Table) -> AnyTraining:
    kind = CONFIG_BY_OBJECTIVE.get(table.get("objective", ""))
    if kind is None:
        expected = ", ".join(CONFIG_BY_OBJECTIVE)
        raise BadConfig(f"models.{name} has objective {table.get('objective', '')!r}; expected one of {expected}")
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"models.{name}", kind)) from error


def _with_like(variant: Table, variants: list[Table]) -> Table:
    """Return the keys of a variant, over those of the variants that it is like."""
    tables = {str(table.get("name", "")): table for table in variants}
    merged, seen = dict(variant), [str(variant.get("name", ""))]
    while "like" in merged:
        like = str(merged.pop("like"))
        if like not in tables or like in seen:
            problem = "which is like itself" if like in seen else f"but there are {', '.join(tables)}"
            raise BadConfig(f"variant {seen[0]!r} is like {like!r}, {problem}")
        seen.append(like)
        merged = tables[like] | merged
    return merged


def _variant(table: Table, defaults: Table, trainings: dict[str, AnyTraining]) -> VariantConfig:
    model = trainings.get(model_of(str((defaults | table).get("weights", ""))))
    filled = _applicable(defaults, table) | ({"backbone": model.backbone} if model else {}) | table
    if filled.get("mode") != "classified":
        filled = {key: value for key, value in filled.items() if key not in CLASSIFIER_KEYS or key in table}
    try:
        return VariantConfig.model_validate(filled)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"variants.{table.get('name', '')}", VariantConfig)) from error


def _applicable(shared: Table, table: Table) -> Table:
    """Return the shared keys that apply to one table: not a size or framing that its network cannot take."""
    kind, _, name = str((shared | table).get("weights", "")).partition(":")
    is_trained = kind in ("model", "artifact") and bool(name)
    backbone = str((shared | table).get("backbone", ""))
    has_shared_size = bool(shared.get("size_px")) and "size_px" not in table
    is_fixed = has_shared_size and backbone and not get_card(backbone).resizable
    dropped = {"size_px", "framing"} if is_trained else {"size_px"} if is_fixed else set()
    return {key: value for key, value in shared.items() if key not in dropped}
