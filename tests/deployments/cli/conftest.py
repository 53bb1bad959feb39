"""A release published by `vitrine run` in a process of its own, and the other commands in this one."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from deployments.cli.main import main
from retrieval_core.images import thumbnail
from tests.conftest import SHARED_FOLDER
from tests.deployments.cli.observer import observe

QUICK = [
    "--set=embed.backbone=pca_pixels",
    "--set=embed.weights=fit:0",
    "--set=embed.size_px=16",
    "--set=embed.background=raw",
    "--set=reduce.dims=[4]",
    "--set=evaluate.queries=4",
    "--set=evaluate.synthetic_queries=4",
]


class Done(NamedTuple):
    """The exit code of a command and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def vitrine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`vitrine(*arguments, cwd=folder)` runs a command in that folder."""

    def run(*arguments: str, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        code = main(arguments)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def original() -> Path:
    """Twelve pictures of two categories, one of them broken, and a published release of them, to be read only.

    One worker of the test run makes it for all.
    """
    folder = Path(os.environ[SHARED_FOLDER]) / "published"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            publish(folder)
    return folder


@pytest.fixture(scope="session")
def published(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's own copy of the pictures and the release."""
    folder = tmp_path_factory.mktemp("night") / "shop"
    shutil.copytree(original, folder)
    run = folder / "run.json"
    run.write_text(run.read_text().replace(str(original), str(folder)))
    return folder


def publish(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for category in ("red", "blue"):
        (folder / "photos" / category).mkdir(parents=True)
        for number in range(6):
            colour = (200, 40, 40) if category == "red" else (40, 40, 200)
            pixels = np.clip(rng.normal(colour, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
            (folder / "photos" / category / f"{number}.jpg").write_bytes(thumbnail(pixels, 64))
    (folder / "photos" / "red" / "5.jpg").write_bytes(b"\xff\xd8\xff broken")
    command = [
        sys.executable, "-m", "deployments.cli.main", "run", "--source=folder:photos", "--store=store", "--json",
        "--set=ingest.max_reject_fraction=0.1", *QUICK,
    ]  # fmt: skip
    done, hosts, files = observe(command, folder, "store")
    assert done.returncode == 0, done.stderr
    assert (hosts, files) == (set(), set())  # nothing leaves the machine, and only the store is written
    (folder / "run.log").write_text(done.stderr)
    (folder / "run.json").write_text(done.stdout)
