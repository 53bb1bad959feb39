"""What an operator sees in Prefect's forms: every field described and bounded, and none that jumps about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.importtools import import_object

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
DEPLOYMENTS: dict[str, dict[str, Any]] = {one["name"]: one for one in yaml.safe_load(FILE.read_text())["deployments"]}
# Models by name, each of one of seven kinds: written in a file of configs/compare and run by `vitrine compare`.
OPEN = {"compare": {"ComparisonConfig.models", "ComparisonConfig.models[]", "ComparisonConfig.teachers"}}

Field = tuple[str, dict[str, Any]]


def fields(schema: dict[str, Any]) -> Iterator[Field]:
    """Every field of a form by its place, those of nested models and the elements of lists too."""
    for name, model in {"": schema, **schema["definitions"]}.items():
        for key, field in model.get("properties", {}).items():
            yield from nested(f"{name}.{key}".lstrip("."), field)


def nested(place: str, field: dict[str, Any]) -> Iterator[Field]:
    yield place, field
    for inner in ("items", "additionalProperties"):
        if isinstance(field.get(inner), dict):
            yield from nested(f"{place}[]", field[inner])


@pytest.fixture(params=DEPLOYMENTS)
def form(request: pytest.FixtureRequest) -> tuple[str, list[Field]]:
    """A deployment's name, and the fields of its form."""
    file, _, name = DEPLOYMENTS[request.param]["entrypoint"].partition(":")
    flow = import_object(f"{file.removesuffix('.py').replace('/', '.')}.{name}")
    return request.param, list(fields(flow.parameters.model_dump()))


def test_no_field_is_of_several_kinds_or_of_none(form: tuple[str, list[Field]]) -> None:
    name, found = form
    jumpy = {place for place, field in found if {"anyOf", "oneOf"} & field.keys()}
    bare = {place for place, field in found if field.get("type") == "object" and "properties" not in field}
    untyped = {place for place, field in found if not {"type", "$ref", "allOf", "enum", "const"} & field.keys()}
    assert jumpy | bare | (untyped - jumpy) == OPEN.get(name, set())


def test_every_field_says_what_it_is(form: tuple[str, list[Field]]) -> None:
    _, found = form
    assert len(found) >= 5
    silent = [place for place, field in found if not place.endswith("[]") and not field.get("description", "").strip()]
    assert silent == []
    assert all(field.get("title") or "$ref" in field for place, field in found if not place.endswith("[]"))


def test_every_number_has_a_bound(form: tuple[str, list[Field]]) -> None:
    _, found = form
    numbers = {place: field for place, field in found if field.get("type") in ("integer", "number")}
    loose = {place for place, field in numbers.items() if not {"minimum", "exclusiveMinimum"} & field.keys()}
    # Parameters of a flow cannot carry bounds: a backfill refuses a negative rate itself, a negative wait is none, a
    # negative rate of reading bounds nothing. Dims are checked as a list.
    assert loose <= {"pictures_per_second", "wait_minutes", "max_mb_per_s", "ReduceConfig.dims[]"}
