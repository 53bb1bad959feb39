"""What makes what: the fingerprint of each stage's product.

Only what changes the output enters a fingerprint: shard sizes and the policies of refitting do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_core.artifacts.manifests import (
    Release,
    fingerprint,
)
from retrieval_core.config import CropConfig, HeadConfig, IndexConfig, MaskConfig, ReduceConfig, View
from retrieval_core.errors import WeightsInvalid
from retrieval_core.store.files import file_sha256

# What the output of each stage depends on besides its config; raise one when the same input gives another output.
STAGE_VERSIONS = {
    "ingest": 1,
    "mask": 1,
    "embed": 1,
    "head": 2,
    "reduce": 1,
    "index": 2,
    "train": 1,
    "evaluate": 4,
    "compare": 1,
    "publish": 1,
}

_POLICY = {"shard_rows", "refit_after_change", "enabled"}
_DISTRUST = {"min_area", "max_area", "min_largest_part"}


def segmenter_question(config: MaskConfig) -> dict[str, Any]:
    """The part of the mask config that the trained U-Net depends on."""
    return config.model_dump(mode="json", exclude=_POLICY | _DISTRUST)


def segmenter_fingerprint(config: MaskConfig, catalog: str) -> str:
    """Of the U-Net trained on one catalogue's masks."""
    return fingerprint("segmenter", STAGE_VERSIONS["mask"], segmenter_question(config), [catalog])


def mask_family(config: MaskConfig, segmenter: str) -> str:
    """Of the masks one segmenter makes under one rule of distrust."""
    return fingerprint("masks", STAGE_VERSIONS["mask"], config.model_dump(mode="json", include=_DISTRUST), [segmenter])


def detector_fingerprint(config: CropConfig) -> str:
    """Of a frozen detector; weights from a file are named by its content. Raises `WeightsInvalid` without the file."""
    return fingerprint("detector", STAGE_VERSIONS["mask"], [config.detector, weights_name(config.weights)], [])


def detections_family(config: CropConfig, detector: str) -> str:
    """Of the boxes one detector finds, as masks, where a box has to score enough."""
    return fingerprint("detections", STAGE_VERSIONS["mask"], {"min_score": config.min_score}, [detector])


def classifier_fingerprint(backbone: str) -> str:
    """Of the classifier that one backbone was published or trained with."""
    return fingerprint("classifier", STAGE_VERSIONS["embed"], {}, [backbone])


def class_family(classifier: str) -> str:
    """Of the likeliest classes that one classifier gives raw pictures."""
    return fingerprint("classes", STAGE_VERSIONS["embed"], {}, [classifier])


def vector_family(backbone: str, masks: str | None, view: View = "masked", margin: float = 0.0) -> str:
    """Of the vectors one backbone makes of raw pictures, or of pictures shown by one family of masks.

    `margin` is that of the view `crop`, and nothing to the others.
    """
    question = {"view": view, "margin": margin} if masks and view == "crop" else {}
    return fingerprint("vectors", STAGE_VERSIONS["embed"], question, [backbone, masks or "raw"])


def release_mask_family(release: Release) -> str | None:
    """Return the family of the masks or boxes that show the product in a release's pictures; None if nothing does.

    Raises `ShardCorrupt` if this version cannot read the release's config.
    """
    config = release.nightly_config()
    if release.detector:
        return detections_family(config.crop, release.detector.name)
    return mask_family(config.mask, release.segmenter.name) if release.segmenter else None


def release_vector_families(release: Release) -> dict[View, str]:
    """Return the families of the vectors that a release's backbone can make, by the view of the picture.

    Which of these views the run embedded is in its config. Raises `ShardCorrupt` if this version cannot read that.
    """
    masks, margin = release_mask_family(release), release.nightly_config().crop.margin
    backbone, families = release.backbone.name, dict[View, str]()
    families["raw"] = vector_family(backbone, None)
    if masks:
        families["masked"] = vector_family(backbone, masks)
        families["crop"] = vector_family(backbone, masks, "crop", margin)
    return families


def head_question(config: HeadConfig) -> dict[str, Any]:
    """The part of the head config that the trained head depends on."""
    return config.model_dump(mode="json", exclude=_POLICY)


def head_fingerprint(config: HeadConfig, catalog: str, vectors: str) -> str:
    """Of the head trained on one catalogue's labels over one family of vectors."""
    return fingerprint("head", STAGE_VERSIONS["head"], head_question(config), [catalog, vectors])


def boosted_family(head_fingerprint: str, vectors: str) -> str:
    """Of the hidden layer of one head over one family of vectors."""
    return fingerprint("boosted", STAGE_VERSIONS["head"], {}, [head_fingerprint, vectors])


def reducer_question(config: ReduceConfig) -> dict[str, Any]:
    """The part of the reduce config that the fitted PCA depends on."""
    return config.model_dump(mode="json", exclude=_POLICY)


def reducer_fingerprint(config: ReduceConfig, catalog: str, vectors: str) -> str:
    """Of the PCA fitted on one catalogue's rows of one family of vectors."""
    return fingerprint("reducer", STAGE_VERSIONS["reduce"], reducer_question(config), [catalog, vectors])


def reduced_family(reducer: str, vectors: str, dim: int) -> str:
    """Of the first `dim` principal components of one family of vectors."""
    return fingerprint("reduced", STAGE_VERSIONS["reduce"], dim, [reducer, vectors])


def template_fingerprint(recipe_key: str, config: IndexConfig, candidates: str) -> str:
    """Of the empty trained index that the shards of one recipe over one family of candidate vectors start from."""
    return fingerprint("template", STAGE_VERSIONS["index"], [recipe_key, config.sample_rows, config.seed], [candidates])


def weights_name(weights: str) -> str:
    """What a config says of weights, a file by the sha256 of its content."""
    kind, _, path = weights.partition(":")
    return weights_sha256(Path(path)) if kind == "file" else weights


def weights_sha256(path: Path) -> str:
    """The sha256 (hex) of a weights file. Raises `WeightsInvalid` where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsInvalid(f"cannot read weights file {path}: {error.strerror}") from error
