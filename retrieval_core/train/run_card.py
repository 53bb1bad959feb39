"""The files of a trained backbone, among them its run card: data, config, durations, scores, code and machine."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_core.artifacts.manifests import Value
from retrieval_core.embed.backbones import LoadedBackbone, save_backbone
from retrieval_core.embed.classes import CLASSES_FILE, CLASSIFIER_FILE
from retrieval_core.train.config import CaptionsTraining, Training

if TYPE_CHECKING:
    from retrieval_core.train.objectives.base import Objective

RUN_CARD_FILE = "run_card.json"

_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "lightning", "pytorch-metric-learning", "numpy")


class RunCard(Value):
    """The record of a training.

    `parents` are the fingerprints of catalogue, start, masks and teacher; `counts` count pictures.
    """

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
    """Write `run_card.json` to `folder`."""
    (folder / RUN_CARD_FILE).write_text(card.model_dump_json(indent=1), encoding="utf-8")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that trained weights depend on."""
    return {name: version(name) for name in _LIBRARIES}


def code_revision() -> str:
    """Return the commit of this checkout, with `-dirty` after local changes; outside git the package's version."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if (root / ".git").exists():
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # git is not installed, has no commit yet, or does not trust the folder
    return f"vitrine {version('vitrine')}"


def device_name(device: str, threads: int) -> str:
    """Return the name of the GPU, or on the CPU the number of threads."""
    if device == "cpu":
        return f"cpu, {threads} threads"
    import torch

    return torch.cuda.get_device_name()


def trained_backbone(start: LoadedBackbone, objective: Objective, config: Training) -> LoadedBackbone:
    """Return the embedder of a trained objective as a backbone.

    It can embed texts if it was trained towards them, or if `start` can and nothing under its vectors was trained:
    training on pictures alone moves them away from texts.
    """
    is_start = config.trained_layers == "projection" and objective.embedder.projection is None
    has_text = start.has_text and (is_start or isinstance(config, CaptionsTraining))
    tokenizer = start.tokenizer if has_text else ()
    return LoadedBackbone(start.card, start.preprocess, objective.embedder, has_text, tokenizer=tokenizer)


def save_trained(backbone: LoadedBackbone, objective: Objective, folder: Path) -> None:
    """Write the files of `save_backbone`, and `classifier.safetensors` and `classes.json` of a classifier."""
    from safetensors.torch import save_file

    save_backbone(backbone, folder)
    layers = objective.layers()
    if layers:
        save_file({name: layer.detach().contiguous() for name, layer in layers.items()}, folder / CLASSIFIER_FILE)
        (folder / CLASSES_FILE).write_text(json.dumps(objective.classes(), ensure_ascii=False), encoding="utf-8")
