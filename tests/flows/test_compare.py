"""A comparison on a drawn catalogue: everything is computed once, and variants that cannot be built are left out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from deployments.cli.main import main
from flows.compare import ComparisonSummary, compare
from flows.nightly import nightly
from retrieval_core.artifacts.backbone_names import find_backbone
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.evaluate.compare.check import check_comparison
from retrieval_core.evaluate.compare.compose import load_comparison
from retrieval_core.settings import Settings

PRODUCTS, VIEWS = 12, 4
ROWS = PRODUCTS * VIEWS

TOML = """
title = "Everything at once"
about = "Small and untrained."
[defaults]
weights = "random:0"
size_px = 64
[evaluate]
queries = 12
[mask]
encoder = "resnet18"
weights = "random:0"
size_px = 64
max_epochs = 1
[head]
max_epochs = 3
min_count = 2
[classify]
size_px = 64
[training]
max_epochs = 1
batch_size = 16
[models.tagger]
objective = "multilabel"
min_count = 2
background = "masked"
[models.student]
objective = "distill"
weights = "model:tagger"
teacher_variant = "reduced"
[[variants]]
name = "plain"
[[variants]]
name = "masked"
background = "masked"
[[variants]]
name = "cropped"
background = "crop"
[[variants]]
name = "boosted"
like = "plain"
boosted = true
[[variants]]
name = "reduced"
dim = 16
[[variants]]
name = "smaller"
dim = 4
[[variants]]
name = "student"
weights = "model:student"
[[variants]]
name = "classified"
like = "plain"
mode = "classified"
classifier = "resnet18"
classifier_weights = "random:1"
[[tables]]
title = "By variant"
metrics = ["recall@1", "label_iou@5", "f1_example"]
baseline = "plain"
[[tables]]
title = "Boosting"
kind = "pairs"
contrast = "boosted"
metrics = ["attribute_map@10"]
"""

PIXELS = """
title = "Pixels"
about = "Hardly a thing."
[defaults]
backbone = "pca_pixels"
weights = "fit:0"
size_px = 16
[mask]
max_epochs = 1
[models.tagger]
objective = "multilabel"
backbone = "resnet18"
weights = "random:0"
[[variants]]
name = "pixels"
[[variants]]
name = "masked"
background = "masked"
[[variants]]
name = "boosted"
boosted = true
[[variants]]
name = "tagged"
weights = "model:tagger"
[[tables]]
title = "All"
metrics = ["recall@1", "label_iou@5"]
[[tables]]
title = "Some"
metrics = ["map@10"]
variants = ["boosted", "tagged"]
baseline = "boosted"
"""

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """A drawn catalogue and its store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = f"synthetic:{folder / 'catalog'}?products={PRODUCTS}&views={VIEWS}&size_px=96"
        self.settings = Settings.load(store=str(folder / "store"), cache_dir=folder / "cache", threads=2)
        self.store = self.settings.open_store()
        self.toml = folder / "compare.toml"
        self.toml.write_text(TOML)

    def compare(self, *overrides: str) -> ComparisonSummary:
        return compare(self.source, self.settings, load_comparison(self.toml, list(overrides)))


@pytest.fixture(scope="module")
def first(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, ComparisonSummary]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    return shop, shop.compare()


def test_every_variant_is_built_and_measured(first: tuple[Shop, ComparisonSummary]) -> None:
    _, run = first
    assert set(run.trained) == {"segmenter", "tagger", "student"}
    assert run.embedded == ROWS * 4, "plain, masked, cropped and student; the others share the plain vectors"
    assert list(run.metrics) == [
        "plain", "masked", "cropped", "boosted", "reduced", "smaller", "student", "classified",
    ]  # fmt: skip
    assert all({"recall@1", "label_iou@5", "map@5"} <= set(found) for found in run.metrics.values())
    assert "left out" not in run.about.lower()
    queries = pl.read_parquet(run.queries)
    assert queries["variant"].unique().sort().to_list() == sorted(run.metrics)
    assert queries.group_by("variant").agg(pl.col("item_id").sort())["item_id"].n_unique() == 1, "the same queries"
    assert "<html" in Path(run.report).read_text()
    assert [table.splitlines()[0] for table in run.tables] == ["### By variant", "### Boosting"]


def test_models_are_stored_by_name_with_their_parents(first: tuple[Shop, ComparisonSummary]) -> None:
    shop, run = first
    student = find_backbone(shop.store, "student@production")
    assert student.fingerprint == run.models["student"]
    assert student.parents["start"] == run.models["tagger"]
    assert (student.dim, student.objective, student.card) == (16, "distill", "resnet18"), "as wide as its teacher"
    assert "masks" in find_backbone(shop.store, "tagger").parents


def test_the_same_comparison_again_computes_nothing(first: tuple[Shop, ComparisonSummary]) -> None:
    shop, before = first
    again = shop.compare()
    assert (again.comparison, again.trained, again.embedded) == (before.comparison, [], 0)
    assert again.metrics == before.metrics


def test_another_dimension_embeds_nothing(first: tuple[Shop, ComparisonSummary]) -> None:
    shop, before = first
    other = shop.compare("variants.smaller.dim=8")
    assert (other.embedded, other.trained) == (0, [])
    assert other.comparison != before.comparison
    assert other.metrics["plain"] == before.metrics["plain"]


def test_a_run_and_a_comparison_share_their_vectors(first: tuple[Shop, ComparisonSummary]) -> None:
    shop, _ = first
    settings = [
        "embed.backbone=resnet18",
        "embed.weights=random:0",
        "embed.size_px=64",
        "embed.background=both",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
    ]
    config = NightlyConfig.load(None, [*settings, "mask.max_epochs=1", "head.max_epochs=1", "gate.mode=off"])
    night = nightly(shop.source, shop.settings, config)
    assert (night.embedded, night.masked) == (0, 0)
    assert "segmenter" not in night.trained


SEEDS = """
title = "Trained twice"
[defaults]
backbone = "pca_pixels"
weights = "fit:0"
size_px = 16
[head]
max_epochs = 2
min_count = 2
[protocol]
split = "random"
max_items = 40
test_share = 0.3
gallery = "test"
seeds = 2
[[variants]]
name = "pixels"
[[variants]]
name = "boosted"
boosted = true
[[variants]]
name = "reranked"
dim = 4
rerank_depth = 10
[[tables]]
title = "All"
metrics = ["share_map@10", "map_at_r"]
variants = ["pixels", "boosted", "reranked"]
baseline = "pixels"
"""


def test_a_drawn_split_is_compared_with_several_seeds(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.toml.write_text(SEEDS)
    run = shop.compare()
    facts = json.loads((Path(run.report).parent / "facts.json").read_text())
    assert (facts["n_items"], facts["n_gallery"]) == (40, facts["n_queries"])
    pixels, boosted, reranked = (row["cells"][0]["seed_deviation"] for row in facts["tables"][0]["rows"])
    assert (pixels, reranked) == (None, None), "what is not trained has no seed"
    assert boosted >= 0
    assert "(0.0" in run.tables[0]
    assert set(run.metrics["pixels"]) - set(run.metrics["reranked"]) == {"map_at_r", "r_precision"}
    costs = {row["variant"]: row["n_bytes_per_item"] for row in facts["tables"][0]["rows"]}
    assert costs["reranked"] == costs["pixels"] + 4 * 4
    assert shop.compare().comparison == run.comparison


@pytest.fixture
def photos(first: tuple[Shop, ComparisonSummary], tmp_path: Path) -> Shop:
    """Twelve pictures without labels or masks, and a comparison that needs both."""
    shop = Shop(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in sorted((first[0].folder / "catalog" / "images").iterdir())[:12]:
        shutil.copy(path, tmp_path / "photos")
    shop.source = f"folder:{tmp_path / 'photos'}"
    shop.toml.write_text(PIXELS)
    return shop


def test_variants_without_training_labels_or_masks_are_left_out_and_named(photos: Shop) -> None:
    run = photos.compare()
    assert list(run.metrics) == ["pixels"]
    assert run.models == {}
    assert "the source has no masks and the store no segmenter: masked." in run.about
    assert "for a head to learn from: boosted." in run.about
    assert re.search("none of the .* pictures to train on has a label.*: tagged", run.about)
    assert run.about in Path(run.report).read_text().replace("&#39;", "'")
    assert "undefined" in run.tables[0], "nothing judges the answers"


def test_without_a_variant_left_nothing_is_computed(photos: Shop) -> None:
    photos.toml.write_text(PIXELS.replace('[[variants]]\nname = "pixels"\n', "", 1))
    with pytest.raises(BadConfig, match="no variant is left"):
        photos.compare("evaluate.queries=3")
    assert not list(photos.store.list("comparisons/"))


def test_unavailable_weights_are_refused_before_anything_is_read(photos: Shop) -> None:
    config = load_comparison(photos.toml, ["models.tagger.weights=file:absent.safetensors"])
    with pytest.raises(WeightsInvalid, match="absent"):
        check_comparison(photos.store, config)
    config = load_comparison(photos.toml, ["variants.pixels.weights=artifact:nobody"])
    with pytest.raises(BadConfig, match="nobody"):
        check_comparison(photos.store, config)


def test_the_command_prints_its_document_or_its_tables(photos: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", f"--source={photos.source}", f"--store={photos.settings.store}", f"--config={photos.toml}"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"comparison", "models", "trained", "metrics", "tables", "report", "queries", "seconds"} <= set(document)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## Pixels")
    assert document["tables"][0] in printed
    assert main([*command, "--set=variants.pixels.dim=999"]) == 2
    assert "999 dimensions" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(command[:-1])
    assert "--config" in capsys.readouterr().err
