"""Every way into Vitrine turns off the telemetry of the libraries that it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import retrieval_core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["retrieval_core", "flows", "tasks", "deployments", "deployments.cli.main"])
def test_importing_turns_telemetry_off_and_leaves_what_the_user_sets(module: str) -> None:
    code = f"import os, {module}; print(*(os.environ[name] for name in {[*retrieval_core.TELEMETRY_OFF]}))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = retrieval_core.TELEMETRY_OFF | {"ORT_DISABLE_TELEMETRY": "0"}
    assert done.stdout.split() == [*expected.values()]


def test_the_images_turn_it_off_for_programs_that_start_without_this_package() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    for name, value in retrieval_core.TELEMETRY_OFF.items():
        assert f" {name}={value} " in dockerfile


def test_openvino_cannot_report_that_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = """
import sys, retrieval_core
from retrieval_core.embed.engine import check_precision

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
try:
    check_precision("cpu", "bfloat16")
except retrieval_core.BadConfig:
    pass  # another CPU
assert "openvino" in sys.modules
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.iterdir()), "its telemetry writes a number of this machine"
