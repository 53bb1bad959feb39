"""Prefect's server and PostgreSQL as an operator runs them; they can be killed and started again."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 180.0
# The settings that docs/operations.md gives the server, and the login that clients send.
LOGIN = "vitrine:" + "0123456789abcdef" * 3
CLOSED = {
    "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200",
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_UI_URL": "http://127.0.0.1:4200",
    "PREFECT_SERVER_METRICS_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "P90D",
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P30D",
}

OFTEN = {"PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5"}  # looks for old runs in place of each hour


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until `happened` returns True; `what` names it if it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE_S:.0f} s"
        time.sleep(0.02)


class Server:
    """A process and its children, in a session of their own, which can be restarted."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, user: str | None = None) -> None:
        self._command, self._environment, self._log, self._user = command, environment, log, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._log.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also that of the session."""
        assert self._process is not None
        return self._process.pid

    def kill(self, how: signal.Signals) -> None:
        """Send a signal to all processes and wait for the end."""
        if self._process is not None:
            os.killpg(self._process.pid, how)
            self._process.wait(PATIENCE_S)
            self._process = None


class PrefectServer(Server):
    """`prefect server start` with a login, other settings and a database, on a port that it keeps over restarts."""

    def __init__(self, folder: Path, database_url: str = "", settings: dict[str, str] | None = None) -> None:
        port = free_port()
        self.api_url = f"http://127.0.0.1:{port}/api"
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= {"PREFECT_HOME": str(folder / "prefect"), **CLOSED, **(settings or {})}
        if database_url:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database_url
        command = [sys.executable, "-m", "prefect", "server", "start", "--host=127.0.0.1", f"--port={port}"]
        super().__init__(command, environment, folder / "prefect-server.log")

    def start(self) -> None:
        super().start()
        until(self.answers, "the Prefect server's start")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Postgres(Server):
    """PostgreSQL on loopback with one database; as it refuses root, root runs it as the user `postgres`.

    Its programs are Debian's, or those of a folder.
    """

    def __init__(self, programs: Path | None = None) -> None:
        self._programs = programs or _debian_programs()
        port = free_port()
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="vitrine-postgres-"))
        if user:
            owner = pwd.getpwnam(user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        data = self.folder / "data"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        command = [
            str(self._programs / "initdb"),
            f"--pgdata={data}",
            "--username=prefect",
            "--auth=trust",
            "--no-sync",
        ]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=self.folder, env=environment)
        # Without fsync, which protects from the loss of power, not from the kill of a process.
        options = [f"-p{port}", "-h127.0.0.1", f"-k{self.folder}", "-cfsync=off"]
        self._port = port
        super().__init__(
            [str(self._programs / "postgres"), f"-D{data}", *options], environment, self.folder / "log", user
        )

    def start(self) -> None:
        super().start()
        until(self._answers, "PostgreSQL's start")

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-h127.0.0.1", f"-p{self._port}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def remove(self) -> None:
        self.kill(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def shared_server(folder: Path) -> str:
    """Return the API's URL of the Prefect server that all processes with this folder use; the first one starts it.

    Its database is PostgreSQL, or SQLite where PostgreSQL is not installed; there, runs may wait a minute for the lock.
    """
    url = folder / "url"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not url.exists():
            database = Postgres() if has_postgres() else None
            if database:
                (folder / "postgres").symlink_to(database.folder)
                database.start()
                (folder / "postgres.pid").write_text(str(database.pid))
            database_url = database.url if database else f"sqlite+aiosqlite:///{folder}/prefect.db"
            (folder / "database").write_text(database_url)
            server = PrefectServer(folder, database_url, OFTEN)
            server.start()
            (folder / "prefect.pid").write_text(str(server.pid))
            url.write_text(server.api_url)
    return url.read_text()


def end_shared_server(folder: Path) -> None:
    """End the server and its database, if they run, and remove the folder."""
    for pid in folder.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree((folder / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def has_postgres() -> bool:
    return (_debian_programs() / "initdb").exists()


def _debian_programs() -> Path:
    """Return the folder of the programs of the newest version that Debian has installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else Path("/usr/lib/postgresql/none")
