"""Each event of docs/notifications.md happens on a real server, and a webhook receives what the page shows."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Completed, Crashed, Failed, Pending, Running, Scheduled

from deployments import automations as automations_module
from deployments.automations import automations
from deployments.triggers.change_events import refused_event
from flows.maintenance import find_untold_runs, watch
from flows.nightly import nightly
from flows.ui_artifacts import HELD
from retrieval_core.ingest.change import Change
from retrieval_core.store.local import LocalStore
from tests.deployments.registered import Server, Sink, listening, updated_event, wait_for
from tests.faults.servers import PrefectServer, free_port
from tests.faults.servers import Server as Process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "notifications.md").read_text()
MESSAGES = dict(re.findall(r"^### (.+?)$.*?```text\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
CHANGING = {  # what differs from one time to the next
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"run [a-z]+-[a-z]+": "run NAME",
    r"http://127\.0\.0\.1:\d+": "http://HOST",
    r"\d{4}-\d\d-\d\d \d\d:[\d:.+]+": "TIME",
}
# A server that looks at everything each second, so that nothing has to be waited for.
QUICK = {
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
}
TOKEN = "a-long-random-text"
BEARER = f"Bearer {TOKEN}"
SILENCE_S = 10  # the least that Prefect allows
TAG = {"prefect.resource.id": "prefect.tag.vitrine", "prefect.resource.role": "tag"}  # as Prefect adds it for a run


class Told(NamedTuple):
    """A server that tells a webhook."""

    server: Server
    sink: Sink
    prefect: PrefectServer


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    prefect = PrefectServer(tmp_path_factory.mktemp("told"), settings=QUICK)
    patched = mock.patch.object(automations_module, "SILENCE_S", SILENCE_S)
    try:
        prefect.start()
        with listening() as sink, patched:
            yield Told(Server(prefect.api_url, "--notify", sink.url), sink, prefect)
    finally:
        prefect.kill(signal.SIGKILL)


def fail(server: Server) -> None:
    server.execute(server.create("nightly", Scheduled()), nightly)


def crash(server: Server) -> None:
    message = (
        "Process exited with status code: -9. Process exited due to a SIGKILL signal. "
        "Typically caused by the operating system "
        "terminating the process for exceeding memory limits, or by manual cancellation."
    )
    server.create("vacuum", Scheduled(), Pending(), Running(), Crashed(message=message))


def refuse(server: Server) -> None:
    for state in (Running(), Pending()):
        server.create("vacuum", Scheduled(), Pending(), state)


def be_late(server: Server) -> None:
    for _ in range(2):
        server.create("nightly", Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=1)))


def hold(server: Server) -> None:
    release = {"prefect.resource.id": "vitrine.release.1", "prefect.resource.name": "1"}
    payload = {
        "summary": "Held back: search got worse\n"
        "Was it published?  No. Shoppers still search the release of 28 November, 02:41.\n"
        'Likeliest cause    Somebody changed embed.weights from "pretrained" to "random:0".',
        "report": "http://127.0.0.1:7860/reports/1",
    }
    server.emit({"event": HELD, "resource": release, "related": [TAG], "payload": payload})


def warn(server: Server) -> None:
    """Watch a store three times while its quarantine grows; the second time nothing has changed since the first."""
    EventsWorker.drain_all()  # one of other tests would send the events to their server
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        server.change("watch", {"settings": {"store": folder}, "limits": {"disk_percent": 0, "disk_gb": 0}})
        for quarantined in (30, 31, 60):
            for days_ago, n in ((1, 5), (0, quarantined)):
                ended = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="milliseconds")
                document = {"release": "r", "gate": "published", "reason": "", "seconds": {}}
                document |= {"catalog": {"rows": 1000, "quarantined": n}}
                store.put(f"runs/{ended.replace(':', '')}.json", json.dumps(document).encode())
            server.execute(server.create("watch", Scheduled()), watch)
            EventsWorker.drain_all()


def lose_workers(server: Server) -> None:
    server.ask("/work_pools/vitrine/workers/heartbeat", name="worker", heartbeat_interval_seconds=1)


def send_what_does_not_fit(server: Server) -> None:
    server.emit(updated_event(Change(added=("a",))) | {"payload": {"added": 3}})


def send_rubbish(server: Server) -> None:
    server.emit(refused_event("the message is not JSON", b"rubbish", "127.0.0.1"))


CAUSES: dict[str, Callable[[Server], None]] = {
    "failed": fail,
    "crashed": crash,
    "refused": refuse,
    "late": be_late,
    "held": hold,
    "warning": warn,
    "no worker": lose_workers,
    "trigger failed": send_what_does_not_fit,
    "trigger refused": send_rubbish,
}


@pytest.fixture(scope="module")
def happened(told: Told) -> None:
    for cause in CAUSES.values():
        cause(told.server)


def as_shown(message: str) -> str:
    for pattern, placeholder in CHANGING.items():
        message = re.sub(pattern, placeholder, message)
    return message.strip()


def test_the_page_shows_every_notification() -> None:
    notifications = {automation.name.removeprefix("vitrine: ") for automation in automations("vitrine")} - {"zombie"}
    assert set(MESSAGES) == notifications == set(CAUSES)


@pytest.mark.parametrize("notification", CAUSES)
def test_the_operator_is_told_what_the_page_shows(notification: str, told: Told, happened: None) -> None:
    texts = wait_for(lambda: told.sink.about(notification), 60)
    assert as_shown(MESSAGES[notification]) in [as_shown(text) for text in texts]


def test_a_warning_is_repeated_only_when_it_grew(told: Told, happened: None) -> None:
    wait_for(lambda: len(told.sink.about("warning")) == 2, 60)
    assert [text.splitlines()[-1][:3] for text in told.sink.about("warning")] == ["30 ", "60 "]


def test_late_runs_of_one_deployment_are_told_once(told: Told, happened: None) -> None:
    wait_for(lambda: [run["state_name"] for run in told.server.runs("nightly")].count("Late") == 2, 60)
    n_held = len(wait_for(lambda: told.sink.about("held"), 60))
    hold(told.server)  # told after whatever came before it
    wait_for(lambda: len(told.sink.about("held")) > n_held, 60)
    assert sum("\nnightly, run" in text for text in told.sink.about("late")) == 1


class Restarted(NamedTuple):
    """Runs that were active when the server was killed, and the folder of the calls that came before it was back."""

    failed: UUID  # just before
    dead: UUID
    ended: UUID
    waiting: UUID  # for a worker
    calls: Path


@pytest.fixture(scope="module")
def restarted(told: Told, happened: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    server, folder = told.server, tmp_path_factory.mktemp("triggers")
    wait_for(lambda: told.sink.about("crashed"), 60)
    names = ("compare", "backfill", "rollback")
    dead, ended, waiting = (server.create(name, Scheduled(), Pending(), Running()) for name in names)
    for run in (dead, ended, waiting):
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
        server.emit({"event": "prefect.flow-run.heartbeat", "resource": resource, "related": [TAG]})
    server.set_state(waiting, AwaitingRetry())
    failed = server.create("verify", Scheduled(), Pending(), Running(), Failed(message="just before the restart"))
    server.set_state(ended, Completed())
    told.prefect.kill(signal.SIGKILL)
    port = free_port()
    command = [sys.executable, "-m", "deployments.triggers", f"--port={port}", f"--spool={folder / 'calls'}"]
    environment = os.environ | {"PREFECT_API_URL": server.url, "VITRINE_TRIGGER_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    triggers = Process(command, environment, folder / "log")
    try:
        for names in ("ab", "cd"):
            triggers.start()
            wait_for(lambda: health(port))
            for name in names:
                body = {"added": [name]}
                answer = httpx.post(f"http://127.0.0.1:{port}/catalog", json=body, headers={"Authorization": BEARER})
                assert answer.status_code == 202
            assert health(port) == 503
            triggers.kill(signal.SIGKILL)
        triggers.start()
        told.prefect.start()
        wait_for(lambda: health(port) == 200)
        yield Restarted(failed, dead, ended, waiting, folder / "calls")
    finally:
        triggers.kill(signal.SIGKILL)


def health(port: int) -> int:
    """Return the status of the triggers' health, 0 if they do not answer."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code
    except httpx.TransportError:
        return 0


def test_calls_that_came_while_prefect_was_down_start_their_update_once(told: Told, restarted: Restarted) -> None:
    wait_for(lambda: not list(restarted.calls.glob("calls/*")), 60)
    runs = [run for run in told.server.runs("catalog-update") if run["parameters"]["added"]]
    assert [name for run in runs for name in run["parameters"]["added"]] == ["a", "b", "c", "d"]
    key = runs[0]["idempotency_key"]
    told.server.send(lambda updates: updates.start(Change(added=("again",)), key))
    assert len(told.server.runs("catalog-update")) == len(runs), "a key starts one update, also after a restart"


def test_a_run_whose_end_a_restart_of_the_server_hid_is_told_by_the_watch(told: Told, restarted: Restarted) -> None:
    """On a slow machine the message leaves before the server is killed; whether Prefect then knows of it is chance."""
    later = datetime.now(UTC) + timedelta(minutes=21)
    with temporary_settings({PREFECT_API_URL: told.server.url}), get_client(sync_client=True) as client:
        untold = {one.subject: one.reason for one in find_untold_runs(client, ["auto-scheduled", "vitrine"], later)}
        assert list(find_untold_runs(client, ["acme"], later)) == []
        assert list(find_untold_runs(client, ["vitrine"], datetime.now(UTC))) == [], "Prefect may still tell it"
    warnings = [reason for run, reason in untold.items() if run == str(restarted.failed)]
    messages = [text for text in told.sink.about("failed") if "just before the restart" in text]
    assert warnings or messages
    assert all("its notification was lost: just before the restart" in reason for reason in warnings)
    assert untold.keys() <= {str(restarted.failed), str(restarted.dead)}, "what was told is not told again"


def test_after_a_restart_a_run_without_heartbeat_is_crashed_and_one_that_ended_or_waits_is_not(
    told: Told, restarted: Restarted
) -> None:
    wait_for(lambda: told.server.state(restarted.dead).is_crashed(), 60)
    assert told.server.state(restarted.dead).message == f"No heartbeat for {SILENCE_S} s."
    assert told.server.state(restarted.ended).is_completed()
    assert told.server.state(restarted.waiting).is_scheduled()
