"""A release made without a flow for the app to answer from, and messages and a server for the triggers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import StoreUnavailable
from retrieval_core.ingest.change import Change
from tests.core.conftest import new_shop, pixels_backbone

__all__ = ["new_shop", "pixels_backbone"]

FIRST, SECOND = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two releases: half of the products, and all of them in production."""
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish(FIRST, range(6))
    shop.publish(SECOND)
    return shop


def record(event: str, key: str, bucket: str = "shop") -> dict[str, Any]:
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}}


def notification(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


def wrapped(body: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": body})


class Prefect:
    """Stands where Prefect's server would: keeps updates by their keys and events, or does not answer."""

    def __init__(self) -> None:
        self.updates: dict[str, Change] = {}
        self.events: list[dict[str, Any]] = []
        self.is_down = False

    async def start(self, change: Change, key: str) -> None:
        await self.check()
        self.updates.setdefault(key, change)

    async def report(self, event: dict[str, Any]) -> None:
        await self.check()
        self.events.append(event)

    async def check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("Prefect's server does not answer")
