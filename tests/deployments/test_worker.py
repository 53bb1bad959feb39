"""A worker that is stopped ends its run at once, and the next worker resumes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, State
from prefect.settings import PREFECT_API_URL, PREFECT_WORKER_QUERY_SECONDS, temporary_settings

from deployments.worker import main, work
from flows.run import RUNNER, holds_lease
from retrieval_core.settings import Settings
from tests.faults.processes import PATIENCE_S, WORK_POOL

ROOT = Path(__file__).parents[2]
POOL = "stopping"


@flow(name="wait the first time", task_runner=RUNNER)
@holds_lease
def wait_the_first_time(settings: Settings) -> None:
    started = Path(settings.store) / "started"
    if not started.exists():
        started.write_text(f"{os.getpid()} {os.getsid(0)}")
        time.sleep(PATIENCE_S)


def test_a_stopped_worker_ends_its_run_and_the_next_one_resumes_it(
    api_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_WORKER_QUERY_SECONDS: 1}):
        asyncio.run(stop_and_start(tmp_path))


async def stop_and_start(store: Path) -> None:
    async with get_client() as client:
        deployment = await deploy(client)
        parameters = {"settings": {"store": str(store)}}
        run = await client.create_flow_run_from_deployment(deployment, parameters=parameters)
        with anyio.fail_after(PATIENCE_S):
            await working_until(has_started(store))
            pid, session = (store / "started").read_text().split()
            assert pid == session, "Ctrl-C in the terminal of a worker reaches the worker alone"
            state = await read_state(client, run.id)
            assert (state.name, state.message) == (
                "AwaitingRetry",
                "Its worker was stopped; the next worker resumes it.",
            )
            assert not list(store.glob("runs/going/*")), "the lease is over"

            async def has_ended() -> bool:
                return (await read_state(client, run.id)).is_final()

            await working_until(has_ended)
        state = await read_state(client, run.id)
        assert state.is_completed(), state
        assert (await client.read_flow_run(run.id)).run_count == 2


async def deploy(client: PrefectClient) -> UUID:
    template = json.loads(WORK_POOL.read_text())
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
    await client.create_work_pool(pool, overwrite=True)
    return await client.create_deployment(
        flow_id=await client.create_flow(wait_the_first_time),
        name="stopped",
        entrypoint="tests/deployments/test_worker.py:wait_the_first_time",
        path=str(ROOT),
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        work_pool_name=POOL,
        concurrency_limit=1,
        concurrency_options={"collision_strategy": ConcurrencyLimitStrategy.CANCEL_NEW},
    )


async def working_until(happened: Callable[[], Awaitable[bool]]) -> None:
    """Work until something happened, then stop as by `supervisorctl stop`."""
    working = asyncio.create_task(work(POOL, has_healthcheck=False))
    while not await happened():
        assert not working.done()
        await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    await working


def has_started(store: Path) -> Callable[[], Awaitable[bool]]:
    async def happened() -> bool:
        return (store / "started").exists()

    return happened


async def read_state(client: PrefectClient, run: UUID) -> State:
    state = (await client.read_flow_run(run)).state
    assert state is not None
    return state


def test_without_a_server_no_worker_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert main([]) == 2
    assert "PREFECT_API_URL" in capsys.readouterr().err
