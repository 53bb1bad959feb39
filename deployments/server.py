"""Prefect's embedded server for a run from the command line, ended even when that run is killed."""

from __future__ import annotations

import subprocess
import sys

# It waits for the end of its standard input, which comes when the process that holds the other end is gone, however.
_GUARD = """
import os, signal, sys
sys.stdin.read()
try:
    os.kill(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


def start_guarded_server() -> None:
    """Start the embedded server, unless `PREFECT_API_URL` names another, and a guard that ends it with this process.

    Prefect stops its server at a normal exit only; after a SIGKILL it would stay, and hold the database, for ever.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    server = SubprocessASGIServer()  # one a process: the flow finds it running
    server.start()
    if server.server_process is not None:
        command = [sys.executable, "-c", _GUARD, str(server.server_process.pid)]
        # A session of its own, so that Ctrl-C reaches the run and not the guard.
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
