"""From the tables of a comparison's TOML to its config: what `[defaults]`, `[training]` and `like` fill in.

What a table writes itself always wins. Sizes and framings given for all are only for networks that can have them: one
that was trained, or that sees squares of one size only, keeps its own.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrieval_core.config import first_line, parse_override, read_toml
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, VariantConfig, model_of
from retrieval_core.train.config import CONFIG_BY_OBJECTIVE, AnyTraining, Training

Table = dict[str, Any]

_NETWORK = ("backbone", "weights", "size_px", "framing")
_CLASSIFIER = ("classifier", "classifier_weights")
_SAID_BY_VARIANTS = ("head.enabled", "reduce.dims", "classify.enabled", "classify.backbone", "classify.weights")
_ELSEWHERE = ("source", "settings")


def load_comparison(path: Path, overrides: list[str]) -> ComparisonConfig:
    """Config of a TOML file and `table.key=value` overrides, the later winning; `[defaults]` and `like` filled in.

    An override reaches one variant or model by its name: `models.NAME.max_epochs=3`. Raises `BadConfig`.
    """
    tables = compose(read_toml(path), overrides)
    try:
        return ComparisonConfig.model_validate(tables)
    except ValidationError as error:
        raise BadConfig(first_line(error)) from error


def compose(document: Table, overrides: list[str]) -> Table:
    """The fields of a `ComparisonConfig`, from a TOML document and `table.key=value` overrides.

    `[defaults]` hold keys of every variant, and what they say of the network holds for the models too; `[training]`
    holds keys of every model. A variant's `like = NAME` takes what that variant writes. Raises `BadConfig`.
    """
    tables = {key: deepcopy(value) for key, value in document.items() if key not in _ELSEWHERE}
    _refuse_unknown("", tables, {*ComparisonConfig.model_fields, "defaults", "training"} - {"teachers"})
    _check_shapes(tables)
    for override in overrides:
        _override(tables, override)
    defaults, training = tables.pop("defaults", {}), tables.pop("training", {})
    variants, models = tables.pop("variants", []), tables.pop("models", {})
    _refuse_unknown("defaults.", defaults, set(VariantConfig.model_fields) - {"name"})
    _refuse_unknown("training.", training, set(Training.model_fields))
    for stage, _, key in (name.partition(".") for name in _SAID_BY_VARIANTS):
        if key in tables.get(stage, {}):
            raise BadConfig(f"config key {stage}.{key} is for the variants to say; leave it out of [{stage}]")
    shared = {key: defaults[key] for key in _NETWORK if key in defaults and not model_of(str(defaults[key]))}
    teachers = {name: table.pop("teacher_variant") for name, table in models.items() if "teacher_variant" in table}
    trained = _trainings(models, shared | training)
    written = [_with_like(variant, variants) for variant in variants]
    return {
        **tables,
        "variants": tuple(_variant(own, defaults, trained) for own in written),
        "models": trained,
        "teachers": teachers,
    }


def _check_shapes(tables: Table) -> None:
    """Raises `BadConfig` where the document has a value in a table's place."""
    for key, value in tables.items():
        listed = key in ("variants", "tables")
        entries = value if listed and isinstance(value, list) else [value]
        entries = list(value.values()) if key == "models" and isinstance(value, dict) else entries
        if key not in ("title", "about") and not all(isinstance(entry, dict) for entry in entries):
            raise BadConfig(
                f"config {key} is {value!r}; expected {f'[[{key}]]' if listed else f'[{key}]'} and its keys"
            )


def _override(tables: Table, text: str) -> None:
    place, key, value = parse_override(text)
    if place not in ("variants", "models"):
        tables.setdefault(place, {})[key] = value
        return
    name, _, key = key.rpartition(".")
    variants = {str(variant.get("name", "")): variant for variant in tables.get("variants", [])}
    named = variants if place == "variants" else tables.get("models", {})
    if name not in named:
        raise BadConfig(f"--set {text}: no {place[:-1]} {name!r}; there are {', '.join(named) or 'none'}")
    named[name][key] = value


def _refuse_unknown(where: str, table: Table, known: set[str]) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise BadConfig(f"unknown config key {where}{unknown[0]}; known are {', '.join(sorted(known))}")


def _trainings(models: dict[str, Table], shared: Table) -> dict[str, AnyTraining]:
    """Each model's config; one that starts from another of them has its network, size and framing."""
    made: dict[str, AnyTraining] = {}

    def make(name: str, waiting: tuple[str, ...]) -> AnyTraining:
        if name not in made:
            own, start = models[name], model_of(str((shared | models[name]).get("weights", "")))
            known = start in models and start not in waiting
            given = {"backbone": make(start, (*waiting, name)).backbone} if known else {}
            made[name] = _training(name, _fitting(shared, own) | given | own)
        return made[name]

    return {name: make(name, (name,)) for name in models}


def _training(name: str, table: Table) -> AnyTraining:
    kind = CONFIG_BY_OBJECTIVE.get(table.get("objective", ""))
    if kind is None:
        wanted = ", ".join(CONFIG_BY_OBJECTIVE)
        raise BadConfig(f"models.{name} has objective {table.get('objective', '')!r}; expected one of {wanted}")
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"models.{name}")) from error


def _with_like(variant: Table, variants: list[Table]) -> Table:
    """What a variant writes, over what the variants it is like write."""
    named = {str(other.get("name", "")): other for other in variants}
    written, seen = dict(variant), [str(variant.get("name", ""))]
    while "like" in written:
        like = str(written.pop("like"))
        if like not in named or like in seen:
            how = "which is like itself" if like in seen else f"but there are {', '.join(named)}"
            raise BadConfig(f"variant {seen[0]!r} is like {like!r}, {how}")
        seen.append(like)
        written = named[like] | written
    return written


def _variant(written: Table, defaults: Table, trained: dict[str, AnyTraining]) -> VariantConfig:
    name = str(written.get("name", ""))
    model = trained.get(model_of(str((defaults | written).get("weights", ""))))
    filled = _fitting(defaults, written) | ({"backbone": model.backbone} if model else {}) | written
    if filled.get("mode") != "classified":
        filled = {key: value for key, value in filled.items() if key not in _CLASSIFIER or key in written}
    try:
        return VariantConfig.model_validate(filled)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"variants.{name}")) from error


def _fitting(shared: Table, own: Table) -> Table:
    """Of what is said for all, what can hold for one: a made network keeps the size and framing it was made with."""
    kind, _, name = str((shared | own).get("weights", "")).partition(":")
    made = kind in ("model", "artifact") and bool(name)
    backbone = str((shared | own).get("backbone", ""))
    fixed = bool(shared.get("size_px")) and "size_px" not in own and backbone and not get_card(backbone).resizable
    dropped = {"size_px", "framing"} if made else {"size_px"} if fixed else set()
    return {key: value for key, value in shared.items() if key not in dropped}
