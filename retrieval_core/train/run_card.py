"""What a training was, for whoever finds its backbone later: data, config, seconds, scores, code and machine."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_core.artifacts.manifests import Value
from retrieval_core.embed.backbones import LoadedBackbone, save_backbone
from retrieval_core.embed.classes import CLASSES_FILE, CLASSIFIER_FILE
from retrieval_core.train.config import Training

if TYPE_CHECKING:
    from retrieval_core.train.objectives.base import Objective

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


def trained_backbone(start: LoadedBackbone, objective: Objective, config: Training) -> LoadedBackbone:
    """The embedder of a trained objective; texts no longer meet one whose network was trained on pictures alone."""
    has_text = start.card.has_text and config.trained_layers == "projection"
    card = start.card.model_copy(update={"has_text": has_text})
    return LoadedBackbone(card, start.preprocess, objective.embedder)


def save_trained(backbone: LoadedBackbone, objective: Objective, folder: Path) -> None:
    """Write what `save_backbone` does, and `classifier.safetensors` and `classes.json` where there is a classifier."""
    from safetensors.torch import save_file

    save_backbone(backbone, folder)
    layers = objective.layers()
    if layers:
        save_file({name: layer.detach().contiguous() for name, layer in layers.items()}, folder / CLASSIFIER_FILE)
        (folder / CLASSES_FILE).write_text(json.dumps(objective.classes(), ensure_ascii=False), encoding="utf-8")
