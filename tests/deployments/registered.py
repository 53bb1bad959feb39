"""The deployments of prefect.yaml on a Prefect server, and a webhook that is told what happens to their runs."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock
from uuid import UUID

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.utilities.importtools import import_object

from deployments.register import main
from deployments.triggers.change_events import UPDATED, catalog_id
from deployments.triggers.updates import PrefectUpdates
from retrieval_core.errors import StoreUnavailable
from retrieval_core.ingest.change import Change

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
POOL_FILE = ROOT / "deployments" / "work_pool.json"
T = TypeVar("T")


class Server:
    """The deployments of the default shop on a Prefect server."""

    def __init__(self, url: str, *options: str) -> None:
        self.url = url
        self.register(*options)

    def register(self, *options: str, **environment: str) -> None:
        """Register a shop, the default one unless the environment names another."""
        source = {"VITRINE_SOURCE": "table:items.csv"}
        with mock.patch.dict(os.environ, source | environment), temporary_settings({PREFECT_API_URL: self.url}):
            assert main(options) == 0

    def ask(self, path: str, **question: Any) -> Any:
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            answer = client.request("POST", path, json=question)
            return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        (deployment,) = self.ask("/deployments/filter", deployments={"name": {"any_": [name]}})
        return dict(deployment)

    def change(self, name: str, parameters: dict[str, Any]) -> str:
        """Give a deployment other parameters; return its id."""
        deployment = self.deployment(name)
        changed = {"parameters": deployment["parameters"] | parameters}
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            client.request("PATCH", f"/deployments/{deployment['id']}", json=changed)
        return str(deployment["id"])

    def execute(self, run_id: UUID, flow: Flow[..., Any]) -> State[Any]:
        """Execute a submitted run as a worker's process would, and return its last state."""
        with temporary_settings({PREFECT_API_URL: self.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(run_id)
            return run_flow(flow, flow_run=run, return_type="state")

    def create(self, deployment: str, *states: State[Any]) -> UUID:
        """Create a run of a deployment in the first of the states, propose the others in turn, and return its id."""
        deployment_id = UUID(self.deployment(deployment)["id"])
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(deployment_id, state=states[0])
            for state in states[1:]:
                client.set_flow_run_state(run.id, state)
        return run.id

    def set_state(self, run: UUID, state: State[Any]) -> None:
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            client.set_flow_run_state(run, state)

    def state(self, run: UUID) -> State[Any]:
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
        assert state is not None
        return state

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        return self.ask(
            "/flow_runs/filter", deployments={"name": {"any_": [deployment]}}, sort="EXPECTED_START_TIME_ASC"
        )

    def emit(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.send(lambda updates, event=event: updates.report(event))

    def send(self, message: Callable[[PrefectUpdates], Coroutine[Any, Any, None]]) -> None:
        """Send what the triggers send, and like them again where a busy server answers 503; their client tries once."""
        with temporary_settings({PREFECT_API_URL: self.url}):
            for wait_s in (1, 2, 4, 8):
                with suppress(StoreUnavailable):
                    return asyncio.run(message(PrefectUpdates()))
                time.sleep(wait_s)
            asyncio.run(message(PrefectUpdates()))


class Sink(NamedTuple):
    """A webhook, and the texts that it was sent."""

    url: str
    texts: list[str]

    def about(self, notification: str) -> list[str]:
        return [text for text in self.texts if text.startswith(f"vitrine: {notification}\n")]


@contextmanager
def listening() -> Iterator[Sink]:
    """Give a webhook on loopback."""
    texts: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield Sink(f"http://127.0.0.1:{listener.server_port}", texts)
    listener.shutdown()
    thread.join()
    listener.server_close()


def updated_event(change: Change, shop: str = "vitrine") -> dict[str, Any]:
    """Return the event by which any client of Prefect may start an update."""
    resource = {"prefect.resource.id": catalog_id(shop)}
    return {"event": UPDATED, "resource": resource, "payload": change.model_dump(mode="json")}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, _, name = deployment["entrypoint"].partition(":")
    flow = import_object(f"{file.removesuffix('.py').replace('/', '.')}.{name}")
    assert isinstance(flow, Flow)
    return flow


def wait_for(ask: Callable[[], T], timeout_s: float = 300) -> T:
    end = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return answer
