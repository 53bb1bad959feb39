"""What each stage of a run cost, compared with the run before and with what `plan` would have predicted."""

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
from retrieval_core.evaluate.analysis.run_history import PastRun
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from retrieval_core.store.base import Store


class StageCost(Value):
    """The cost of one stage: seconds, pictures it looked at, and bytes of its artifacts, earlier parts included.

    `_before` are those of the previous run. None means not known, or that the stage did not run.
    """

    stage: str
    seconds: float | None = None
    n_pictures: int | None = None
    n_bytes: int | None = None
    seconds_before: float | None = None
    n_pictures_before: int | None = None
    n_bytes_before: int | None = None


class Prediction(Value):
    """A quantity that `plan` predicts before a run, and its actual value (`happened`), in seconds (s) or bytes (B)."""

    what: str
    unit: str
    predicted: float
    happened: float


class CostFacts(Value):
    """`before` is when the previous run ended, "" if there was none; `stages` are in the order they ran."""

    before: str = ""
    stages: tuple[StageCost, ...] = ()
    predictions: tuple[Prediction, ...] = ()


def collect_costs(store: Store, outputs: RunOutputs, past: Sequence[PastRun]) -> CostFacts:
    """Return the costs of a run; `past` are the runs before it, the latest last."""
    last = past[-1] if past else None
    stages_before = _stages_of(store, last.release) if last else {}
    seconds_before = dict(last.seconds) if last else {}
    n_bytes = _bytes_by_stage(store, outputs)
    # Evaluate and publish are not over when the report is written: they have only the seconds of the run before.
    late = ("evaluate", "publish") if outputs.seconds else ()
    names = list(dict.fromkeys([*outputs.seconds, *n_bytes, *late]))
    stages = [
        StageCost(
            stage=name,
            seconds=outputs.seconds.get(name),
            n_pictures=outputs.n_pictures.get(name),
            n_bytes=n_bytes.get(name),
            seconds_before=seconds_before.get(name),
            n_pictures_before=stages_before[name].n_pictures if name in stages_before else None,
            n_bytes_before=stages_before[name].n_bytes if name in stages_before else None,
        )
        for name in names
    ]
    return CostFacts(
        before=last.ended if last else "",
        stages=tuple(stages),
        predictions=tuple(_predictions(store, outputs, last)),
    )


def _stages_of(store: Store, release: str) -> dict[str, StageCost]:
    """Return the stage costs in the report of an earlier release; none if the report is missing or lacks them."""
    try:
        sealed = Release.find(store, release)
        if sealed is None:
            return {}
        part = Report.open(store, sealed.report).part("metrics.json")
        facts = json.loads(store.local_path(part.key, part.sha256).read_bytes())
        costs = CostFacts.model_validate(facts.get("costs") or {})
    except (VitrineError, ValueError):
        return {}
    return {stage.stage: stage for stage in costs.stages}


def _bytes_by_stage(store: Store, outputs: RunOutputs) -> dict[str, int]:
    """Return the bytes of the artifacts that each stage made or kept for this release."""
    sets = [VectorSet.open(store, ref) for ref in outputs.variants]
    reduced = [vectors for vectors in sets if isinstance(vectors.variant, Reduced)]
    boosted = [vectors for vectors in sets if isinstance(vectors.variant, Variant) and vectors.variant.boosted]
    plain = [vectors for vectors in sets if vectors not in boosted and vectors not in reduced]
    heads = [Head.open(store, head.ref) for head in outputs.heads]
    segmenter = Segmenter.open(store, outputs.segmenter.ref) if outputs.segmenter else None
    artifacts: dict[str, list[Artifact | None]] = {
        "ingest": [Catalog.open(store, outputs.catalog)],
        "backbone": [Backbone.open(store, outputs.backbone)],
        "mask": [segmenter],
        "embed": [_open(store, MaskSet, outputs.masks), *plain],
        "classify": [_open(store, ClassSet, outputs.classes)],
        "head": [*heads, *boosted],
        "reduce": [Reducer.open(store, outputs.reducer.ref), *reduced],
        "index": [IndexSet.open(store, outputs.index)],
    }
    existing = {stage: [artifact for artifact in made if artifact] for stage, made in artifacts.items()}
    return {stage: sum(artifact.n_bytes for artifact in made) for stage, made in existing.items() if made}


def _open(store: Store, kind: type[Artifact], ref: Ref | None) -> Artifact | None:
    return kind.open(store, ref) if ref else None


def _predictions(store: Store, outputs: RunOutputs, last: PastRun | None) -> Iterator[Prediction]:
    n_embedded, seconds = outputs.n_pictures.get("embed", 0), outputs.seconds.get("embed")
    if seconds is not None and n_embedded and last and last.embedded and "embed" in last.seconds:
        predicted = last.seconds["embed"] / last.embedded * n_embedded
        yield Prediction(what=f"embedding {n_embedded:,} pictures", unit="s", predicted=predicted, happened=seconds)
    index = IndexSet.open(store, outputs.index)
    for what, key, file in (
        ("index files", "index_bytes", INDEX_FILE),
        ("full vectors", "vector_bytes", VECTORS_FILE),
    ):
        if key in index.config:
            n_bytes = sum(part.n_bytes for part in index.parts if part.key.endswith(f"/{file}"))
            yield Prediction(what=what, unit="B", predicted=index.config[key], happened=n_bytes)
