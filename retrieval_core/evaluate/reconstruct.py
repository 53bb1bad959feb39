"""A sealed release as the night that made it was measured, so that it can be measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

from retrieval_core.artifacts import fingerprints, releases
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
from retrieval_core.store.base import Store

NOBODY = "none"

View = TypeVar("View", bound=GrowingSet)


class _Told:
    """What the report of a release says that nothing else does: where its rows came from, and what went bad late."""

    def __init__(self, store: Store, release: Release) -> None:
        part = Report.open(store, release.report).part("metrics.json")
        try:
            facts = json.loads(store.local_path(part.key, part.sha256).read_bytes())
            self.catalog = CatalogFacts.model_validate(facts["catalog"])
            rejects = [Reject.model_validate(reject) for reject in facts["quarantine"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardCorrupt(f"{part.key} does not say what was measured: {error}") from error
        ledger = read_table(store, Catalog.open(store, release.catalog).part("quarantine.parquet"), ["item_id"])
        known = set(ledger["item_id"])
        self.late = tuple(reject for reject in rejects if reject.item_id not in known)


def reassemble(store: Store, release: Release) -> RunOutputs:
    """The night of a release, as `measure` wants it: every representation it made, found by what makes what.

    Nothing counts as made tonight. Raises `NotFound` where something of it is gone, `ShardCorrupt` where something
    cannot be read.
    """
    told = _Told(store, release)
    if release.reducer is None:
        raise NotFound(f"release {release.fingerprint} names no reducer, which every night has")
    masks = masks_of(store, release)
    variants = {made.fingerprint: made.ref for made in _variants(store, release, masks)}
    candidates = IndexSet.open(store, release.index).parents["candidates"]
    if candidates not in variants:
        raise NotFound(f"the candidates {candidates} of release {release.fingerprint} are gone from {store.url}")
    return RunOutputs(
        source=told.catalog.source,
        catalog=release.catalog,
        catalog_facts=told.catalog,
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
        rejects=told.late,
        seconds={},
        sealed=release.created,
    )


def rival_of(store: Store, release: Release, against: str) -> Release | None:
    """The release that one is compared with: that of the name `against`, or nobody for `none`.

    "" is production, and of production itself the one before it, if there was one. Raises `NotFound`, `BadConfig`.
    """
    if against == NOBODY:
        return None
    if against:
        return named_release(store, against)
    alias = releases.read_alias(store, releases.PRODUCTION)
    before = [*alias.history, alias.release] if alias else []
    others = [name for name in before if name != release.fingerprint]
    return releases.get_release(store, others[-1]) if others else None


def named_release(store: Store, name: str) -> Release:
    """A release by alias (production, latest), fingerprint, or the start of that. Raises `NotFound`, `BadConfig`."""
    aliased = releases.read_release(store, name) if name in (releases.PRODUCTION, releases.LATEST) else None
    return aliased or releases.get_release(store, name)


def masks_of(store: Store, release: Release) -> MaskSet | None:
    """What the release's pictures were masked with or cropped to, None where it shows them whole.

    Raises `NotFound` where they are gone, `ShardCorrupt`.
    """
    family = fingerprints.release_mask_family(release)
    return _view(store, MaskSet, family, release) if family else None


def _variants(store: Store, release: Release, masks: MaskSet | None) -> Iterator[VectorSet]:
    """The vectors of each view, then those boosted, then those reduced: the order of a night."""
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
    """The view of a family that the release or its index names, else the one that covers most of the catalogue."""
    keys = [
        key.removesuffix(f"/{MANIFEST}") for key in store.list(f"{kind.folder}/{family}/") if key.endswith(MANIFEST)
    ]
    views = [kind.open(store, Ref(kind=kind.__name__, key=key)) for key in keys]
    own = [view for view in views if view.parents.get("catalog") == release.catalog.name]
    if not own:
        raise NotFound(f"no {kind.folder} {family} of catalogue {release.catalog.name} in {store.url}")
    named = {release.vectors.name, IndexSet.open(store, release.index).parents["candidates"]}
    return max(own, key=lambda view: (view.fingerprint in named, view.counts["rows"], view.fingerprint))
