"""What finds the product in a picture: a segmenter fitted on the source's masks, or a detector of boxes."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, MaskSet, Ref
from retrieval_core.config.stages import CropConfig, IngestConfig, MaskConfig
from retrieval_core.mask import fit
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("train segmenter")
def fit_segmenter(
    settings: Settings, catalog: Ref, truth: Ref | None, config: MaskConfig, ingest: IngestConfig
) -> Fitted | None:
    """Return the segmenter for a catalogue, fitted on the masks `truth`; None when there can be none."""
    truth_masks = MaskSet.open(settings.open_store(), truth) if truth else None
    return fit.fit_segmenter(settings, catalog, truth_masks, config, ingest)


@stage("prepare detector")
def prepare_detector(settings: Settings, config: CropConfig) -> Ref:
    """Return the frozen detector as an artifact; its weights are fetched once."""
    return fit.export_detector(settings.open_store(), config).ref
