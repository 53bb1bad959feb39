"""A comparison is read from TOML and filled in from its defaults, and a mistake in the file is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval_core.embed.registry import CARDS
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.compose import load_comparison

CONFIGS = sorted((Path(__file__).parents[4] / "configs" / "compare").glob("*.toml"))
LITE = [path.parent / "lite" / path.name for path in CONFIGS]


def test_a_variant_takes_the_defaults_and_the_keys_of_the_variant_it_is_like(path: Path) -> None:
    config = load_comparison(path, [])
    assert (config.variant("plain").weights, config.variant("plain").size_px) == ("random:0", 96)
    boosted = config.variant("boosted")
    assert (boosted.boosted, boosted.size_px, boosted.dim) == (True, 96, 0)
    assert (config.variant("vit 24").backbone, config.variant("vit 24").dim) == ("vit_b16", 24)


def test_a_shared_size_does_not_apply_to_networks_of_one_size_or_trained_ones(path: Path) -> None:
    config = load_comparison(path, [])
    assert not CARDS["vit_b16"].resizable
    assert config.variant("vit").size_px == 0
    assert config.variant("student").size_px == 0
    assert config.models["tagger"].size_px == 96
    assert config.models["tripled"].size_px == 0


def test_a_trained_variant_has_the_backbone_of_its_model(path: Path) -> None:
    config = load_comparison(path, ["models.tagger.backbone=resnet34"])
    assert config.models["tripled"].backbone == "resnet34"
    assert config.variant("tripled").backbone == "resnet34"
    assert config.variant("student").backbone == "mobilenetv3"


def test_overrides_reach_defaults_and_one_variant_or_model_by_its_name(path: Path) -> None:
    overrides = ["defaults.weights=random:7", "models.tripled.max_epochs=1", "variants.vit 24.dim=16"]
    config = load_comparison(path, [*overrides, "evaluate.queries=9", "training.batch_size=4"])
    assert config.variant("plain").weights == "random:7"
    assert config.models["student"].weights == "random:7"
    assert {name: model.max_epochs for name, model in config.models.items()} == {
        "tagger": 3,
        "tripled": 1,
        "student": 3,
    }
    assert {model.batch_size for model in config.models.values()} == {4}
    assert (config.variant("vit 24").dim, config.evaluate.queries) == (16, 9)


def test_an_override_also_reaches_variants_that_are_like_the_overridden_one(path: Path) -> None:
    config = load_comparison(path, ["variants.vit.backbone=resnet34"])
    assert config.variant("vit 24").backbone == "resnet34"
    assert config.variant("vit 24").size_px == 96


@pytest.mark.parametrize("override", ["models.nobody.seed=1", "variants.nobody.dim=1", "title=x", "defaults.name=x"])
def test_an_override_of_an_unknown_key_or_name_is_refused(path: Path, override: str) -> None:
    with pytest.raises(BadConfig):
        load_comparison(path, [override])


def test_each_prior_report_has_its_config() -> None:
    assert [path.stem for path in CONFIGS] == [
        "apparel_similarity", "boosted_representation", "general_similarity", "retrieval_report", "unicom_analysis",
    ]  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_has_one_of_the_same_protocol_for_a_machine_without_a_hub(path: Path) -> None:
    config, lite = load_comparison(path, []), load_comparison(path.parent / "lite" / path.name, [])
    assert (lite.title, lite.protocol, lite.evaluate) == (config.title, config.protocol, config.evaluate)
    assert lite.crop.detector == "masks" or "crop" not in lite.views()
    for network in (*lite.variants, *lite.models.values()):
        assert network.weights != "pretrained" or network.backbone.startswith("efficientnet_lite")
    assert all(not variant.classifier or "lite" in variant.classifier for variant in lite.variants)


def test_a_file_has_the_tables_of_the_one_that_it_extends_but_its_own_in_their_place(path: Path) -> None:
    other = path.parent / "other.toml"
    other.write_text(f'extends = "{path.name}"\ntitle = "Other"\n[evaluate]\nqueries = 7\n')
    config, extended = load_comparison(path, []), load_comparison(other, [])
    assert (extended.title, extended.evaluate.queries) == ("Other", 7)
    assert (extended.variants, extended.models) == (config.variants, config.models)


@pytest.mark.parametrize("path", [*CONFIGS, *LITE], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_variant_of_a_shipped_config_is_in_a_table(path: Path) -> None:
    config = load_comparison(path, [])
    shown = {variant.name for table in config.tables for variant in config.rows(table)}
    assert shown == {variant.name for variant in config.variants}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('title = "t"', 'title = "t"\ncolour = 1', "unknown config key colour"),
        ("size_px = 96", "size = 96", "unknown config key defaults.size"),
        ("max_epochs = 3", "margin = 3", "unknown config key training.margin"),
        ("max_epochs = 2", "margn = 2", r"unknown config key models\.tripled\.margn"),
        ("max_epochs = 2", "max_epochs = 0", r"models\.tripled\.max_epochs"),
        ("boosted = true", "boostd = true", r"unknown config key variants\.boosted\.boostd"),
        ('name = "vit"', 'backbone = "vit_b16"\n[[variants]]\nname = "vit"', "name"),
        ('like = "vit"\ndim = 24', 'like = "vip"\ndim = 24', "but there are plain"),
        ('like = "vit"\ndim = 24', 'like = "vit 24"\ndim = 24', "like itself"),
        ('backbone = "vit_b16"', 'backbone = "vit_b17"', "unknown backbone 'vit_b17'"),
        ('objective = "multilabel"', 'objective = "multitag"', "expected one of multilabel"),
        ('objective = "multilabel"', "", "expected one of multilabel"),
        ('title = "t"', 'title = "t"\n[reduce]\ndims = [3]', "reduce.dims is set by the variants"),
        ("[defaults]", "[[defaults]]", "expected .defaults."),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_clear_line(path, old, new, says, assert_refused) -> None:
    assert_refused(path, old, new, says)
