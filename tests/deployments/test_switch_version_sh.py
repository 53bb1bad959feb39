"""Another version takes over, or the one before runs again with Prefect's database as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.servers import Postgres, has_postgres

pytestmark = pytest.mark.skipif(not has_postgres(), reason="no PostgreSQL; on Debian: make debian")
SCRIPT = Path(__file__).parents[2] / "deployments" / "switch_version.sh"
# Stands for Prefect's migration: it changes a table and adds another.
MIGRATION = "ALTER TABLE flow_run ADD note text; INSERT INTO flow_run VALUES (2, 'new'); CREATE TABLE added (id int)"


class Machine:
    """Two versions beside each other, the settings of two shops, and stubs of the commands that only root may run."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self._folder = folder
        self.versions, self.commands = folder / "versions", folder / "commands"
        for version in ("1", "2"):
            self._add_version(self.versions / version)
        (self.versions / "current").symlink_to("1")
        address = postgres.url.partition("@")[2].partition("/")[0]
        self._psql("CREATE ROLE shop LOGIN; CREATE DATABASE history OWNER shop", postgres.url.replace("+asyncpg", ""))
        self._database = f"postgresql://shop@{address}/history"
        self._psql("CREATE EXTENSION pg_trgm; CREATE TABLE flow_run (id int); INSERT INTO flow_run VALUES (1)")
        url = f"postgresql+asyncpg://shop:unused@{address}/history"
        for shop in ("vitrine", "vitrine-acme"):
            (folder / "etc" / shop).mkdir(parents=True)
        (folder / "etc" / "vitrine" / "server.env").write_text(f"PREFECT_SERVER_DATABASE_CONNECTION_URL={url}\n")
        self._add_command("id", "echo 0")
        self._add_command("supervisorctl", "")
        self._add_command("runuser", f'psql --quiet --dbname {self._database} --command "{MIGRATION}"')

    def _add_version(self, version: Path) -> None:
        (version / "deployments").mkdir(parents=True)
        (version / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(SCRIPT, version / "deployments")
        self._add_script(version / ".venv" / "bin" / "vitrine", "")
        self.set_operator(version.name, "nothing to migrate: the store has format 2")

    def set_operator(self, version: str, answer: str, register: str = "true") -> None:
        """Let operator.sh of a version answer `migrate`, and register with a command."""
        lines = f'echo "operator $SETTINGS $*" >> {self.commands}\ncase "$*" in *migrate) echo "{answer}" ;; '
        script = self.versions / version / "deployments" / "operator.sh"
        self._add_script(script, f"{lines} *register) {register} ;; esac")

    def _add_script(self, path: Path, text: str) -> None:
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def _add_command(self, name: str, text: str) -> None:
        (self._folder / "bin").mkdir(exist_ok=True)
        self._add_script(self._folder / "bin" / name, f'echo "{name} $*" >> {self.commands}\n{text}')

    def fail_at(self, command: str) -> None:
        self._add_command(command, "exit 1")

    def _psql(self, statements: str, url: str = "") -> str:
        arguments = ["psql", "--quiet", "--tuples-only", "--no-align", "--dbname", url or self._database]
        commands = [word for statement in statements.split("; ") for word in ("--command", statement)]
        return subprocess.run([*arguments, *commands], check=True, capture_output=True, text=True).stdout.strip()

    def state(self) -> tuple[str, str, str]:
        """Return the current version, the runs of the history, and the tables of the database."""
        tables = self._psql(
            "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
        )
        runs = self._psql("SELECT string_agg(flow_run::text, ' ' ORDER BY id) FROM flow_run")
        return (self.versions / "current").resolve().name, runs, tables

    def switch(self, argument: str, code: int = 0) -> str:
        environment = os.environ | {
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            "ETC": str(self._folder / "etc"),
        }
        script = self.versions / "2" / "deployments" / SCRIPT.name
        done = subprocess.run(["bash", script, argument], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


BEFORE = ("1", "(1)", "flow_run")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    postgres = Postgres()
    postgres.start()
    yield postgres
    postgres.remove()


@pytest.fixture
def machine(postgres: Postgres, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, postgres)
    yield machine
    machine._psql("DROP DATABASE history; DROP ROLE shop", postgres.url.replace("+asyncpg", ""))


def test_a_version_takes_over_and_one_command_goes_back(machine: Machine) -> None:
    assert machine.state() == BEFORE
    assert "go back" not in machine.switch(str(machine.versions / "2"))
    assert machine.state() == ("2", "(1,) (2,new)", "added flow_run")
    assert (machine.versions / "1.dump").stat().st_mode & 0o077 == 0
    commands = machine.commands.read_text().splitlines()
    registered = [line.split()[1].rpartition("/")[2] for line in commands if line.endswith("deployments.register")]
    assert registered == ["vitrine", "vitrine-acme"]
    steps = ["supervisorctl stop vitrine:*", "runuser", "supervisorctl update", "supervisorctl start vitrine-acme:*"]
    positions = [next(n for n, line in enumerate(commands) if line.startswith(step)) for step in steps]
    assert positions == sorted(positions)
    for _ in range(2):  # the dump of a restored database restores it, too
        machine.switch("--back")
        assert machine.state() == BEFORE
        assert "has no version before" in machine.switch("--back", 1)
        machine.switch(str(machine.versions / "2"))


@pytest.mark.parametrize("step", ["runuser", "register", "pg_dump"])
def test_a_step_that_fails_leaves_the_version_before(step: str, machine: Machine) -> None:
    if step == "register":
        machine.set_operator("2", "it is empty", "exit 1")
    else:
        machine.fail_at(step)
    assert "going back" in machine.switch(str(machine.versions / "2"), 1)
    assert machine.state() == BEFORE
    assert machine.commands.read_text().splitlines()[-1] == "supervisorctl start vitrine-acme:*"


@pytest.mark.parametrize("answer", ["from format 1 to 2: would copy 3 files", "has format 3: update Vitrine"])
def test_a_store_of_another_format_stops_the_switch_before_anything_changes(answer: str, machine: Machine) -> None:
    machine.set_operator("2", answer)
    assert "vitrine migrate" in machine.switch(str(machine.versions / "2"), 1)
    assert machine.state() == BEFORE
    assert "supervisorctl" not in machine.commands.read_text()


def test_a_folder_that_is_no_other_version_is_refused(machine: Machine, tmp_path: Path) -> None:
    assert "is not ready" in machine.switch(str(tmp_path), 1)
    assert "is the version in use" in machine.switch(str(machine.versions / "1"), 1)
