"""What a night would publish, opened for searching before it is sealed: as a searcher would meet it tomorrow."""

from __future__ import annotations

from retrieval_core.artifacts import Ref, Release, VectorSet
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.night import Night
from retrieval_core.search import OpenRelease
from retrieval_core.settings import Settings
from retrieval_core.store import Store

UNSEALED = "candidate"


def chain_of(store: Store, night: Night) -> dict[str, Ref | None]:
    """What a release of this night names, by role, but for its report; `head` is the one that the vectors came by."""
    vectors = VectorSet.open(store, night.vectors)
    boosted_by = [outcome.ref for outcome in night.heads if outcome.ref.name == vectors.parents.get("head")]
    return {
        "catalog": night.catalog,
        "backbone": night.backbone,
        "segmenter": night.segmenter.ref if night.segmenter else None,
        "detector": night.detector,
        "classifier": night.classifier,
        "classes": night.classes,
        "head": boosted_by[0] if boosted_by else None,
        "reducer": night.reducer.ref,
        "vectors": night.vectors,
        "index": night.index,
    }


def open_candidate(store: Store, night: Night, config: NightlyConfig, settings: Settings) -> OpenRelease:
    """The release that this night would be, which has no report yet. Raises `NotFound`, `ShardCorrupt`."""
    release = Release.model_validate(
        {
            **chain_of(store, night),
            "kind": "Release",
            "fingerprint": UNSEALED,
            "config": config.model_dump(mode="json"),
            "report": Ref(kind="Report", key=f"reports/{UNSEALED}"),
            "variant": VectorSet.open(store, night.vectors).variant,
            "gate": "held",
        }
    )
    return OpenRelease(store, release, settings)
