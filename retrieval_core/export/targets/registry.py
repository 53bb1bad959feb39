"""Opens a target by its kind, which is the name of its file; a new kind is one more file and one more name here."""

from __future__ import annotations

import os
from importlib import import_module
from urllib.parse import urlsplit

from retrieval_core.errors import BadConfig
from retrieval_core.export.target import NAME, Address, Target

KINDS = {
    "lancedb": "a folder or s3://bucket/prefix",
    "opensearch": "https://search.example:9200",
    "parquet": "a folder or s3://bucket/prefix",
    "pgvector": "postgresql://user@db.example/shop",
    "qdrant": "https://qdrant.example:6333",
}
URL, TOKEN = "VITRINE_EXPORT_URL", "VITRINE_EXPORT_TOKEN"


def find_address(kind: str, url: str, name: str) -> Address:
    """Return the address of a target: `url`, or where that is empty what the environment says, with its token.

    Raises `BadConfig` where there is none, for a password in `url`, and for a name that not every target can have.
    """
    if not NAME.fullmatch(name):
        raise BadConfig(
            f"--name {name!r} cannot name a table or an index everywhere; expected at most 40 lower-case letters, "
            "digits and _, beginning with a letter"
        )
    if _has_password(url):
        raise BadConfig(f"--url holds a password, which other users of this machine can read; put it into {URL}")
    url = url or os.environ.get(URL, "")
    if not url:
        raise BadConfig(f"no address of the target: give --url, or set {URL}, for example {KINDS[kind]}")
    return Address(name, url, os.environ.get(TOKEN, ""))


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.password is not None or "password=" in parts.query
    except ValueError:
        return "@" in url


def open_target(kind: str, address: Address) -> Target:
    """Open a target for one export.

    Raises `BadConfig`, `TargetUnavailable`, `TargetRefused`, and `ModuleNotFoundError` where its library is missing.
    """
    target: Target = import_module(f"retrieval_core.export.targets.{kind}").open_target(address)
    return target
