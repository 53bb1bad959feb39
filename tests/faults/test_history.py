"""Prefect's history is kept for 90 days: older runs go with all that belongs to them, and nothing else does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.server.utilities.database import UUID as UUID_TYPE
from prefect.server.utilities.database import Timestamp
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed, Paused, Pending, Running, Scheduled, State
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import SHARED_FOLDER
from tests.faults.servers import until

ENDINGS = (Completed, Failed, Crashed, Cancelled)
GOING = (Scheduled, Pending, Running, Paused)
KINDS = ("flow_runs", "task_runs", "logs", "artifacts")


@pytest.fixture(scope="module")
def client(api_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        yield client


@flow
def night() -> None: ...


@task
def stage() -> None: ...


def add_run(client: SyncPrefectClient, state: State[Any]) -> UUID:
    """Add a run in a state, with a task, a log line and an artifact."""
    run = client.create_flow_run(night, state=state)
    client.create_task_run(stage, run.id, dynamic_key=str(uuid4()), state=state)
    now = datetime.now(UTC).isoformat()
    line = {"name": "n", "level": 20, "message": "m", "timestamp": now, "flow_run_id": str(run.id)}
    client.request("POST", "/logs/", json=[line])
    client.request("POST", "/artifacts/", json={"key": "night-summary", "data": "d", "flow_run_id": str(run.id)})
    return run.id


def make_older(runs: set[UUID], days: int) -> None:
    """Move runs into the past; the API takes no times of others."""
    past = datetime.now(UTC) - timedelta(days=days)
    times = [sa.column(name, Timestamp) for name in ("start_time", "end_time", "created")]
    table = sa.table("flow_run", sa.column("id", UUID_TYPE), *times)
    moved = sa.update(table).where(table.c.id.in_(runs)).values({time.name: past for time in times})

    async def update() -> None:
        engine = create_async_engine((Path(os.environ[SHARED_FOLDER]) / "database").read_text())
        async with engine.begin() as connection:
            await connection.execute(moved)
        await engine.dispose()

    asyncio.run(update())


def remaining(client: SyncPrefectClient, runs: set[UUID]) -> dict[str, set[UUID]]:
    """Which of the runs are there still, and which of them have tasks, logs and artifacts."""
    ids = [str(run) for run in runs]
    remaining = {}
    for kind in KINDS:
        key = "id" if kind == "flow_runs" else "flow_run_id"
        question = {kind: {key: {"any_": ids}}}
        rows = client.request("POST", f"/{kind}/filter", json=question).json()
        remaining[kind] = {UUID(row[key]) for row in rows}
    return remaining


def test_runs_that_ended_90_days_ago_go_with_their_tasks_logs_and_artifacts(client: SyncPrefectClient) -> None:
    old = {add_run(client, ending()) for ending in ENDINGS}
    young = {add_run(client, ending()) for ending in ENDINGS}
    going = {add_run(client, state()) for state in GOING}
    make_older(young, 89)
    make_older(old | going, 91)
    until(lambda: not any(remaining(client, old).values()), "the removal of old runs")
    assert remaining(client, young | going) == dict.fromkeys(KINDS, young | going)
