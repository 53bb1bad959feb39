"""Run a command and record the addresses that it reaches and the files that it writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
# Some libraries are silent where they recognise a build server, so the variables that name one are hidden.
KEPT_VARIABLES = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")
# Python imports this when it starts, also in child processes, which inherit PYTHONPATH.
SITECUSTOMIZE = """
import os, sys
_log = os.open(os.environ["OBSERVED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _observe(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return os.write(_log, f"file {os.path.abspath(arguments[0])}\\n".encode())
    else:
        return
    if isinstance(address, tuple) and address[0]:  # the others are local: Unix sockets, and all of this machine
        os.write(_log, f"address {address[0]}\\n".encode())
sys.addaudithook(_observe)
"""
NATIVE_CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
NATIVE_ADDRESS = re.compile(r'sin6?_port=htons\(\d+\).*?"([^"]+)"')
LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.|localhost$|0\.0\.0\.0$")


class Observed(NamedTuple):
    """How a command ended, the hosts beyond loopback that it named, and the files outside `allowed` that it wrote."""

    done: subprocess.CompletedProcess[str]
    hosts: set[str]
    files: set[str]


def observe(command: list[str], folder: Path, *allowed: str) -> Observed:
    """Run a command in `folder`, with an empty home; it may write in `allowed`, folders there, and in the cache.

    Native code is observed too, its connections by strace where that is installed, its files by what is new in the
    folder and the home.
    """
    watch = folder.with_name(f"{folder.name}-watch")
    shutil.rmtree(watch, ignore_errors=True)
    for name in ("home", "tmp"):
        (watch / name).mkdir(parents=True)
    (watch / "sitecustomize.py").write_text(SITECUSTOMIZE)
    log, trace = watch / "log", watch / "trace"
    variables = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | {
        "HOME": str(watch / "home"),
        "TMPDIR": str(watch / "tmp"),
        "PREFECT_HOME": str(watch / "prefect"),
        "VITRINE_CACHE_DIR": str(watch / "cache"),
        "PYTHONPATH": f"{watch}{os.pathsep}{ROOT}",
        "OBSERVED": str(log),
    }
    before = set(folder.iterdir())
    if strace := shutil.which("strace"):
        command = [strace, "--seccomp-bpf", "-f", "-qq", "-o", str(trace), "-e", NATIVE_CALLS, *command]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    hosts = {value for kind, _, value in lines if kind == "address"}
    hosts |= set(NATIVE_ADDRESS.findall(trace.read_text())) if trace.exists() else set()
    files = {value for kind, _, value in lines if kind == "file" and "__pycache__" not in value}
    files |= {str(path) for path in (*(watch / "home").rglob("*"), *(set(folder.iterdir()) - before))}
    kept = (*(folder / name for name in allowed), *(watch / name for name in ("cache", "prefect", "tmp")))
    may_write = (*map(str, kept), "/dev/")
    return Observed(
        done,
        {host for host in hosts if not LOOPBACK.match(host)},
        {file for file in files if not file.startswith(may_write)},
    )
