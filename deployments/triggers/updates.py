"""Updates of the catalogue on Prefect's server, each started once for its key, and the event of what was refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Scheduled

from deployments.shop import deployment_name, shop_name
from deployments.triggers.change_events import split_change
from retrieval_core.errors import BadConfig, StoreUnavailable
from retrieval_core.ingest.change import Change, merge_changes

FLOW = "catalog-update"
REFUSALS = (400, 409, 413, 422)  # statuses that a request gets again however often it is sent


class Updates(Protocol):
    """Where updates are started. Its methods raise `StoreUnavailable` if nothing arrived, or it is not known."""

    async def start(self, change: Change, key: str) -> None:
        """Start an update unless one was started with this key. Raises `BadConfig` if it never can be."""

    async def report(self, event: dict[str, Any]) -> None:
        """Send an event."""

    async def check(self) -> None:
        """Return if an update could be started now."""


class PrefectUpdates:
    """The updates of this process's shop on Prefect's server."""

    async def start(self, change: Change, key: str) -> None:
        async with _client() as client:
            await client.create_flow_run_from_deployment(
                await self._deployment_id(client),
                parameters=change.model_dump(mode="json"),
                idempotency_key=key,
                state=Scheduled(),
            )

    async def report(self, event: dict[str, Any]) -> None:
        async with _client() as client:
            stamps = {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}
            await client.request("POST", "/events", json=[stamps | event])

    async def check(self) -> None:
        async with _client() as client:
            await self._deployment_id(client)

    async def _deployment_id(self, client: PrefectClient) -> UUID:
        name = f"{FLOW}/{deployment_name(shop_name(), FLOW)}"
        try:
            return (await client.read_deployment_by_name(name)).id
        except ObjectNotFound as error:
            raise StoreUnavailable(f"Prefect's server has no deployment {name}; register the shop") from error


async def start_updates(updates: Updates, changes: Sequence[Change], key: str) -> None:
    """Start updates for the changes, merged into as few as possible; with the same key and changes nothing twice."""
    pieces = [piece for change in merge_changes(changes) for piece in split_change(change)]
    for number, piece in enumerate(pieces):
        await updates.start(piece, f"{key}-{number}")


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """Give a client that tries once, and name what its server answers or that it does not."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            async with get_client() as client:
                yield client
    except StoreUnavailable:
        raise
    except Exception as error:  # whatever the client raises, nothing may have arrived
        is_final = isinstance(error, UnicodeError) or (
            isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSALS
        )
        if is_final:
            raise BadConfig(f"Prefect's server refuses the update: {error}") from error
        raise StoreUnavailable(f"Prefect's server does not answer: {error}") from error
