"""What is done on a signal before the process ends is bounded; what hangs or fails does not keep the rest from it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PART = "is imported in part"
KINDS = {
    "works": "lambda *number: os.write(1, (' '.join([{name!r}, *(str(int(n)) for n in number)]) + chr(10)).encode())",
    "hangs": "lambda *number: time.sleep(600)",
    "fails": "lambda *number: 1 / 0",
    PART: "",
}
# Modules stand in for those that a run has imported; the main thread is in a library that handles no signal.
PROGRAM = """
import hashlib, os, signal, sys, time, types
from deployments.cli import interruption
for name, function, stand_in in {stand_ins}:
    module = sys.modules[name] = types.ModuleType(name)
    if stand_in:
        setattr(module, function, eval(stand_in.format(name=function)))
interruption.end_on_signals()
os.kill(os.getpid(), {number})
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kinds", [("works", "works"), ("hangs", "works"), ("works", "fails"), (PART, "works")])
def test_a_signal_is_reported_and_the_leases_ended(number: signal.Signals, kinds: tuple[str, str]) -> None:
    names = [("flows.run", "report_interruption"), ("retrieval_core.store.leases", "end_all")]
    stand_ins = [(*name, KINDS[kind]) for name, kind in zip(names, kinds, strict=True)]
    command = [sys.executable, "-c", PROGRAM.format(stand_ins=stand_ins, number=int(number))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + number
    assert done.stderr == "\nvitrine: interrupted; run the same command again to resume\n"
    expected = [f"report_interruption {int(number)}", "end_all"]
    working = [line for line, kind in zip(expected, kinds, strict=True) if kind == "works"]
    assert sorted(done.stdout.splitlines()) == sorted(working)


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    program = "\n".join(
        [
            "import os, signal",
            "from deployments.cli.interruption import end_on_signals",
            "signal.signal(signal.SIGHUP, signal.SIG_IGN)",
            "end_on_signals()",
            "os.kill(os.getpid(), signal.SIGHUP)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0
