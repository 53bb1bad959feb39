"""How a trained backbone is kept: as any backbone, with what was trained on top of it beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_core.embed.backbones import LoadedBackbone, save_backbone
from retrieval_core.embed.classes import CLASSES_FILE, CLASSIFIER_FILE
from retrieval_core.train.config import Training

if TYPE_CHECKING:
    from retrieval_core.train.objective import Objective


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
