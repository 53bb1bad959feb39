"""A Prefect server on loopback for one process, with a database of its own."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import prefect
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from retrieval_core.errors import ServerUnavailable

ANSWER_S = 5.0
STOP_S = 5.0
START_S = 120.0  # on a fresh machine it writes its database first
# Standard input ends when the process at its other end has ended, whatever ended it. SQLite survives a sudden end.
_SERVER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import uvicorn
uvicorn.main()
"""


class LocalServer:
    """A server on loopback with a database in a folder of its own, which ends with this process.

    Prefect's own would be imported here whole, for 3 s of the processor's time; shares the terminal's signals and the
    database of other versions of Prefect; and, after a SIGKILL, outlives the process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (the server writes to it for as long as it runs)
        self._process = self._run_uvicorn_command()
        atexit.register(self._stop)

    @classmethod
    def start_in(cls, cache_dir: Path) -> None:
        """Start a server for all runs of this process, its database in `cache_dir`. Raises `ServerUnavailable`."""
        server = cls(_writable_folder(cache_dir / f"prefect-{prefect.__version__}"))
        server._wait()
        named = ExitStack()
        named.enter_context(temporary_settings({PREFECT_API_URL: server.api_url}))
        atexit.register(named.close)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    def _wait(self) -> None:
        """Return when the server answers. Raises `ServerUnavailable`."""
        deadline_s = time.monotonic() + START_S
        with httpx.Client(trust_env=False, timeout=ANSWER_S) as client:
            while not self._answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    reason = self._last_line()
                    self._stop()
                    raise ServerUnavailable(
                        f"Prefect's local server does not start: {reason}; remove {self.folder} and try again, or name "
                        "a server with PREFECT_API_URL"
                    )
                time.sleep(0.1)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.api_url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def _run_uvicorn_command(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _SERVER, "--factory", "prefect.server.api.server:create_app"]
        options = ["--host=127.0.0.1", f"--port={self._port}", "--log-level=error", "--lifespan=on"]
        return subprocess.Popen(
            [*command, *options],
            env=os.environ | self._environment(),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches this process alone
        )

    def _environment(self) -> dict[str, str]:
        environment = get_current_settings().to_environment_variables(exclude_unset=True)
        environment.setdefault(
            "PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{self.folder / 'prefect.db'}"
        )
        own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        return environment | own | {"PREFECT_HOME": str(self.folder)}

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"no answer in {START_S:.0f} s")


def _writable_folder(folder: Path) -> Path:
    """Return the folder after creating it, or a temporary one where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="vitrine-prefect-")
        atexit.register(temporary.cleanup)
        return Path(temporary.name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
