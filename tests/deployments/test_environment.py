"""Loopback without a proxy, and a user without a home folder, in every program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import register
from deployments.cli import main
from deployments.environment import prepare_environment
from deployments.triggers import server as triggers


@pytest.mark.parametrize("proxy", ["http://proxy.example:9", "socks5h://proxy.example:9"])
@pytest.mark.parametrize("hosts", ["", "intranet.example, 10.0.0.1", "*"])
def test_loopback_never_goes_through_a_proxy(hosts: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, hosts)
    prepare_environment()
    with httpx.Client() as client:
        for url in ("http://127.0.0.1:4200/api", "http://localhost:4200", "https://[::1]:9"):
            assert client._transport_for_url(httpx.URL(url)) is client._transport
        elsewhere = client._transport_for_url(httpx.URL("http://hub.example"))
        assert (elsewhere is client._transport) == (hosts == "*")


@pytest.mark.parametrize(
    "program",
    [lambda: main.main(["config", "--check", "absent.toml"]), lambda: triggers.main([]), lambda: register.main([])],
    ids=["vitrine", "triggers", "register"],
)
def test_every_program_prepares_its_environment(program: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_TRIGGER_TOKEN", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert program() == 2, "nothing is configured"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1"


def test_a_user_without_a_home_folder_gets_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare_environment()
    assert Path.home() == tmp_path
    program = """
import os
from pathlib import Path
from deployments.environment import prepare_environment

def homeless():
    raise RuntimeError

Path.home = homeless
prepare_environment()
assert Path(os.environ["HOME"]).is_dir()
print(os.environ["HOME"])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    home = Path(done.stdout.strip())
    assert home != tmp_path
    assert not home.exists()


def test_a_home_that_cannot_be_written_is_no_warning_of_prefect(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from deployments.environment import prepare_environment; prepare_environment(); import prefect.context"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    environment |= {"HOME": str(tmp_path / "file"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
