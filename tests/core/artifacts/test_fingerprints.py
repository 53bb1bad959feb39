"""The same question has the same name, another question another."""

from pathlib import Path

import pytest

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.manifests import fingerprint
from retrieval_core.config.stages import CropConfig, EmbedConfig, HeadConfig, MaskConfig
from retrieval_core.embed.backbones import backbone_fingerprint
from retrieval_core.errors import WeightsInvalid

# Of the card resnet18, and of vectors of backbone "b" raw and under masks "masks", since the first release.
BACKBONE = "b6c6a7089f1c05c5995601f1c01c67d4"
RAW, MASKED = "b364212faa5199c923f9a5ab83ca6f8a", "acf5925636dddb4b6d79182eca55a61d"


def test_a_fingerprint_depends_on_all_of_the_question_and_its_order() -> None:
    names = {
        fingerprint("a", 1, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("b", 1, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("a", 2, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("a", 1, {"x": 1, "y": 3}, ["p", "q"]),
        fingerprint("a", 1, {"x": 1, "y": 2}, ["q", "p"]),
    }
    assert len(names) == 5
    assert fingerprint("a", 1, {"y": 2, "x": 1}, ["p", "q"]) in names


def test_how_work_is_cut_does_not_change_what_it_makes() -> None:
    assert fingerprints.segmenter_fingerprint(MaskConfig(shard_rows=7), "c") == fingerprints.segmenter_fingerprint(
        MaskConfig(), "c"
    )
    assert fingerprints.head_fingerprint(HeadConfig(refit_after_change=0.9), "c", "v") == fingerprints.head_fingerprint(
        HeadConfig(), "c", "v"
    )
    assert backbone_fingerprint(EmbedConfig(backbone="resnet18", batch_size=1)) == backbone_fingerprint(
        EmbedConfig(backbone="resnet18")
    )


def test_what_changes_the_output_changes_the_name() -> None:
    assert fingerprints.segmenter_fingerprint(MaskConfig(seed=1), "c") != fingerprints.segmenter_fingerprint(
        MaskConfig(), "c"
    )
    assert fingerprints.mask_family(MaskConfig(min_area=0.1), "s") != fingerprints.mask_family(MaskConfig(), "s")
    assert fingerprints.vector_family("b", None) != fingerprints.vector_family("b", "masks")
    assert backbone_fingerprint(EmbedConfig(backbone="resnet18", size_px=64)) != backbone_fingerprint(
        EmbedConfig(backbone="resnet18")
    )
    assert backbone_fingerprint(EmbedConfig(backbone="resnet18", framing="squash")) != backbone_fingerprint(
        EmbedConfig(backbone="resnet18")
    )


def test_the_default_bound_of_a_sample_keeps_the_names_of_models_from_before_there_was_one() -> None:
    assert "max_rows" not in fingerprints.head_question(HeadConfig())
    assert "max_pictures" not in fingerprints.segmenter_question(MaskConfig())
    assert fingerprints.head_question(HeadConfig(max_rows=50))["max_rows"] == 50
    assert fingerprints.segmenter_question(MaskConfig(max_pictures=50))["max_pictures"] == 50


def test_a_view_of_its_own_has_a_family_of_its_own() -> None:
    crops = [fingerprints.vector_family("b", "masks", "crop", margin) for margin in (0.1, 0.2)]
    assert len({*crops, fingerprints.vector_family("b", "masks"), fingerprints.vector_family("b", None)}) == 4
    assert fingerprints.vector_family("b", "masks", "masked", 0.3) == fingerprints.vector_family("b", "masks")
    assert fingerprints.vector_family("b", None, "raw", 0.3) == fingerprints.vector_family("b", None)


def test_precision_makes_another_family_of_every_view():
    families = [
        fingerprints.vector_family("b", masks, view, 0.1, precision)
        for masks, view in ((None, "raw"), ("m", "masked"), ("m", "crop"))
        for precision in ("float32", "bfloat16", "int8")
    ]
    assert len(set(families)) == 9
    assert families[::3] == [
        fingerprints.vector_family("b", None),
        fingerprints.vector_family("b", "m"),
        fingerprints.vector_family("b", "m", "crop", 0.1),
    ]


def test_names_of_what_stores_hold_already_stay() -> None:
    assert backbone_fingerprint(EmbedConfig(backbone="resnet18")) == BACKBONE
    assert fingerprints.vector_family("b", None) == RAW
    assert fingerprints.vector_family("b", "masks", "masked") == MASKED


def test_boxes_are_named_by_their_detector_and_what_it_has_to_be_sure_of() -> None:
    config = CropConfig(detector="ssdlite320", weights="random:0")
    detector, boxes = fingerprints.detector_fingerprint(config), fingerprints.detections_family(config, "d")
    for change in ({"margin": 0.5}, {"shard_rows": 3}):
        other = config.model_copy(update=change)
        assert (fingerprints.detector_fingerprint(other), fingerprints.detections_family(other, "d")) == (
            detector,
            boxes,
        )
    for change in ({"detector": "fasterrcnn320"}, {"weights": "random:1"}):
        assert fingerprints.detector_fingerprint(config.model_copy(update=change)) != detector
    assert fingerprints.detections_family(config.model_copy(update={"min_score": 0.5}), "d") != boxes
    assert len({fingerprints.detections_family(config, "e"), boxes, fingerprints.mask_family(MaskConfig(), "d")}) == 3


def test_classes_are_named_by_the_backbone_under_their_classifier() -> None:
    classifiers = {fingerprints.classifier_fingerprint(name) for name in "ab"}
    assert len(classifiers | {fingerprints.class_family(name) for name in classifiers} | {"a", "b"}) == 6


def test_weights_from_a_file_are_named_by_its_content(tmp_path: Path) -> None:
    for name, data in (("a.bin", b"one"), ("b.bin", b"one"), ("c.bin", b"two")):
        (tmp_path / name).write_bytes(data)
    names = [
        backbone_fingerprint(EmbedConfig(backbone="resnet18", weights=f"file:{tmp_path / name}.bin")) for name in "abc"
    ]
    assert names[0] == names[1] != names[2]
    with pytest.raises(WeightsInvalid, match="absent"):
        backbone_fingerprint(EmbedConfig(backbone="resnet18", weights=f"file:{tmp_path / 'absent'}"))
