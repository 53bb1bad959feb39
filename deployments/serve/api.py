"""The JSON API of the search app: named endpoints with plain parameters, each with a default."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from pydantic import ValidationError, validate_call

from deployments.serve.desk import MAX_BYTES, Asked, Desk, refused
from deployments.serve.fetching import fetch_picture
from retrieval_core.artifacts import releases
from retrieval_core.errors import BadConfig


def endpoints(desk: Desk) -> dict[str, Callable[..., Any]]:
    """The endpoints by name; what they raise on purpose is a `VitrineError`."""

    def search(
        image: str = "",
        url: str = "",
        text: str = "",
        item: str = "",
        where: str = "",
        k: int = 10,
        collapse: bool = False,
        whole: bool = False,
        mode: str = "nearest",
        unlike_image: str = "",
        unlike_text: str = "",
        release: str = releases.PRODUCTION,
    ) -> dict[str, Any]:
        """What `vitrine search --json` prints. `image` and `unlike_image` are a file's bytes in base64."""
        if image and url:
            raise BadConfig("both image and url are given; give one picture")
        asked = Asked.of(
            picture=fetch_picture(url, max_bytes=MAX_BYTES) if url else _decoded(image),
            text=text,
            item=item,
            unlike_picture=_decoded(unlike_image),
            unlike_text=unlike_text,
            where=where,
            k=k,
            collapse=collapse,
            whole=whole,
            mode=mode,
        )
        return desk.ask(asked, release).document

    def columns(release: str = releases.PRODUCTION) -> dict[str, Any]:
        """What `where` can name in a release, with the commonest values of each."""
        return desk.open(release).columns()

    def list_releases() -> list[dict[str, Any]]:
        """The releases of the store, the newest first."""
        return [
            {"release": one.fingerprint, "created": one.created, "gate": one.gate, "rows": one.counts["rows"]}
            for one in desk.listed()
        ]

    return {"search": _checked(search), "columns": _checked(columns), "releases": list_releases}


def _checked(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, which raises `BadConfig` for values of another type."""
    strict, names = validate_call(endpoint), signature(endpoint)

    @wraps(endpoint)
    def checked(*values: Any) -> Any:
        try:
            return strict(**names.bind(*values).arguments)
        except ValidationError as error:
            raise refused(error) from error

    return checked


def _decoded(text: str) -> bytes:
    """Bytes of base64, which may stand in a `data:` URI. Raises `BadConfig`."""
    try:
        data = base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadConfig(f"the picture is not base64: {error}") from error
    if len(data) > MAX_BYTES:
        raise BadConfig(f"the picture has {len(data):,} bytes, expected at most {MAX_BYTES:,}")
    return data
