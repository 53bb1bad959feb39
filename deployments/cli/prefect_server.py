"""The Prefect server that a program uses: one that `PREFECT_API_URL` names, or an embedded one."""

from __future__ import annotations

import logging
import subprocess
import sys

from retrieval_core.errors import BadConfig, VitrineError

# Its standard input ends when the process that holds the other end is gone, whatever ended that process.
_GUARD = """
import os, signal, sys
sys.stdin.read()
try:
    os.kill(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


def check_server_is_named() -> None:
    """Raise `BadConfig` if `PREFECT_API_URL` is not set: an embedded server has no deployments."""
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise BadConfig("no Prefect server named: set PREFECT_API_URL, for example http://127.0.0.1:4200/api")


def start_prefect() -> None:
    """Start the embedded server if `PREFECT_API_URL` names none, and log errors raised on purpose in one line."""
    start_guarded_server()
    logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)


def start_guarded_server() -> None:
    """Start the embedded server if `PREFECT_API_URL` names none, and a guard that ends it with this process.

    Prefect stops its server at a normal exit only; after a SIGKILL it would run on and keep the database locked.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    server = SubprocessASGIServer()  # a singleton: the flow uses the one that runs
    server.start()
    if server.server_process is not None:
        command = [sys.executable, "-c", _GUARD, str(server.server_process.pid)]
        # A session of its own, so that Ctrl-C reaches the run and not the guard.
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], VitrineError):
        record.exc_info = None
    return True
