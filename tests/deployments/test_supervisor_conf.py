"""What keeps a machine's programs running: each can be started, and ends when it is told to."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONF = configparser.ConfigParser(interpolation=None)
CONF.read(ROOT / "deployments" / "supervisor.conf")
PROGRAMS = [section for section in CONF.sections() if section.startswith("program:")]
GUIDE = (ROOT / "docs" / "operations.md").read_text()


def test_the_group_holds_every_program() -> None:
    assert [f"program:{name}" for name in CONF["group:vitrine"]["programs"].split(",")] == PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_takes_its_shell_s_place_as_an_ordinary_user(program: str) -> None:
    shell, option, line = shlex.split(CONF[program]["command"])
    settings, environment, *before, last = [part.strip() for part in line.split(";")]
    assert (shell, option, settings, environment) == ("bash", "-c", "set -a", ". /etc/vitrine.env")
    assert last.startswith("exec "), "without exec the shell gets SIGTERM and the program lives on"
    assert all(part.startswith("cd ") for part in before)
    assert CONF[program]["user"] == "vitrine"
    assert CONF[program]["stdout_logfile"].startswith("/var/log/vitrine/")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_knows_its_arguments(program: str) -> None:
    command = shlex.split(CONF[program]["command"])[2].rpartition("exec ")[2].split()
    console = {"python": [sys.executable], "vitrine": [sys.executable, "-m", "deployments.cli.main"]}
    start = console.get(command[0], [sys.executable, "-m", command[0]])
    done = subprocess.run([*start, *command[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_variable_that_a_program_names_is_set_by_the_guide() -> None:
    named = set(re.findall(r"\$(VITRINE_\w+)", " ".join(CONF[program]["command"] for program in PROGRAMS)))
    named |= set(re.findall(r"\{\{ \$(\w+) \}\}", (ROOT / "deployments" / "prefect.yaml").read_text()))
    assert named <= set(re.findall(r"^(\w+)=", GUIDE, re.MULTILINE))
