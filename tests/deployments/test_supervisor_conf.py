"""What keeps a machine's programs running: each reads only its own secrets, and ends when it is told to."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "supervisor.conf"
GUIDE = (ROOT / "docs" / "operations.md").read_text()
# The files of settings that the user of each program can read.
READABLE = {
    "vitrine": {"shop", "client", "store", "operator"},
    "vitrine-server": {"shop", "server"},
    "vitrine-triggers": {"shop", "client", "triggers"},
    "vitrine-app": {"shop", "store"},
}


def parsed(text: str) -> configparser.ConfigParser:
    conf = configparser.ConfigParser(interpolation=None)
    conf.read_string(text)
    return conf


CONF = parsed(FILE.read_text())
PROGRAMS = [section for section in CONF.sections() if section.startswith("program:")]


def test_the_group_holds_every_program() -> None:
    assert [f"program:{name}" for name in CONF["group:vitrine"]["programs"].split(",")] == PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_takes_its_shell_s_place_as_a_user_of_its_own(program: str) -> None:
    shell, option, line = shlex.split(CONF[program]["command"])
    settings, *before, last = [part.strip() for part in line.split(";")]
    files = {part.removeprefix(". /etc/vitrine/").removesuffix(".env") for part in before if part.startswith(". ")}
    assert (shell, option, settings) == ("bash", "-c", "set -ea"), (
        "without -e, a server that cannot read its settings starts with another database"
    )
    assert last.startswith("exec "), "without exec the shell gets SIGTERM and the program lives on"
    assert files <= READABLE[CONF[program]["user"]]
    assert CONF[program]["environment"].startswith(f'HOME="{CONF[program]["directory"]}"')
    assert CONF[program]["stdout_logfile"].startswith("/var/log/vitrine/")
    assert (CONF[program]["stdout_logfile_maxbytes"], CONF[program]["stdout_logfile_backups"]) == ("50MB", "10")


def test_every_program_has_a_user_of_its_own() -> None:
    assert sorted(CONF[program]["user"] for program in PROGRAMS) == sorted(READABLE)


def test_the_guide_lets_a_user_read_no_other_file() -> None:
    groups = {user: {user} for user in READABLE}
    for names, user in re.findall(r"usermod --append --groups (\S+) (\S+)", GUIDE):
        groups[user] |= set(names.split(","))
    files = {file: group for group, file in re.findall(r"--mode 640 --group (\S+) /dev/null /etc/vitrine/(\w+)", GUIDE)}
    readable = {user: {"shop"} | {file for file in files if files[file] in groups[user]} for user in READABLE}
    assert readable == READABLE


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_knows_its_arguments(program: str) -> None:
    command = shlex.split(CONF[program]["command"])[2].rpartition("exec ")[2].split()
    console = {"python": [sys.executable], "vitrine": [sys.executable, "-m", "deployments.cli.main"]}
    start = console.get(command[0], [sys.executable, "-m", command[0]])
    arguments = [word for word in command[1:] if not word.endswith("_OPTIONS")]
    done = subprocess.run([*start, *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_variable_that_a_program_names_is_set_by_the_guide() -> None:
    named = set(re.findall(r"\$(VITRINE_\w+)", " ".join(CONF[program]["command"] for program in PROGRAMS)))
    named |= set(re.findall(r"\{\{ \$(\w+) \}\}", (ROOT / "deployments" / "prefect.yaml").read_text()))
    assert named <= set(re.findall(r"^(\w+)=", GUIDE, re.MULTILINE))


def test_the_guide_makes_the_programs_of_a_second_shop() -> None:
    (command,) = re.findall(r"^(sed --expression .*) > /etc/supervisor/conf.d", GUIDE, re.MULTILINE | re.DOTALL)
    command = command.replace("/opt/vitrine/current/deployments/supervisor.conf", str(FILE))
    text = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
    second = parsed(text)
    assert second.sections() == [
        *(f"program:vitrine-acme-{name}" for name in ("worker", "triggers", "app")),
        "group:vitrine-acme",
    ]
    assert second["group:vitrine-acme"]["programs"] == "vitrine-acme-worker,vitrine-acme-triggers,vitrine-acme-app"
    assert not re.search("/etc/vitrine/|8700|7860", text)
    for name in ("worker", "triggers", "app"):
        first = CONF[f"program:vitrine-{name}"]
        assert second[f"program:vitrine-acme-{name}"]["user"] == first["user"]
        assert second[f"program:vitrine-acme-{name}"]["stdout_logfile"] == f"/var/log/vitrine/acme-{name}.log"
