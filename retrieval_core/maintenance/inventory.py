"""What lies in a store, and what needs what: the ground that `vacuum` and `repair` stand on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from retrieval_core.artifacts.fingerprints import (
    boosted_family,
    class_family,
    reduced_family,
    release_mask_family,
    release_vector_families,
)
from retrieval_core.artifacts.manifests import (
    MANIFEST,
    Artifact,
    Backbone,
    Catalog,
    Classifier,
    ClassSet,
    Detector,
    GrowingSet,
    Head,
    IndexSet,
    MaskSet,
    Reducer,
    Ref,
    Release,
    Report,
    Segmenter,
    VectorSet,
)
from retrieval_core.errors import NotFound
from retrieval_core.store import leases
from retrieval_core.store.base import Entry, Store

SETS: tuple[type[GrowingSet], ...] = (MaskSet, VectorSet, ClassSet)
PROBE = "runs/_probe"  # what a killed command line left of its first write
FITTED: tuple[type[Artifact], ...] = (Backbone, Segmenter, Detector, Classifier, Head, Reducer)
_SEALED: tuple[type[Artifact], ...] = (Release, Catalog, IndexSet, Report, *FITTED, *SETS)
_KINDS = {kind.folder: kind for kind in _SEALED}
_NAME = "[0-9a-f]{32}"  # a fingerprint
# What runs make and can make again. A person may keep other files beside it, even in folders of these names.
_MADE = re.compile(
    rf"(?:{'|'.join(sorted(_KINDS))})/{_NAME}/.+|indexes/shards/{_NAME}/.+|indexes/templates/{_NAME}-{_NAME}\.faiss"
    rf"|{PROBE}|{leases.FOLDER}.+"
)

Family = tuple[str, str]  # folder and fingerprint


class Holdings:
    """What runs made in a store, as listed once, and its manifests, each read when first asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: dict[str, Entry] = {entry.key: entry for entry in store.entries("") if _MADE.fullmatch(entry.key)}
        self._opened: dict[str, Artifact] = {}
        views = [key for key in self.manifests() if key.split("/")[0] in {kind.folder for kind in SETS}]
        self._views = {(key.split("/")[0], key.rsplit("/", 1)[-1]): key for key in views}

    def manifests(self) -> Iterator[str]:
        """The folder of every sealed artifact."""
        ending = f"/{MANIFEST}"
        return (key.removesuffix(ending) for key in self.entries if key.endswith(ending))

    def open(self, key: str) -> Artifact:
        """The artifact sealed in a folder. Raises `NotFound`, and `ShardCorrupt` where it cannot be read."""
        if key not in self._opened:
            kind = _KINDS[key.split("/")[0]]
            self._opened[key] = kind.open(self.store, Ref(kind=kind.__name__, key=key))
        return self._opened[key]

    def views(self, family: Family) -> Iterator[str]:
        """The folders of the views of a family."""
        return (key for (folder, _), key in self._views.items() if (folder, key.split("/")[1]) == family)

    def all_views(self) -> list[str]:
        """The folders of the views of every family."""
        return list(self._views.values())

    def all_parts(self) -> Iterator[str]:
        """The parts of every family, listed by a view or not."""
        folders = {kind.folder for kind in SETS}
        return (key for key in self.entries if key.split("/")[0] in folders and key.split("/")[2] == "parts")

    def vector_set(self, fingerprint: str) -> VectorSet:
        """A view of vectors. Raises `NotFound`, `ShardCorrupt`."""
        return VectorSet.open(self.store, Ref(kind=VectorSet.__name__, key=self._view(VectorSet, fingerprint)))

    def needs(self, artifact: Artifact) -> Iterator[str]:
        """The folders of the artifacts that one needs to be used, to be repaired, and to be judged by the next run.

        Raises `NotFound` for a view whose manifest is gone: where its parts lie is not known then.
        """
        if isinstance(artifact, Release):
            yield from (ref.key for ref in release_refs(artifact))
        if isinstance(artifact, IndexSet | VectorSet | Segmenter | Head | Reducer) and "catalog" in artifact.parents:
            yield f"{Catalog.folder}/{artifact.parents['catalog']}"
        named: list[tuple[type[GrowingSet], str]] = [(MaskSet, "truth")] if isinstance(artifact, Segmenter) else []
        named += [(VectorSet, "vectors"), (VectorSet, "candidates")] if isinstance(artifact, IndexSet) else []
        named += [(VectorSet, "vectors")] if isinstance(artifact, VectorSet) else []
        for kind, role in named:
            if role in artifact.parents:
                yield self._view(kind, artifact.parents[role])

    def _view(self, kind: type[GrowingSet], fingerprint: str) -> str:
        key = self._views.get((kind.folder, fingerprint))
        if key is None:
            raise NotFound(f"no {kind.folder} {fingerprint or 'that they were made of'} in {self.store.url}")
        return key

    def families(self, release: Release) -> set[Family]:
        """The families of masks, vectors and classes that the night of a release grew.

        Raises `ShardCorrupt` where its config or a model cannot be read, `NotFound` where a model is gone.
        """
        masks, embedded = release_mask_family(release), release_vector_families(release).values()
        boosted = [boosted_family(head.name, family) for head in release.heads for family in embedded]
        vectors = [*embedded, *boosted]
        found = {(MaskSet.folder, family) for family in [*([masks] if masks else []), *self._truth(release)]}
        found |= {(VectorSet.folder, family) for family in [*vectors, *self._reduced(release)]}
        if release.classifier:
            found.add((ClassSet.folder, class_family(release.classifier.name)))
        return found

    def _truth(self, release: Release) -> Iterator[str]:
        if release.segmenter:
            truth = self.open(release.segmenter.key).parents.get("truth", "")
            view = self._views.get((MaskSet.folder, truth))
            if view:
                yield view.split("/")[1]

    def _reduced(self, release: Release) -> Iterator[str]:
        if release.reducer:
            reducer, source = self.open(release.reducer.key), release.vectors.key.split("/")[1]
            dims = reducer.dims if isinstance(reducer, Reducer) else ()
            yield from (reduced_family(reducer.fingerprint, source, dim) for dim in dims)


def release_refs(release: Release) -> list[Ref]:
    """Everything that a release names."""
    one = [release.catalog, release.backbone, release.vectors, release.index, release.report]
    maybe = [release.segmenter, release.detector, release.classifier, release.classes, release.head, release.reducer]
    return [*one, *(ref for ref in (*maybe, *release.heads) if ref)]


def searched_refs(release: Release) -> list[Ref]:
    """What of it a search opens."""
    shown = release.variant.view != "raw"
    maybe = [
        release.head if release.variant.boosted else None,
        (release.detector or release.segmenter) if shown else None,
        release.reducer,
        *((release.classes, release.classifier) if release.classes else ()),
    ]
    return [release.catalog, release.backbone, release.index, *(ref for ref in maybe if ref)]
