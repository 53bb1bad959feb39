"""A run that a worker started is cancelled on Prefect's page: it ends as cancelled, without a lease or a process."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import anyio
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.workers.process import ProcessWorker

from flows.run import RUNNER, holds_lease
from retrieval_core.settings import Settings
from tests.faults.processes import PATIENCE_S, WORK_POOL

ROOT = Path(__file__).parents[2]


@flow(name="wait for its end", task_runner=RUNNER)
@holds_lease
def wait_for_end(settings: Settings) -> None:
    (Path(settings.store) / "started").touch()
    time.sleep(PATIENCE_S)


def test_a_run_of_a_worker_is_cancelled(api_url: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: api_url}):
        asyncio.run(cancel_on_worker(tmp_path))
    assert not list(tmp_path.glob("runs/going/*"))


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
            async with ProcessWorker(work_pool_name="cancelling") as worker:
                await worker.sync_with_backend()
                await worker.get_and_submit_flow_runs()
                while not (store / "started").exists():
                    await asyncio.sleep(0.1)
                await client.set_flow_run_state(run.id, Cancelling())
        state = (await client.read_flow_run(run.id)).state
        assert state is not None
        assert state.type == StateType.CANCELLED
