"""No library reports to its maker: a run and searches reach loopback alone, and write only where they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import retrieval_core
from retrieval_core.images import thumbnail

ROOT = Path(__file__).parents[2]
# Some libraries are silent where they recognise a build server, so the variables that say so are hidden.
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")
VITRINE = [sys.executable, "-m", "deployments.cli.main"]
RUN = [
    *VITRINE, "run", "--source=folder:photos", "--store=store", "--set=embed.backbone=pca_pixels",
    "--set=embed.weights=fit:0", "--set=embed.size_px=16", "--set=embed.background=raw", "--set=reduce.dims=[4]",
    "--set=evaluate.queries=4", "--set=evaluate.synthetic_queries=4",
]  # fmt: skip
SEARCH = [*VITRINE, "search", "--store=store", "--image=photos/red/0.jpg", "-k=1"]
IN_PYTHON = "from retrieval_core import open_release; print(open_release('store').search('photos/red/0.jpg', k=1))"
# Names every address and every written file of a Python process and of its children, which inherit PYTHONPATH.
OBSERVER = """
import os, sys
_log = os.open(os.environ["OBSERVED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _observe(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        os.write(_log, f"address {arguments[1]!r}\\n".encode())
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        os.write(_log, f"address {arguments[:1]!r}\\n".encode())
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(_log, f"file {os.path.abspath(arguments[0])}\\n".encode())
sys.addaudithook(_observe)
"""
LOOPBACK = re.compile(r"""\(?['"]?(127\.|::1|localhost|0\.0\.0\.0|::ffff:127\.)|None|^['"/]""")
INTERNET_ADDRESS = re.compile(r'sin6?_port=htons\(\d+\).*?"([^"]+)"')


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalogue of twelve pictures, and an observer that Python imports when it starts."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    for category, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / "photos" / category).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(rng.normal(colour, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
            (folder / "photos" / category / f"{number}.jpg").write_bytes(thumbnail(pixels, 64))
    (folder / "observer").mkdir()
    (folder / "observer" / "sitecustomize.py").write_text(OBSERVER)
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    return folder


def observed(command: list[str], shop: Path) -> tuple[set[str], set[str]]:
    """Run a command; return the addresses that it named and the files that its Python code wrote."""
    log, trace = shop / "observed", shop / "trace"
    for path in (log, trace):
        path.unlink(missing_ok=True)
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "HOME": str(shop / "home"),
        "TMPDIR": str(shop / "tmp"),
        "PREFECT_HOME": str(shop / "prefect"),
        "PYTHONPATH": f"{shop / 'observer'}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OBSERVED": str(log),
    }
    if strace := shutil.which("strace"):  # sees native code too
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        command = [strace, "--seccomp-bpf", "-f", "-qq", "-o", str(trace), "-e", calls, *command]
    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    addresses = {value for kind, _, value in lines if kind == "address"}
    addresses |= set(INTERNET_ADDRESS.findall(trace.read_text())) if trace.exists() else set()
    return addresses, {value for kind, _, value in lines if kind == "file"}


@pytest.mark.timeout(300)
def test_a_run_and_searches_reach_loopback_alone_and_write_to_the_store_alone(shop: Path) -> None:
    for command in (RUN, SEARCH, [sys.executable, "-c", IN_PYTHON]):
        addresses, files = observed(command, shop)
        assert not [address for address in addresses if not LOOPBACK.match(address)], command
        allowed = tuple(str(shop / name) for name in ("store", "prefect", "tmp")) + ("/dev/",)
        assert not [file for file in files if not file.startswith(allowed)], command
        assert not [*(shop / "home").rglob("*")], command
        expected = {"photos", "store", "prefect", "observer", "home", "tmp", "observed", "trace"}
        assert {path.name for path in shop.iterdir()} <= expected, command


@pytest.mark.parametrize("module", ["retrieval_core", "flows", "tasks", "deployments", "deployments.cli.main"])
def test_every_way_in_turns_telemetry_off_and_leaves_what_the_user_sets(module: str) -> None:
    code = f"import os, {module}; print(*(os.environ[name] for name in {[*retrieval_core.TELEMETRY_OFF]}))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = retrieval_core.TELEMETRY_OFF | {"ORT_DISABLE_TELEMETRY": "0"}
    assert done.stdout.split() == [*expected.values()]


def test_the_images_turn_off_the_telemetry_of_programs_that_start_without_this_package() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    for name, value in retrieval_core.TELEMETRY_OFF.items():
        assert f" {name}={value} " in dockerfile
