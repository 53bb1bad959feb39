"""A comparison is read from TOML, filled in from its defaults, and refused before anything runs where it is wrong."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from retrieval_core.embed.registry import CARDS
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.compose import load_comparison
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.train.config import DistillTraining, TripletTraining

CONFIGS = sorted((Path(__file__).parents[4] / "configs" / "compare").glob("*.toml"))

TOML = """
title = "t"
[defaults]
weights = "random:0"
size_px = 96
[training]
max_epochs = 3
[models.tagger]
objective = "multilabel"
background = "masked"
[models.tripled]
objective = "triplet"
weights = "model:tagger"
max_epochs = 2
[models.student]
objective = "distill"
backbone = "mobilenetv3"
teacher_variant = "vit 24"
[[variants]]
name = "plain"
[[variants]]
name = "masked"
background = "masked"
[[variants]]
name = "boosted"
like = "plain"
boosted = true
[[variants]]
name = "vit"
backbone = "vit_b16"
[[variants]]
name = "vit 24"
like = "vit"
dim = 24
[[variants]]
name = "tripled"
weights = "model:tripled"
[[variants]]
name = "student"
weights = "model:student"
[[variants]]
name = "classified"
like = "vit"
mode = "classified"
classifier = "efficientnet_b0"
[[tables]]
title = "all"
metrics = ["label_iou@5", "map@10"]
[[tables]]
title = "boosting"
kind = "pairs"
contrast = "boosted"
metrics = ["map@10"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "compare.toml"
    file.write_text(TOML)
    return file


def test_a_variant_takes_defaults_and_what_it_is_like(path: Path) -> None:
    config = load_comparison(path, [])
    assert (config.variant("plain").weights, config.variant("plain").size_px) == ("random:0", 96)
    boosted = config.variant("boosted")
    assert (boosted.boosted, boosted.size_px, boosted.dim) == (True, 96, 0)
    assert (config.variant("vit 24").backbone, config.variant("vit 24").dim) == ("vit_b16", 24)


def test_a_size_for_all_is_not_for_networks_of_one_size_nor_for_trained_ones(path: Path) -> None:
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


def test_what_a_variant_is_like_follows_an_override(path: Path) -> None:
    config = load_comparison(path, ["variants.vit.backbone=resnet34"])
    assert config.variant("vit 24").backbone == "resnet34"
    assert config.variant("vit 24").size_px == 96


def test_models_are_trained_after_what_they_start_from_and_learn_from(path: Path) -> None:
    config = load_comparison(path, ["variants.vit.weights=model:tripled", "variants.vit.backbone=resnet18"])
    order = config.training_order()
    assert order.index("tagger") < order.index("tripled") < order.index("student")
    assert isinstance(config.models["tripled"], TripletTraining)
    assert isinstance(config.models["student"], DistillTraining)
    assert config.teachers == {"student": "vit 24"}


def test_pairs_are_equal_but_for_the_contrast(path: Path) -> None:
    config = load_comparison(path, [])
    assert [(plain.name, other.name) for plain, other in config.pairs(config.tables[1])] == [("plain", "boosted")]
    by_mode = load_comparison(path, []).tables[1].model_copy(update={"contrast": "mode"})
    assert [(plain.name, other.name) for plain, other in config.pairs(by_mode)] == [("vit", "classified")]


def test_without_masks_what_needs_them_is_left_out_and_said(path: Path) -> None:
    config = load_comparison(path, [])
    assert config.variants_needing_masks() == {"masked", "tripled"}, "tripled starts from a model of masked pictures"
    left = config.without(config.variants_needing_masks(), "there are no masks")
    assert [variant.name for variant in left.variants] == [
        "plain", "boosted", "vit", "vit 24", "student", "classified",
    ]  # fmt: skip
    assert set(left.models) == {"student"}
    assert left.teachers == {"student": "vit 24"}
    assert "there are no masks: masked, tripled" in left.about
    with pytest.raises(BadConfig, match="no variant is left"):
        config.without({variant.name for variant in config.variants}, "of a whim")


def test_a_table_of_pairs_without_pairs_goes_with_them(path: Path) -> None:
    left = load_comparison(path, []).without({"boosted"}, "it may not be")
    assert [table.title for table in left.tables] == ["all"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('title = "t"', 'title = "t"\ncolour = 1', "unknown config key colour"),
        ("size_px = 96", "size = 96", "unknown config key defaults.size"),
        ("max_epochs = 3", "margin = 3", "unknown config key training.margin"),
        ("max_epochs = 2", "margn = 2", r"unknown config key models\.tripled\.margn"),
        ("max_epochs = 2", "max_epochs = 0", r"models\.tripled\.max_epochs"),
        ("boosted = true", "boostd = true", r"unknown config key variants\.boosted\.boostd"),
        ('name = "masked"', 'name = "plain"', "'plain' appears twice"),
        ('name = "vit"', 'backbone = "vit_b16"\n[[variants]]\nname = "vit"', "name"),
        ('like = "vit"\ndim = 24', 'like = "vip"\ndim = 24', "but there are plain"),
        ('like = "vit"\ndim = 24', 'like = "vit 24"\ndim = 24', "like itself"),
        ('backbone = "vit_b16"', 'backbone = "vit_b17"', "unknown backbone 'vit_b17'"),
        ("dim = 24", "dim = 769", "769 dimensions of vectors that have 768"),
        ('weights = "model:tripled"', 'weights = "model:tripled"\ndim = 129', "of vectors that have 128"),
        ("[models.tripled]", '[models."a/b"]', "no name for a backbone"),
        ("max_epochs = 2", 'size_px = 64', "come with their size"),
        ('weights = "model:tripled"', 'weights = "model:quadrupled"', "names model 'quadrupled'"),
        ('weights = "model:tripled"', 'weights = "model:tagger"', "no variant uses model tripled"),
        ('weights = "model:tripled"', 'weights = "model:tripled"\nbackbone = "resnet50"', "which is a resnet18"),
        ('weights = "model:tagger"', 'weights = "model:tagger"\nbackbone = "resnet50"', "a resnet18"),
        ('background = "masked"\n[models', 'weights = "model:tripled"\n[models', "models depend on each other"),
        ('teacher_variant = "vit 24"', 'teacher_variant = "vit 25"', "no variant 'vit 25'"),
        ('teacher_variant = "vit 24"', 'teacher_variant = "student"', "models depend on each other"),
        ('teacher_variant = "vit 24"', "", "teacher_variant or teacher"),
        ('teacher_variant = "vit 24"', 'teacher_variant = "vit 24"\nteacher = "abc"', "teacher_variant or teacher"),
        ("max_epochs = 2", 'teacher_variant = "vit 24"', "only objective distill"),
        ('objective = "multilabel"', 'objective = "multitag"', "expected one of multilabel"),
        ('objective = "multilabel"', "", "expected one of multilabel"),
        ('classifier = "efficientnet_b0"', "", "names no classifier"),
        ('name = "masked"', 'name = "masked"\nclassifier = "efficientnet_b0"', "give both or neither"),
        (
            'classifier = "efficientnet_b0"',
            'classifier = "resnet18"\nclassifier_weights = "model:tagger"',
            "not to classify",
        ),
        ('title = "all"', 'title = "all"\nvariants = ["nobody"]', "no variant 'nobody'"),
        ('title = "all"', 'title = "all"\nvariants = ["vit"]\nbaseline = "plain"', "not one of its variants"),
        ('title = "all"', 'title = "boosting"', "'boosting' appears twice"),
        ('"label_iou@5", "map@10"', '"label_iou@6"', "unknown metric 'label_iou@6'"),
        ('"label_iou@5", "map@10"', "", "metrics"),
        ('contrast = "boosted"', 'contrast = "dim"\nvariants = ["plain", "masked"]', "differ only in dim"),
        ('contrast = "boosted"', "", "needs a contrast"),
        ('title = "all"', 'title = "all"\ncontrast = "dim"', "only tables of kind pairs"),
        ('title = "t"', 'title = "t"\n[reduce]\ndims = [3]', "reduce.dims is set by the variants"),
        ("[defaults]", "[[defaults]]", "expected .defaults."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(path: Path, old: str, new: str, says: str) -> None:
    assert old in TOML
    path.write_text(TOML.replace(old, new, 1))
    with pytest.raises(BadConfig, match=says) as raised:
        load_comparison(path, [])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("override", ["models.nobody.seed=1", "variants.nobody.dim=1", "title=x", "defaults.name=x"])
def test_an_override_of_nothing_is_refused(path: Path, override: str) -> None:
    with pytest.raises(BadConfig):
        load_comparison(path, [override])


def test_a_config_survives_the_way_through_json(path: Path) -> None:
    config = load_comparison(path, [])
    assert ComparisonConfig.model_validate_json(config.model_dump_json()) == config


def offline(path: Path) -> list[str]:
    """The overrides that a shipped config's first lines give for a machine without GPU and internet."""
    comment = "".join(line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#"))
    words = shlex.split(comment[comment.index("--set") :])
    return [word for word in words if word != "--set"]


def test_each_prior_report_has_its_config() -> None:
    assert [path.stem for path in CONFIGS] == [
        "apparel_similarity", "boosted_representation", "general_similarity", "retrieval_report", "unicom_analysis",
    ]  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_can_be_read_as_it_is_and_as_it_says_for_a_machine_offline(path: Path) -> None:
    load_comparison(path, [])
    config = load_comparison(path, offline(path))
    assert config.crop.detector == "masks" or "crop" not in config.views()
    for variant in config.variants:
        assert variant.weights != "pretrained"
        assert not variant.classifier or variant.classifier_weights != "pretrained"
    assert all(model.weights != "pretrained" for model in config.models.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_variant_of_a_shipped_config_is_in_a_table(path: Path) -> None:
    config = load_comparison(path, [])
    shown = {variant.name for table in config.tables for variant in config.rows(table)}
    assert shown == {variant.name for variant in config.variants}
