"""A small open_clip model's folder, for `local-dir:` names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

MODEL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CUT = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


def write_model(folder: Path, model: dict[str, Any] | None = None, **cut: Any) -> Path:
    """An open_clip model's folder with random weights, as `push_to_hf_hub` writes one."""
    model = model or MODEL
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model, "preprocess_cfg": {**CUT, **cut}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(5)
    build = open_clip.CustomTextCLIP if model.get("custom_text") else open_clip.CLIP
    network = build(**{key: value for key, value in model.items() if key != "custom_text"})
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder
