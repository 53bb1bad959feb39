"""A run that a worker started is cancelled on Prefect's page: it ends as cancelled and leaves no lease.

Nothing that it loaded has reached another host, or written a file into the home folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from deployments.worker import StoppableWorker
from flows.run import RUNNER, holds_lease
from retrieval_core import TELEMETRY_OFF
from retrieval_core.settings import Settings
from tests.deployments.cli.observer import LOOPBACK, SITECUSTOMIZE
from tests.faults.processes import PATIENCE_S, WORK_POOL

ROOT = Path(__file__).parents[2]


@flow(name="wait for its end", task_runner=RUNNER)
@holds_lease
def wait_for_end(settings: Settings) -> None:
    import onnxruntime  # noqa: F401 (writes a device id and calls its maker, unless it is told not to)

    (Path(settings.store) / "started").touch()
    time.sleep(PATIENCE_S)


def test_a_run_of_a_worker_is_cancelled(api_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, watch = tmp_path / "store", tmp_path / "watch"
    for folder in (store, watch / "home"):
        folder.mkdir(parents=True)
    (watch / "sitecustomize.py").write_text(SITECUSTOMIZE)
    for name in TELEMETRY_OFF.keys() - {"DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(watch / "home"))
    monkeypatch.setenv("PYTHONPATH", f"{watch}{os.pathsep}{ROOT}")
    monkeypatch.setenv("OBSERVED", str(watch / "log"))
    with temporary_settings({PREFECT_API_URL: api_url}):
        asyncio.run(cancel_on_worker(store))
    assert not list(store.glob("runs/going/*"))
    addresses = [line for line in (watch / "log").read_text().splitlines() if line.startswith("address ")]
    assert addresses, "Prefect's server, at least"
    assert not [address for address in addresses if not LOOPBACK.match(address.removeprefix("address "))]
    assert not list((watch / "home").rglob("*"))


async def cancel_on_worker(store: Path) -> None:
    template = json.loads(WORK_POOL.read_text())
    async with get_client() as client:
        pool = WorkPoolCreate(name="cancelling", type="process", base_job_template=template)
        await client.create_work_pool(pool, overwrite=True)
        deployment_id = await client.create_deployment(
            flow_id=await client.create_flow(wait_for_end),
            name="cancelled",
            entrypoint="tests/faults/test_cancelled_runs.py:wait_for_end",
            path=str(ROOT),
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            work_pool_name="cancelling",
        )
        parameters = {"settings": {"store": str(store)}}
        run = await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
        with anyio.fail_after(PATIENCE_S):
            async with StoppableWorker("cancelling", None) as worker:
                await worker.sync_with_backend()
                await worker.get_and_submit_flow_runs()
                while not (store / "started").exists():
                    await asyncio.sleep(0.1)
                await client.set_flow_run_state(run.id, Cancelling())
        state = (await client.read_flow_run(run.id)).state
        assert state is not None
        assert state.type == StateType.CANCELLED
