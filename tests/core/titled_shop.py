"""Pictures of three colours with their titles, a store, and a small CLIP with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrieval_core.config.stages import IngestConfig
from retrieval_core.settings import Settings
from retrieval_core.train.config import CaptionsTraining
from tests.core.open_clip_folder import write_model

TITLES = {"a red dress": (220, 40, 40), "blue jeans": (40, 60, 220), "a green cap": (40, 200, 60)}
N_EACH = 16
FEW_HELD_OUT = IngestConfig(n_holdout=8)


class TitledShop:
    """`N_EACH` pictures of each title; `config()` trains on them within seconds."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load(store=str(folder / "store"), cache_dir=folder / "cache", threads=1, device="cpu")
        self.store, self.backbone = self.settings.open_store(), f"local-dir:{write_model(folder / 'clip')}"
        self.pictures = {title: [self._draw(folder, title, number) for number in range(N_EACH)] for title in TITLES}
        lines = [f"{path.stem},{path.name},{title}" for title, paths in self.pictures.items() for path in paths]
        (folder / "items.csv").write_text("\n".join(["item_id,image_uri,title", *lines]))
        self.source = f"table:{folder / 'items.csv'}"

    def config(self, **changed: Any) -> CaptionsTraining:
        quick = {"max_epochs": 20, "batch_size": 8, "learning_rate": 0.01, "network_rate": 0.3, "val_fraction": 0.3}
        return CaptionsTraining(backbone=self.backbone, **{**quick, **changed})

    def _draw(self, folder: Path, title: str, number: int) -> Path:
        rng = np.random.default_rng((len(title), number))
        pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
        top, left = rng.integers(4, 14, 2)
        pixels[top : top + 28, left : left + 28] = TITLES[title]
        path = folder / f"{title.replace(' ', '-')}-{number}.png"
        Image.fromarray(pixels).save(path)
        return path
