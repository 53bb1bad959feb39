"""A shop on a web server: a feed of twenty pictures in a folder beside it."""

from __future__ import annotations

import io
from collections import Counter

from PIL import Image

from tests.web_server import WebServer

N_PICTURES = 20


def open_shop(server: WebServer) -> WebServer:
    """Give a server the feed /feeds/shop.csv, whose columns are sku and picture, and its pictures."""
    server.files = {f"/feeds/p/{number}.png": drawn(number) for number in range(N_PICTURES)}
    rows = "".join(f"item-{number:02},p/{number}.png\n" for number in range(N_PICTURES))
    server.files["/feeds/shop.csv"] = f"sku,picture\n{rows}".encode()
    return server


def drawn(level: int) -> bytes:
    """Return a PNG of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (5, 3), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def methods(server: WebServer) -> Counter[str]:
    """Return how often each method was requested."""
    return Counter(method for method, _ in server.requests)
