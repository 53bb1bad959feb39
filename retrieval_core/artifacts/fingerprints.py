"""The fingerprints of what each stage makes, by everything that its content depends on.

Config that changes no content, such as shard sizes and the policies of refitting, is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_core.artifacts.manifests import Ref, Release, fingerprint
from retrieval_core.config.stages import (
    CropConfig,
    HeadConfig,
    IndexConfig,
    MaskConfig,
    Precision,
    ReduceConfig,
    StageConfig,
    View,
)
from retrieval_core.errors import WeightsInvalid
from retrieval_core.store.files import file_sha256

# Raise the version of a stage when its output changes for the same input and config.
STAGE_VERSIONS = {
    "ingest": 1,
    "mask": 1,
    "embed": 1,
    "head": 4,
    "reduce": 1,
    "index": 2,
    "train": 2,
    "evaluate": 15,
    "compare": 3,
    "publish": 1,
    "judge": 1,
}

_POLICY = {"shard_rows", "refit_after_change", "enabled"}
_DISTRUST = {"min_area", "max_area", "min_largest_part"}
_ADDED = ("max_pictures", "max_rows", "method")


def _question(config: StageConfig, excluded: set[str]) -> dict[str, Any]:
    """Return a config as JSON; later keys are left out at their default, so that earlier models keep their names."""
    fields = type(config).model_fields
    at_default = {name for name in _ADDED if name in fields and getattr(config, name) == fields[name].default}
    return config.model_dump(mode="json", exclude=excluded | at_default)


def segmenter_question(config: MaskConfig) -> dict[str, Any]:
    """Return the part of the mask config that the trained U-Net depends on."""
    return _question(config, _POLICY | _DISTRUST)


def segmenter_fingerprint(config: MaskConfig, catalog: str) -> str:
    """Return the fingerprint of the U-Net trained on the masks of a catalogue."""
    return fingerprint("segmenter", STAGE_VERSIONS["mask"], segmenter_question(config), [catalog])


def mask_family(config: MaskConfig, segmenter: str) -> str:
    """Return the family of the masks that a segmenter makes, with the rules by which masks are distrusted."""
    return fingerprint("masks", STAGE_VERSIONS["mask"], config.model_dump(mode="json", include=_DISTRUST), [segmenter])


def detector_fingerprint(config: CropConfig) -> str:
    """Return the fingerprint of a frozen detector. Raises `WeightsInvalid` where its weights file cannot be read."""
    return fingerprint("detector", STAGE_VERSIONS["mask"], [config.detector, weights_name(config.weights)], [])


def detections_family(config: CropConfig, detector: str) -> str:
    """Return the family of the boxes, stored as masks, that a detector finds with enough confidence."""
    return fingerprint("detections", STAGE_VERSIONS["mask"], {"min_score": config.min_score}, [detector])


def masks_family(masker: Ref, mask: MaskConfig, crop: CropConfig) -> str:
    """Return the family of the masks by a segmenter, or of the boxes by a detector, which `masker` is."""
    return detections_family(crop, masker.name) if masker.kind == "Detector" else mask_family(mask, masker.name)


def classifier_fingerprint(backbone: str) -> str:
    """Return the fingerprint of the classifier that belongs to a backbone."""
    return fingerprint("classifier", STAGE_VERSIONS["embed"], {}, [backbone])


def class_family(classifier: str) -> str:
    """Return the family of the classes that a classifier predicts for raw pictures."""
    return fingerprint("classes", STAGE_VERSIONS["embed"], {}, [classifier])


def vector_family(
    backbone: str,
    masks: str | None,
    view: View = "masked",
    margin: float = 0.0,
    precision: Precision = "float32",
) -> str:
    """Return the family of the vectors of raw pictures, or of pictures that a family of masks masks or crops.

    `margin` only matters to the view `crop`. float32 is left out, so that earlier families keep their names.
    """
    question: dict[str, Any] = {"view": view, "margin": margin} if masks and view == "crop" else {}
    if precision != "float32":
        question["precision"] = precision
    return fingerprint("vectors", STAGE_VERSIONS["embed"], question, [backbone, masks or "raw"])


def release_mask_family(release: Release) -> str | None:
    """Return the family of the masks or boxes that show the product in a release's pictures; None if nothing does.

    Raises `ShardCorrupt` if this version cannot read the release's config.
    """
    config = release.nightly_config()
    masker = release.detector or release.segmenter
    return masks_family(masker, config.mask, config.crop) if masker else None


def release_vector_families(release: Release) -> dict[View, str]:
    """Return the families of the vectors that a release's backbone can make, by the view of the picture.

    Which of these views the run embedded is in its config. Raises `ShardCorrupt` if this version cannot read that.
    """
    masks, config = release_mask_family(release), release.nightly_config()
    views: tuple[View, ...] = ("raw", "masked", "crop") if masks else ("raw",)
    return {
        view: vector_family(
            release.backbone.name,
            None if view == "raw" else masks,
            view,
            config.crop.margin,
            config.embed.precision,
        )
        for view in views
    }


def head_question(config: HeadConfig) -> dict[str, Any]:
    """Return the part of the head config that the trained head depends on."""
    return _question(config, _POLICY)


def head_fingerprint(config: HeadConfig, catalog: str, vectors: str) -> str:
    """Return the fingerprint of the head trained on the labels of a catalogue and a family of vectors."""
    return fingerprint("head", STAGE_VERSIONS["head"], head_question(config), [catalog, vectors])


def boosted_family(head_fingerprint: str, vectors: str) -> str:
    """Return the family of the vectors that a head makes of a family of vectors."""
    return fingerprint("boosted", STAGE_VERSIONS["head"], {}, [head_fingerprint, vectors])


def reducer_question(config: ReduceConfig) -> dict[str, Any]:
    """Return the part of the reduce config that the fitted PCA depends on."""
    return _question(config, _POLICY)


def reducer_fingerprint(config: ReduceConfig, catalog: str, vectors: str) -> str:
    """Return the fingerprint of the PCA fitted on a catalogue's rows of a family of vectors."""
    return fingerprint("reducer", STAGE_VERSIONS["reduce"], reducer_question(config), [catalog, vectors])


def reduced_family(reducer: str, vectors: str, dim: int) -> str:
    """Return the family of the first `dim` principal components of a family of vectors."""
    return fingerprint("reduced", STAGE_VERSIONS["reduce"], dim, [reducer, vectors])


def template_fingerprint(recipe_key: str, config: IndexConfig, candidates: str) -> str:
    """Return the fingerprint of the trained empty index from which the shards of a recipe are built."""
    return fingerprint("template", STAGE_VERSIONS["index"], [recipe_key, config.sample_rows, config.seed], [candidates])


def weights_name(weights: str) -> str:
    """Return the name of weights for a fingerprint: what the config says, or the sha256 of a file's content."""
    kind, _, path = weights.partition(":")
    return weights_sha256(Path(path)) if kind == "file" else weights


def weights_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a weights file. Raises `WeightsInvalid` where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsInvalid(f"cannot read weights file {path}: {error.strerror}") from error
