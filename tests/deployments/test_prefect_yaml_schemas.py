"""The forms that Prefect servers hold: parameters of every deployment, their types, defaults, bounds and order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from prefect.utilities.importtools import import_object

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
SCHEMAS = Path(__file__).parent / "prefect_yaml_schemas.json"


def without_descriptions(schema: Any) -> Any:
    """A schema without its descriptions, which may be worded better at any time."""
    if isinstance(schema, dict):
        described = {key for key in ("description",) if isinstance(schema.get(key), str)}
        return {key: without_descriptions(value) for key, value in schema.items() if key not in described}
    return [without_descriptions(value) for value in schema] if isinstance(schema, list) else schema


def deployed_schemas() -> dict[str, Any]:
    """The parameter schema of each deployment by its name, and the models that they share."""
    deployments, definitions = {}, {}
    for deployment in yaml.safe_load(FILE.read_text())["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        flow = import_object(f"{file.removesuffix('.py').replace('/', '.')}.{name}")
        schema = without_descriptions(flow.parameters.model_dump())
        definitions |= schema.pop("definitions")
        deployments[deployment["name"]] = {"entrypoint": deployment["entrypoint"], "flow": flow.name, **schema}
    return {"deployments": deployments, "definitions": definitions}


def test_every_form_is_the_one_that_servers_hold() -> None:
    """After a change that is wanted: `python -m tests.deployments.test_prefect_yaml_schemas` writes the file anew."""
    schemas, expected = deployed_schemas(), json.loads(SCHEMAS.read_text())
    for kind in ("deployments", "definitions"):
        assert schemas[kind].keys() == expected[kind].keys()
        for name, schema in schemas[kind].items():
            assert schema == expected[kind][name], f"the form of {name} has changed"
            assert list(schema["properties"]) == list(expected[kind][name]["properties"]), f"{name}: another order"


if __name__ == "__main__":
    SCHEMAS.write_text(json.dumps(deployed_schemas(), indent=1) + "\n")
