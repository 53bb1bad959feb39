"""The JSON API of the search app: named endpoints with plain parameters, each with a default."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from pydantic import ValidationError, validate_call

from deployments.serve.fetching import fetch_picture
from deployments.serve.service import MAX_PICTURE_BYTES, SearchRequest, SearchService, bad_value
from retrieval_core.artifacts import releases
from retrieval_core.errors import BadConfig


def endpoints(service: SearchService) -> dict[str, Callable[..., Any]]:
    """Return the endpoints by name; each raises a `VitrineError` for a request that it cannot answer."""

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
        all_items: bool = False,
        min_confidence: float = 0.0,
    ) -> dict[str, Any]:
        """Return what `vitrine search --json` prints. `image` and `unlike_image` are the bytes of a file in base64."""
        if image and url:
            raise BadConfig("both image and url are given; give one picture")
        request = SearchRequest.parse(
            picture=fetch_picture(url, max_bytes=MAX_PICTURE_BYTES) if url else _decoded(image),
            text=text,
            item=item,
            unlike_picture=_decoded(unlike_image),
            unlike_text=unlike_text,
            where=where,
            k=k,
            collapse=collapse,
            all_items=all_items,
            whole=whole,
            mode=mode,
            min_confidence=min_confidence,
        )
        return service.search(request, release).document

    def columns(release: str = releases.PRODUCTION) -> dict[str, Any]:
        """Return the names that `where` knows in a release, with the commonest values of each."""
        return {name: [*counts] for name, counts in service.open(release).facets().items()}

    def list_releases() -> list[dict[str, Any]]:
        """Return the releases of the store, the newest first."""
        return [
            {
                "release": release.fingerprint,
                "created": release.created,
                "gate": release.gate,
                "rows": release.counts["rows"],
            }
            for release in service.list_releases()
        ]

    return {"search": _with_checked_types(search), "columns": _with_checked_types(columns), "releases": list_releases}


def _with_checked_types(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Make an endpoint raise `BadConfig` for a value of another type than its parameter's."""
    strict, parameters = validate_call(endpoint), signature(endpoint)

    @wraps(endpoint)
    def checked(*values: Any) -> Any:
        try:
            return strict(**parameters.bind(*values).arguments)
        except ValidationError as error:
            raise bad_value(error) from error

    return checked


def _decoded(text: str) -> bytes:
    """Return the bytes of base64, with or without `data:...;base64,` before it. Raises `BadConfig`."""
    try:
        data = base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadConfig(f"the picture is not base64: {error}") from error
    if len(data) > MAX_PICTURE_BYTES:
        raise BadConfig(f"the picture has {len(data):,} bytes, expected at most {MAX_PICTURE_BYTES:,}")
    return data
