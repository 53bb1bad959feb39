"""What a training was, for whoever finds its backbone later: data, config, seconds, scores, code and machine."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrieval_core.artifacts import Value

RUN_CARD_FILE = "run_card.json"

_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "lightning", "pytorch-metric-learning", "numpy")


class RunCard(Value):
    """`parents` are the fingerprints of catalogue, start, masks and teacher; `counts` are of pictures."""

    objective: str
    parents: dict[str, str]
    counts: dict[str, int]
    config: dict[str, Any]
    metrics: dict[str, float]
    epochs: int
    best_epoch: int
    seconds: dict[str, float]
    device: str
    revision: str
    libraries: dict[str, str]


def save_run_card(card: RunCard, folder: Path) -> None:
    """Write `run_card.json`."""
    (folder / RUN_CARD_FILE).write_text(card.model_dump_json(indent=1), encoding="utf-8")


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a trained weight depends on."""
    return {name: version(name) for name in _LIBRARIES}


def code_revision() -> str:
    """The commit this code runs from, `-dirty` where files were changed since; the package's version outside git."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if (root / ".git").exists():
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git on this machine, or one that does not trust the folder
    return f"vitrine {version('vitrine')}"


def device_name(device: str, threads: int) -> str:
    """The card's name on CUDA; how many threads trained on the CPU."""
    if device == "cpu":
        return f"cpu, {threads} threads"
    import torch

    return torch.cuda.get_device_name()
