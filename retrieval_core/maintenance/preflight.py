"""Checks before a run reads anything, so that what cannot work fails within seconds and not after hours."""

from __future__ import annotations

from retrieval_core.artifacts.fingerprints import detector_fingerprint
from retrieval_core.artifacts.manifests import Detector
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.embed.preflight import check_backbone, check_classifier, check_weights
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.mask.detect import load_detector
from retrieval_core.store.base import Store, check_conditions
from retrieval_core.store.format import require_current


def check_run(source: str, store: Store, config: NightlyConfig) -> None:
    """Check the source, the store, and every network that a run with this config uses.

    Weights that the store does not hold yet are loaded to see whether they fit. Raises `BadConfig`, `SourceMissing`,
    `StoreNotWritable`, `TooNew`, `NeedsMigration`, `WeightsInvalid` and `WeightsUnavailable`.
    """
    open_source(source)
    check_backbone(store, config.embed)  # first, so that a wrong name leaves no trace in the store
    check_conditions(store)
    require_current(store, mark=False)
    check_weights(store, config.embed)
    if config.detects and Detector.find(store, detector_fingerprint(config.crop)) is None:
        load_detector(config.crop)
    check_classifier(store, config.classify)
