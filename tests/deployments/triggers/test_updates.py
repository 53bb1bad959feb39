"""A server that does not answer, and one that lacks the deployment, are told from an update that never can start."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.triggers.updates import PrefectUpdates, start_updates
from retrieval_core.errors import BadConfig, StoreUnavailable, VitrineError
from retrieval_core.ingest.change import Change
from tests.deployments.conftest import Prefect

CHANGE = Change(added=("a",))


def test_a_server_that_does_not_answer_may_later() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        for work in (PrefectUpdates().start(CHANGE, "key"), PrefectUpdates().check(), PrefectUpdates().report({})):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                asyncio.run(work)


@pytest.mark.parametrize(
    ("status", "error"), [(409, BadConfig), (422, BadConfig), (401, StoreUnavailable), (404, StoreUnavailable),
                          (500, StoreUnavailable), (503, StoreUnavailable)],
)  # fmt: skip
def test_a_refusal_is_final_and_an_error_is_not(
    status: int, error: type[VitrineError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(_: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"detail": "no"}, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(error):
        asyncio.run(PrefectUpdates().start(CHANGE, "key"))


def test_changes_are_merged_and_each_update_has_its_key() -> None:
    prefect = Prefect()
    tables = [Change(manifest_uri="s3://shop/a.csv"), Change(manifest_uri="s3://shop/b.csv")]
    asyncio.run(start_updates(prefect, [CHANGE, *tables, Change(added=("b",))], "key"))
    assert list(prefect.updates) == [f"key-{number}" for number in range(len(prefect.updates))]
    assert {name for change in prefect.updates.values() for name in change.added} == {"a", "b"}
    assert {change.manifest_uri for change in prefect.updates.values()} >= {"s3://shop/a.csv", "s3://shop/b.csv"}
