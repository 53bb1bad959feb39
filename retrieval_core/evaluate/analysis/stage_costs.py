"""What a night took, stage by stage, beside last night's, and what `plan` would have said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from retrieval_core.artifacts.manifests import (
    Artifact,
    Backbone,
    Catalog,
    ClassSet,
    Head,
    IndexSet,
    MaskSet,
    Reducer,
    Ref,
    Release,
    Report,
    Segmenter,
    Value,
    VectorSet,
)
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.analysis.run_history import PastNight
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.index.build import INDEX_FILE, VECTORS_FILE
from retrieval_core.store.base import Store


class StageCost(Value):
    """One stage: its seconds, the pictures it looked at, and the bytes of what it leaves, old parts included.

    `_before` are last night's. None where it is not known, or the stage did not run.
    """

    stage: str
    seconds: float | None = None
    n_pictures: int | None = None
    n_bytes: int | None = None
    seconds_before: float | None = None
    n_pictures_before: int | None = None
    n_bytes_before: int | None = None


class Prediction(Value):
    """What `plan` says of a quantity before a run, and what it came to; in seconds or bytes."""

    what: str
    unit: str
    predicted: float
    happened: float


class CostFacts(Value):
    """`before` is when last night ended, "" where there was none; `stages` in the order they ran."""

    before: str = ""
    stages: tuple[StageCost, ...] = ()
    predictions: tuple[Prediction, ...] = ()


def find_costs(store: Store, night: RunOutputs, nights: Sequence[PastNight]) -> CostFacts:
    """`nights` are those before this one, the latest last."""
    last = nights[-1] if nights else None
    then = _stages_of(store, last.release) if last else {}
    seconds_then = dict(last.seconds) if last else {}
    seconds_then.pop("total", None)
    held = _bytes(store, night)
    # What measures and publishes is not over yet.
    order = dict.fromkeys([*night.seconds, *held])
    stages = [
        StageCost(
            stage=name,
            seconds=night.seconds.get(name),
            n_pictures=night.n_pictures.get(name),
            n_bytes=held.get(name),
            seconds_before=seconds_then.get(name),
            n_pictures_before=then[name].n_pictures if name in then else None,
            n_bytes_before=then[name].n_bytes if name in then else None,
        )
        for name in order
        if name != "total"
    ]
    return CostFacts(
        before=last.ended if last else "",
        stages=tuple(stages),
        predictions=tuple(_predictions(store, night, nights)),
    )


def _stages_of(store: Store, release: str) -> dict[str, StageCost]:
    """What the report of an earlier release says of its stages; nothing where that is gone or does not say."""
    try:
        sealed = Release.find(store, release)
        if sealed is None:
            return {}
        part = Report.open(store, sealed.report).part("metrics.json")
        told = json.loads(store.local_path(part.key, part.sha256).read_bytes())
        costs = CostFacts.model_validate(told.get("costs") or {})
    except (VitrineError, ValueError):
        return {}
    return {stage.stage: stage for stage in costs.stages}


def _bytes(store: Store, night: RunOutputs) -> dict[str, int]:
    """Of what each stage made or kept for this release."""
    sets = [VectorSet.open(store, ref) for ref in night.variants]
    reduced = [vectors for vectors in sets if isinstance(vectors.variant, Reduced)]
    boosted = [vectors for vectors in sets if isinstance(vectors.variant, Variant) and vectors.variant.boosted]
    plain = [vectors for vectors in sets if vectors not in boosted and vectors not in reduced]
    heads = [Head.open(store, head.ref) for head in night.heads]
    segmenter = Segmenter.open(store, night.segmenter.ref) if night.segmenter else None
    held: dict[str, list[Artifact | None]] = {
        "ingest": [Catalog.open(store, night.catalog)],
        "backbone": [Backbone.open(store, night.backbone)],
        "mask": [segmenter, _open(store, MaskSet, night.masks)],
        "embed": [*plain],
        "classify": [_open(store, ClassSet, night.classes)],
        "head": [*heads, *boosted],
        "reduce": [Reducer.open(store, night.reducer.ref), *reduced],
        "index": [IndexSet.open(store, night.index)],
    }
    return {stage: sum(made.n_bytes for made in all_made if made) for stage, all_made in held.items() if any(all_made)}


def _open(store: Store, kind: type[Artifact], ref: Ref | None) -> Artifact | None:
    return kind.open(store, ref) if ref else None


def _predictions(store: Store, night: RunOutputs, nights: Sequence[PastNight]) -> Iterator[Prediction]:
    embedded, took = night.n_pictures.get("embed", 0), night.seconds.get("embed")
    last = nights[-1] if nights else None
    if took is not None and embedded and last and last.embedded and "embed" in last.seconds:
        rate = last.seconds["embed"] / last.embedded
        yield Prediction(what=f"embedding {embedded:,} pictures", unit="s", predicted=rate * embedded, happened=took)
    index = IndexSet.open(store, night.index)
    for what, key, file in (
        ("index files", "index_bytes", INDEX_FILE),
        ("full vectors", "vector_bytes", VECTORS_FILE),
    ):
        if key in index.config:
            taken = sum(part.n_bytes for part in index.parts if part.key.endswith(f"/{file}"))
            yield Prediction(what=what, unit="B", predicted=index.config[key], happened=taken)
