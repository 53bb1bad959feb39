"""What a comparison needs and in which order, what remains without some variants, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.compose import load_comparison
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.train.config import DistillTraining, TripletTraining


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


def test_variants_that_need_masks_are_left_out_and_named_if_there_are_none(path: Path) -> None:
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


def test_a_table_of_pairs_without_pairs_is_removed(path: Path) -> None:
    left = load_comparison(path, []).without({"boosted"}, "it may not be")
    assert [table.title for table in left.tables] == ["all"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "masked"', 'name = "plain"', "'plain' appears twice"),
        ("dim = 24", "dim = 769", "769 dimensions of vectors that have 768"),
        ('weights = "model:tripled"', 'weights = "model:tripled"\ndim = 129', "of vectors that have 128"),
        ("[models.tripled]", '[models."a/b"]', "cannot name a backbone"),
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
    ],
)  # fmt: skip
def test_a_comparison_that_cannot_run_is_refused_in_one_line(path, old, new, says, assert_refused) -> None:
    assert_refused(path, old, new, says)


def test_a_config_can_be_written_as_json_and_read(path: Path) -> None:
    config = load_comparison(path, [])
    assert ComparisonConfig.model_validate_json(config.model_dump_json()) == config
