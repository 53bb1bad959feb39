"""What sources share: reading local and S3 files, writing local ones, and the query of a URI."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.picture_files.formats import SUFFIXES
from retrieval_core.store.uris import read_uri, stat_uri

WEB_PAGE_HEAD_BYTES = 4096
WEB_PAGE = re.compile(
    rb"\W*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|error)\b", re.IGNORECASE | re.DOTALL
)

QueryModel = TypeVar("QueryModel", bound=Value)


def absolute_uri(uri: str) -> str:
    """Return a local path as an absolute one, the same in any working folder, without trailing slashes."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def is_picture(path: str) -> bool:
    """Return whether a path has the suffix of a picture."""
    return path.lower().endswith(SUFFIXES)


def dataset_root(folder: str, spec: str) -> str:
    """Return a dataset's folder, absolute or `s3://`. Raises `SourceMissing` when a local one does not exist."""
    root = absolute_uri(folder)
    require_folder(root, spec)
    return root


def first_present(root: str, *paths: str) -> str | None:
    """Return the URI of the first of `paths` below `root` that exists as a file."""
    for path in paths:
        try:
            stat_uri(f"{root}/{path}")
        except NotFound:
            continue
        return f"{root}/{path}"
    return None


def read_lines(uri: str) -> list[str]:
    """Return the lines of a UTF-8 text file, without empty ones at the end. Raises `NotFound`, `CatalogInvalid`."""
    try:
        text = read_uri(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogInvalid(f"{uri} is not UTF-8 text ({error}); restore it from the dataset") from error
    # Not str.splitlines, which also splits at characters that occur inside names.
    return [line.removesuffix("\r") for line in text.rstrip().split("\n")] if text.strip() else []


def refuse_web_page(data: bytes, spec: str) -> None:
    """Raise `CatalogInvalid` for a file that begins as a web page, or as the error of an S3 server."""
    head = data[:WEB_PAGE_HEAD_BYTES].replace(b"\0", b"")  # NUL bytes are half of UTF-16
    if WEB_PAGE.match(head):
        raise CatalogInvalid(f"{spec} is a web page, perhaps of a login or an error; expected a table or a feed")


def write_whole(path: Path, data: bytes) -> None:
    """Write a local file, and its folder if needed, in one step: a crash leaves the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def split_query(uri: str, model: type[QueryModel], spec: str) -> tuple[str, QueryModel]:
    """Split `FOLDER?key=value&key=value` into the folder and its query; without a query, the model's defaults hold.

    Raises `BadConfig`, which names the valid keys, for a missing folder, an unknown key or a value out of bounds.
    """
    folder, _, text = uri.partition("?")
    if not folder:
        raise BadConfig(f"{spec} names no folder; expected FOLDER?key=value&key=value")
    try:
        # Keep a plus sign, which parse_qsl reads as a space: the values are paths and words, not submitted forms.
        pairs = parse_qsl(text.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(text))
        return folder, model.model_validate(dict(pairs))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        keys = ", ".join(model.model_fields)
        raise BadConfig(f"{spec}: {key}={first['input']!r}: {first['msg']}; the keys are {keys}") from error
    except ValueError as error:
        raise BadConfig(f"{spec}: {error}; expected FOLDER?key=value&key=value") from error


def require_folder(root: str, spec: str) -> None:
    """Raise `SourceMissing` when a local `root` is not a folder."""
    if "://" not in root and not Path(root).is_dir():
        raise SourceMissing(f"{spec}: {root} is not a folder; check the path")
