"""A night without a label is measured all the same: by golden queries and by pictures changed on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flows.evaluate import evaluate
from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import read_table
from retrieval_core.artifacts.releases import get_release
from retrieval_core.config.stages import EvaluateConfig, NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings

N = 12
CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.background=raw",
        "reduce.dims=[4]",
        "evaluate.queries=4",
        "evaluate.synthetic_queries=5",
    ],
)

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """A folder of pictures that says nothing of them, and a file of golden queries."""

    def __init__(self, folder: Path) -> None:
        self.pictures, self.golden = folder / "pictures", folder / "golden.csv"
        self.settings = Settings.load(store=str(folder / "store"), threads=1, device="cpu")
        self.store = self.settings.open_store()
        self.pictures.mkdir()
        for number in range(N):
            coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(self.pictures / f"{number}.png")

    def keep(self, *rows: str) -> None:
        self.golden.write_text("\n".join(["query,expected", *rows]) + "\n")

    def night(self) -> RunSummary:
        evaluated = CONFIG.evaluate.model_copy(update={"golden": str(self.golden)})
        return nightly(f"folder:{self.pictures}", self.settings, CONFIG.model_copy(update={"evaluate": evaluated}))

    def report(self, run: RunSummary) -> Report:
        return Report.open(self.store, get_release(self.store, run.release).report)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_golden_and_synthetic_queries_are_asked_of_the_chain_and_compared_night_by_night(shop: Shop) -> None:
    shop.keep("pictures/3.png,3.png", "pictures/4.png,4.png", "pictures/gone.png,4.png")
    first = shop.night()
    assert first.metrics["golden/hit@1"] == first.metrics["golden/mrr"] == 1.0
    assert 0 <= first.metrics["synthetic/recall@1"] <= 1
    assert first.metrics["synthetic/flip/recall@1"] < 1, "pixels know nothing of mirrors"
    assert "synthetic/background/recall@1" not in first.metrics, "there are no masks"
    rows = read_table(shop.store, shop.report(first).part("queries.parquet"))
    assert rows["item_id"].n_unique() == len(rows)
    golden = rows.filter(pl.col("golden/hit@1").is_not_null())
    synthetic = rows.filter(pl.col("synthetic/recall@1").is_not_null())
    assert (len(golden), len(synthetic)) == (2, 5)
    assert "gone.png" in shop.store.get(shop.report(first).part("metrics.json").key).decode()

    assert shop.night().release == first.release, "the same question has the same answer"
    shop.keep("pictures/3.png,3.png", "pictures/4.png,5.png")
    second = shop.night()
    assert shop.report(second).fingerprint != shop.report(first).fingerprint, "the file says something else now"
    assert second.metrics["golden/hit@1"] == 0.5
    assert second.metrics["synthetic/recall@1"] == first.metrics["synthetic/recall@1"]

    shop.golden.unlink()
    done = evaluate(shop.settings, config=EvaluateConfig(queries=4, synthetic_queries=2), against="none")
    assert "golden/hit@1" not in done.metrics
    assert "synthetic/recall@1" in done.metrics


def test_a_file_that_is_not_there_stops_the_night_before_anything_is_read_or_made(shop: Shop) -> None:
    with pytest.raises(BadConfig, match=r"evaluate\.golden .*cannot be read"):
        shop.night()
    assert list(shop.store.list("")) == []
