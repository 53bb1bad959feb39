"""Reconstruct the outputs of the run that made a sealed release, so that the release can be evaluated again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import QUARANTINE_FILE
from retrieval_core.artifacts.manifests import (
    MANIFEST,
    Catalog,
    Fitted,
    GrowingSet,
    Head,
    IndexSet,
    MaskSet,
    Reducer,
    Ref,
    Reject,
    Release,
    Report,
    VectorSet,
)
from retrieval_core.artifacts.parts import read_table
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.evaluate.variant_choice import read_choice
from retrieval_core.store.base import Store

View = TypeVar("View", bound=GrowingSet)


class _Reported:
    """What only the report of a release says: the counts of its rows, and the pictures rejected after ingest."""

    def __init__(self, store: Store, release: Release) -> None:
        part = Report.open(store, release.report).part("metrics.json")
        try:
            facts = json.loads(store.local_path(part.key, part.sha256).read_bytes())
            self.catalog = CatalogFacts.model_validate(facts["catalog"])
            rejects = [Reject.model_validate(reject) for reject in facts["quarantine"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardCorrupt(f"{part.key} cannot be read as the metrics of a report: {error}") from error
        ledger = read_table(store, Catalog.open(store, release.catalog).part(QUARANTINE_FILE), ["item_id"])
        rejected_at_ingest = set(ledger["item_id"])
        self.late = tuple(reject for reject in rejects if reject.item_id not in rejected_at_ingest)


def reconstruct_outputs(store: Store, release: Release) -> RunOutputs:
    """Return the outputs of the run that made a release, with every variant, found by the fingerprints of families.

    No model counts as trained by this run. Raises `NotFound` where a part was removed, `ShardCorrupt` where one cannot
    be read.
    """
    reported = _Reported(store, release)
    if release.reducer is None:
        raise NotFound(f"release {release.fingerprint} names no reducer, which every run makes")
    masks = masks_of(store, release)
    variants = {vectors.fingerprint: vectors.ref for vectors in _variants(store, release, masks)}
    candidates = IndexSet.open(store, release.index).parents["candidates"]
    if candidates not in variants:
        raise NotFound(f"the candidates {candidates} of release {release.fingerprint} are missing from {store.url}")
    return RunOutputs(
        source=reported.catalog.source,
        catalog=release.catalog,
        fields=release.fields,
        catalog_facts=reported.catalog,
        backbone=release.backbone,
        segmenter=Fitted(ref=release.segmenter, trained=False) if release.segmenter else None,
        detector=release.detector,
        masks=masks.ref if masks else None,
        classifier=release.classifier,
        classes=release.classes,
        heads=tuple(Fitted(ref=ref, trained=False) for ref in release.heads),
        reducer=Fitted(ref=release.reducer, trained=False),
        variants=tuple(variants.values()),
        vectors=release.vectors,
        candidates=variants[candidates],
        index=release.index,
        n_shards_built=0,
        rejects=reported.late,
        seconds={},
        choice=read_choice(store, release),
        sealed=release.created,
    )


def masks_of(store: Store, release: Release) -> MaskSet | None:
    """Return the masks or boxes that the release's pictures were shown by, None where it shows them whole.

    Raises `NotFound` where they were removed, `ShardCorrupt`.
    """
    family = fingerprints.release_mask_family(release)
    return _view(store, MaskSet, family, release) if family else None


def _variants(store: Store, release: Release, masks: MaskSet | None) -> Iterator[VectorSet]:
    """Yield the vectors of each view, then the boosted, then the reduced ones: the order of a run."""
    families = fingerprints.release_vector_families(release)
    views = release.nightly_config().embed.views(has_masks=masks is not None)
    embedded = (_view(store, VectorSet, families[view], release) for view in views)
    plain = {vectors.full_variant(): vectors for vectors in embedded}
    yield from plain.values()
    for ref in release.heads:
        family = fingerprints.boosted_family(ref.name, plain[Head.open(store, ref).variant].family)
        yield _view(store, VectorSet, family, release)
    if release.reducer:
        reducer, source = Reducer.open(store, release.reducer), VectorSet.open(store, release.vectors)
        for dim in reducer.dims:
            yield _view(store, VectorSet, fingerprints.reduced_family(reducer.fingerprint, source.family, dim), release)


def _view(store: Store, kind: type[View], family: str, release: Release) -> View:
    """Return the view of a family that the release or its index names, else the one that covers most rows."""
    keys = [
        key.removesuffix(f"/{MANIFEST}") for key in store.list(f"{kind.folder}/{family}/") if key.endswith(MANIFEST)
    ]
    views = [kind.open(store, Ref(kind=kind.__name__, key=key)) for key in keys]
    of_catalog = [view for view in views if view.parents.get("catalog") == release.catalog.name]
    if not of_catalog:
        raise NotFound(f"no {kind.folder} {family} of catalogue {release.catalog.name} in {store.url}")
    named = {release.vectors.name, IndexSet.open(store, release.index).parents["candidates"]}
    return max(of_catalog, key=lambda view: (view.fingerprint in named, view.counts["rows"], view.fingerprint))
