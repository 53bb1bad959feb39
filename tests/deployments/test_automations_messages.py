"""Each event of docs/notifications.md happens on a real server, and a webhook receives what the page shows."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.events.worker import EventsWorker
from prefect.states import Crashed, Pending, Running, Scheduled

from deployments.automations import automations
from deployments.triggers.change_events import refused_event
from flows.maintenance import watch
from flows.nightly import nightly
from flows.ui_artifacts import HELD
from retrieval_core.ingest.change import Change
from retrieval_core.store.local import LocalStore
from tests.deployments.registered import Server, Sink, listening, updated_event, wait_for
from tests.faults.servers import PrefectServer

PAGE = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
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
TAG = {"prefect.resource.id": "prefect.tag.vitrine", "prefect.resource.role": "tag"}  # as Prefect adds it for a run


class Told(NamedTuple):
    """A server that tells a webhook."""

    server: Server
    sink: Sink


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    prefect = PrefectServer(tmp_path_factory.mktemp("told"), settings=QUICK)
    try:
        prefect.start()
        with listening() as sink:
            yield Told(Server(prefect.api_url, "--notify", sink.url), sink)
    finally:
        prefect.kill(signal.SIGKILL)


def fail(server: Server) -> None:
    server.execute(server.create("nightly", Scheduled()), nightly)


def crash(server: Server) -> None:
    server.create("vacuum", Scheduled(), Pending(), Running(), Crashed(message="Process exited with status code: -9."))


def refuse(server: Server) -> None:
    for state in (Running(), Pending()):
        server.create("vacuum", Scheduled(), Pending(), state)


def be_late(server: Server) -> None:
    server.create("nightly", Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=1)))


def hold(server: Server) -> None:
    release = {"prefect.resource.id": "vitrine.release.1", "prefect.resource.name": "1"}
    payload = {
        "reason": "recall@1 fell from 0.912 to 0.840, more than the 0.01 that the gate allows.",
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
