"""Runs the shards of a plan on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from prefect import Task
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import get_current_settings
from prefect.utilities.callables import get_call_parameters

from flows.run import Runner
from flows.ui_artifacts import Progress
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings
from retrieval_core.store.s3 import LOOPBACK

R = TypeVar("R")

CONNECT_TIMEOUT_S = 60.0  # until the scheduler answers, and again until it has a worker


class _DaskFuture(Protocol):
    """The future of a task on the cluster, which wraps Dask's own."""

    @property
    def wrapped_future(self) -> Any: ...


def run_on_cluster(
    work: Task[..., R], settings: Settings, calls: Sequence[tuple[Any, ...]], progress: Progress
) -> list[R]:
    """Run `work(*call)` for each of the calls on the cluster and return the results in order.

    Raises what the task raises, and `BadConfig` when the cluster cannot be reached.
    """
    with _cluster(settings.dask_address) as runner:
        futures = [runner.submit(work, get_call_parameters(work.fn, call, {})) for call in calls]
        for future in as_completed(futures):
            _fetch(future)
            progress.advance()
        return [future.result() for future in futures]


def check_cluster(settings: Settings) -> None:
    """Check that the cluster can be reached. Raises `BadConfig` otherwise."""
    with _cluster(settings.dask_address):
        pass


@contextmanager
def _cluster(address: str) -> Iterator[Runner]:
    """Connect to a Dask cluster that has at least one worker."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise BadConfig("runner dask needs prefect-dask: pip install 'vitrine[dask]'") from error
    host = urlsplit(address).hostname
    if not address.startswith("tls://") and host not in LOOPBACK:
        raise BadConfig(f"{address} has neither encryption nor a login; set up TLS as docs/scaling.md shows: tls://…")
    if not get_current_settings().api.url:
        raise BadConfig(
            "runner dask needs a Prefect server that every worker reaches: "
            "start one with `prefect server start` and set PREFECT_API_URL"
        )
    with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_TIMEOUT_S}) as runner:
        try:
            runner.client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except OSError as error:  # TimeoutError is one
            raise BadConfig(
                f"no Dask cluster with a worker at {address}: {error}; start `dask scheduler` and `dask "
                "worker`, as docs/scaling.md shows, or set VITRINE_RUNNER=local"
            ) from error
        yield cast(Runner, runner)


def _fetch(future: PrefectFuture[Any]) -> None:
    """Take a result from its worker and release it there: Dask recomputes what a worker still holds when it dies."""
    future.result()
    cast(_DaskFuture, future).wrapped_future.release()
