"""Fetch a picture from a URL that a visitor gives, without giving the visitor access to this network."""

from __future__ import annotations

from collections.abc import Callable

from retrieval_core.errors import AddressRefused, ImageRefused, NotFound, Permanent, StoreUnavailable
from retrieval_core.images import decode
from retrieval_core.store.fetcher import Bounds, Fetcher, status_error
from retrieval_core.store.network import Address, is_public


def fetch_picture(
    url: str,
    *,
    max_bytes: int = 20_000_000,
    timeout_s: float = 10.0,
    is_allowed: Callable[[Address], bool] = is_public,
) -> bytes:
    """Return the bytes of the picture at an http(s) URL, after decoding them once as a check.

    `timeout_s` bounds the whole fetch with redirects and name resolution, `max_bytes` what is read. No proxy, cookie or
    password is used. `is_allowed` decides which addresses may be connected to. Raises `AddressRefused` for a URL that
    may not be fetched, `NotFound` if no document is there, and `ImageRefused` if the response is absent, too slow, too
    large, compressed, or no picture.
    """
    bounds = Bounds(max_bytes, timeout_s, bytes_per_s=0.0, n_attempts=1)
    try:
        with Fetcher(lambda _, address: is_allowed(address)) as fetcher:
            response = fetcher.request("GET", url, [("Accept", "image/*")], bounds)
        if response.status != 200:
            raise status_error(response)
    except (AddressRefused, NotFound):
        raise
    except (Permanent, StoreUnavailable) as error:
        raise ImageRefused(str(error)) from error
    decode(response.data)
    return response.data
