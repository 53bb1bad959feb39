"""Read the parameters of a request from JSON, a form or the address, and describe them for OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from deployments.serve.api.problems import Refused, refused_values
from deployments.serve.api.requests import EXAMPLES, MAX_ITEMS, MAX_PICTURES, BatchRequest, SearchRequest, ViewRequest

LISTS = ("texts", "item_ids", "images", "image_urls", "fields", "facets", "names")  # may be given several times
DOCUMENTS = ("box", "filters", "unlike")  # JSON in a field of a form or of the address
FILES = {"image": "images", "images": "images"}  # fields of a form that hold files
MAX_FORM_FIELDS = 4 * MAX_ITEMS
MAX_FIELD_BYTES = 1_000_000
SCHEMAS = "#/components/schemas/"

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, model: type[Model]) -> Model:
    """Return the parameters in a body, which is JSON or a form. Raises `Refused`."""
    if _content_type(request) == "multipart/form-data":
        return await _read_form(request, model)
    return await read_json(request, model)


async def read_json(request: Request, model: type[Model]) -> Model:
    """Return the parameters in a body of JSON. Raises `Refused`."""
    if _content_type(request) != "application/json":
        raise Refused(415, "send application/json, or where pictures are sent also multipart/form-data")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise Refused(400, f"the body is not JSON: {errors[0]['msg']}") from error
        raise refused_values(errors, model) from error


def read_query(request: Request, model: type[Model]) -> Model:
    """Return the parameters in the address of a request. Raises `Refused`."""
    pairs = request.query_params.multi_items()
    return _validated(model, _values((name, _document(name, value)) for name, value in pairs))


async def _read_form(request: Request, model: type[Model]) -> Model:
    try:
        form = await request.form(max_files=MAX_PICTURES, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except ValueError as error:  # such as text that is not UTF-8
        raise Refused(400, "the form cannot be read") from error
    try:
        fields: list[tuple[str, Any]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                fields.append((FILES.get(name, name), await value.read()))
            elif name in FILES:
                raise Refused(422, f"{name}: send it as a file, with a file name")
            else:
                fields.append((name, _document(name, value)))
        return _validated(model, _values(fields))
    finally:
        await form.close()


def _document(name: str, text: str) -> Any:
    if name not in DOCUMENTS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"{name}: it is JSON text, which this is not") from error


def _values(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in LISTS:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Refused(422, f"{name[:100]}: it is given twice")
        else:
            values[name] = value
    return values


def _validated(model: type[Model], values: dict[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refused_values(error.errors(include_url=False, include_input=False), model) from error


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def query_parameters(model: type[BaseModel]) -> dict[str, Any]:
    """Return the parameters of an address as OpenAPI describes them."""
    schema = model.model_json_schema()
    parameters = [
        {"name": name, "in": "query", "description": of_one.pop("description", ""), **_spelled(name, of_one)}
        for name, of_one in schema["properties"].items()
    ]
    return {"parameters": parameters}


def _spelled(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}} if name in DOCUMENTS else {"schema": schema}


def picture_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """Return a body that may have pictures as OpenAPI describes it."""
    form = {
        "type": "object",
        "description": "`image` may be given several times; every parameter of the JSON form may be beside it.",
        "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        "additionalProperties": True,
    }
    json_body = {"schema": {"$ref": f"{SCHEMAS}{model.__name__}"}, "examples": examples}
    content = {"application/json": json_body, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def batch_body() -> dict[str, Any]:
    """Return the body of a batch as OpenAPI describes it."""
    example = {"searches": [each["value"] for each in EXAMPLES.values()]}
    content = {"application/json": {"schema": {"$ref": f"{SCHEMAS}BatchRequest"}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def body_schemas() -> dict[str, Any]:
    """Return the schemas that the bodies refer to, by name."""
    template = SCHEMAS + "{model}"
    schemas: dict[str, Any] = {}
    for model in (SearchRequest, BatchRequest, ViewRequest):
        schema = model.model_json_schema(ref_template=template)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    return schemas
