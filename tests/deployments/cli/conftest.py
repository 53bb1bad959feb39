"""A release published by `vitrine run`, and the command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.images import thumbnail

QUICK = [
    "--set=embed.weights=random:0",
    "--set=embed.size_px=64",
    "--set=embed.background=raw",
    "--set=reduce.dims=[4]",
    "--set=evaluate.queries=4",
    "--set=evaluate.synthetic_queries=4",
]


def vitrine(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two categories, one of them broken, and a published release of them."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    for category in ("red", "blue"):
        (folder / "photos" / category).mkdir(parents=True)
        for number in range(6):
            colour = (200, 40, 40) if category == "red" else (40, 40, 200)
            pixels = np.clip(rng.normal(colour, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
            (folder / "photos" / category / f"{number}.jpg").write_bytes(thumbnail(pixels, 64))
    (folder / "photos" / "red" / "5.jpg").write_bytes(b"\xff\xd8\xff broken")
    done = vitrine(
        "run", "--source=folder:photos", "--store=store", "--json", "--set=ingest.max_reject_fraction=0.1", *QUICK,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "run.json").write_text(done.stdout)
    return folder
