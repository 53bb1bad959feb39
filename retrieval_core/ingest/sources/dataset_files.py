"""What the sources of published datasets share: where they lie, the text files beside the pictures, the URI's query."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.folder import absolute_uri
from retrieval_core.store.uris import read_uri, stat_uri

Query = TypeVar("Query", bound=Value)


class Maskless:
    """Base of the sources whose dataset has no masks."""

    spec: str

    def read_mask(self, mask_uri: str) -> Bool:
        raise NotFound(f"{self.spec} has no masks, so none at {mask_uri}; a table: source can name them")


def split_query(uri: str, model: type[Query], spec: str) -> tuple[str, Query]:
    """(folder, query) of `FOLDER?key=value&key=value`; no query at all is the model's defaults.

    Raises `BadConfig` without a folder, and for an unknown key or a value out of bounds; then it names the keys.
    """
    folder, _, text = uri.partition("?")
    if not folder:
        raise BadConfig(f"{spec} names no folder; expected FOLDER?key=value&key=value")
    try:
        # A plus is a plus: values are paths and words, not what a form sent.
        pairs = parse_qsl(text.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(text))
        return folder, model.model_validate(dict(pairs))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(model.model_fields)
        raise BadConfig(f"{spec}: {key}={first['input']!r}: {first['msg']}; the keys are {known}") from error
    except ValueError as error:
        raise BadConfig(f"{spec}: {error}; expected FOLDER?key=value&key=value") from error


def dataset_root(folder: str, spec: str) -> str:
    """The folder of a dataset, absolute or `s3://`. Raises `SourceMissing` when a local one is not there."""
    root = absolute_uri(folder)
    if "://" not in root and not Path(root).is_dir():
        raise SourceMissing(f"{spec}: {root} is not a folder; check the path")
    return root


def first_present(root: str, *paths: str) -> str | None:
    """The URI of the first of these paths below `root` that is a file."""
    for path in paths:
        try:
            stat_uri(f"{root}/{path}")
        except NotFound:
            continue
        return f"{root}/{path}"
    return None


def read_lines(uri: str) -> list[str]:
    """The lines of a UTF-8 text file without the empty ones at its end. Raises `NotFound`, `CatalogInvalid`."""
    try:
        text = read_uri(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogInvalid(f"{uri} is not UTF-8 text ({error}); restore it from the dataset") from error
    # Not str.splitlines, which also splits at characters that occur inside names.
    return [line.removesuffix("\r") for line in text.rstrip().split("\n")] if text.strip() else []


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, its folder too where need be: whole or not at all, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
