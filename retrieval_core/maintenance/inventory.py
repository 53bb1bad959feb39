"""What a store holds, and which artifacts need which: the facts behind `vacuum`, `repair` and `verify`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from retrieval_core.artifacts.catalog_rows import PIECES, FieldSet
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
    Comparison,
    Detector,
    GrowingSet,
    Head,
    IndexSet,
    JudgementSet,
    MaskSet,
    PictureSet,
    Reducer,
    Ref,
    Release,
    Report,
    Segmenter,
    VectorSet,
)
from retrieval_core.artifacts.pictures import KEPT
from retrieval_core.artifacts.shards import ORDERS
from retrieval_core.errors import NotFound
from retrieval_core.store.base import PROBES, Entry, Store

GROWING: tuple[type[GrowingSet], ...] = (PictureSet, MaskSet, VectorSet, ClassSet)
FITTED: tuple[type[Artifact], ...] = (Backbone, Segmenter, Detector, Classifier, Head, Reducer)
_SEALED: tuple[type[Artifact], ...] = (Release, Catalog, FieldSet, IndexSet, Report, *FITTED, *GROWING)
_KINDS: dict[str, type[Artifact]] = {kind.folder: kind for kind in _SEALED}
ALL_KINDS = _KINDS | {kind.folder: kind for kind in (Comparison, JudgementSet)}  # these two are never removed
_FINGERPRINT = "[0-9a-f]{32}"
# The objects that runs write and can write again. Other files stay, even in folders of these names.
_REPRODUCIBLE = re.compile(
    rf"(?:{'|'.join(sorted(_KINDS))})/{_FINGERPRINT}/.+"
    rf"|{PIECES}.+|indexes/shards/{_FINGERPRINT}/.+|indexes/templates/{_FINGERPRINT}-{_FINGERPRINT}/.+"
    rf"|{ORDERS}/{_FINGERPRINT}/plans/.+|{PROBES}.*"
)

Family = tuple[str, str]  # folder and fingerprint


class Inventory:
    """The objects that runs wrote to a store, listed once, and its manifests, each read when it is first needed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: dict[str, Entry] = {
            entry.key: entry for entry in store.entries("") if _REPRODUCIBLE.fullmatch(entry.key)
        }
        self._opened: dict[str, Artifact] = {}
        views = [key for key in self.artifact_keys() if key.split("/")[0] in {kind.folder for kind in GROWING}]
        self._views = {(key.split("/")[0], key.rsplit("/", 1)[-1]): key for key in views}

    def artifact_keys(self) -> Iterator[str]:
        """Yield the folder of every sealed artifact."""
        ending = f"/{MANIFEST}"
        return (key.removesuffix(ending) for key in self.entries if key.endswith(ending))

    def open(self, key: str) -> Artifact:
        """Return the artifact sealed in a folder. Raises `NotFound`, and `ShardCorrupt` if it cannot be read."""
        if key not in self._opened:
            self._opened[key] = open_artifact(self.store, key)
        return self._opened[key]

    def release(self, name: str) -> Release:
        """Return a release by its fingerprint. Raises `NotFound`, and `ShardCorrupt` if it cannot be read."""
        return cast(Release, self.open(release_key(name)))

    def views(self, family: Family) -> Iterator[str]:
        """Yield the folders of the views of a family."""
        return (key for (folder, _), key in self._views.items() if (folder, key.split("/")[1]) == family)

    def all_views(self) -> list[str]:
        """Return the folders of the views of every family."""
        return list(self._views.values())

    def all_parts(self) -> Iterator[str]:
        """Yield the keys of the parts of every family, whether a view lists them or not."""
        folders = {kind.folder for kind in GROWING}
        return (key for key in self.entries if key.split("/")[0] in folders and key.split("/")[2] == "parts")

    def vector_set(self, fingerprint: str) -> VectorSet:
        """Return a view of vectors. Raises `NotFound`, `ShardCorrupt`."""
        return VectorSet.open(self.store, Ref(kind=VectorSet.__name__, key=self._view(VectorSet, fingerprint)))

    def needs(self, artifact: Artifact) -> Iterator[str]:
        """Yield the folders of the artifacts that one needs to be used, repaired, and compared with by the next run.

        A model does not need what it was trained on, but that is kept where it is not lost. Raises `NotFound` for a
        view without a manifest, as the folder of its parts is unknown then.
        """
        if isinstance(artifact, Release):
            yield from (ref.key for ref in release_refs(artifact))
        if isinstance(artifact, IndexSet | VectorSet) and "catalog" in artifact.parents:
            yield f"{Catalog.folder}/{artifact.parents['catalog']}"
        if isinstance(artifact, Segmenter | Head | Reducer):
            yield from self._trained_on(artifact)
        roles = ("vectors", "candidates") if isinstance(artifact, IndexSet) else ("vectors",)
        if isinstance(artifact, IndexSet | VectorSet):
            yield from (self._view(VectorSet, artifact.parents[role]) for role in roles if role in artifact.parents)

    def families(self, release: Release) -> set[Family]:
        """Return the families of pictures, masks, vectors and classes that the run of a release may have added to.

        Raises `ShardCorrupt` if its config or a model cannot be read, `NotFound` if a model is absent.
        """
        masks, embedded = release_mask_family(release), release_vector_families(release).values()
        boosted = [boosted_family(head.name, family) for head in release.heads for family in embedded]
        families = {(VectorSet.folder, family) for family in [*embedded, *boosted, *self._reduced(release)]}
        families |= {(MaskSet.folder, family) for family in self._truth(release)}
        if masks:
            families.add((MaskSet.folder, masks))
        families.add((PictureSet.folder, KEPT))
        if release.classifier:
            families.add((ClassSet.folder, class_family(release.classifier.name)))
        return families

    def _view(self, kind: type[GrowingSet], fingerprint: str) -> str:
        key = self._views.get((kind.folder, fingerprint))
        if key is None:
            raise NotFound(f"no {kind.folder} {fingerprint or 'that they were made of'} in {self.store.url}")
        return key

    def _trained_on(self, model: Artifact) -> Iterator[str]:
        catalog = f"{Catalog.folder}/{model.parents.get('catalog', '')}"
        if f"{catalog}/{MANIFEST}" in self.entries:
            yield catalog
        truth = self._views.get((MaskSet.folder, model.parents.get("truth", "")))
        if truth:
            yield truth

    def _truth(self, release: Release) -> Iterator[str]:
        """Yield the family of the source's own masks, which the segmenter learned from."""
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


def open_artifact(store: Store, key: str, sha256: str = "") -> Artifact:
    """Return the artifact sealed in a folder.

    Raises `NotFound`, and `ShardCorrupt` if it cannot be read or its manifest has not the `sha256` that is given.
    """
    kind = _KINDS[key.split("/")[0]]
    return kind.open(store, Ref(kind=kind.__name__, key=key, sha256=sha256))


def release_key(name: str) -> str:
    """Return the folder of a release."""
    return f"{Release.folder}/{name}"


def bundle_refs(release: Release) -> list[Ref]:
    """Return the artifacts of a release in the order of the pipeline; of its heads, the one that queries go through."""
    refs = [
        release.catalog,
        release.fields,
        release.backbone,
        release.segmenter,
        release.detector,
        release.classifier,
        release.classes,
        release.head,
        release.reducer,
        release.vectors,
        release.index,
        release.report,
    ]
    return [ref for ref in refs if ref]


def release_refs(release: Release) -> list[Ref]:
    """Return every artifact that a release names."""
    return [*bundle_refs(release), *release.heads]


def searched_refs(release: Release) -> list[Ref]:
    """Return the artifacts of a release that a search opens."""
    has_masks = release.variant.view != "raw"
    optional = [
        release.fields,
        release.head if release.variant.boosted else None,
        (release.detector or release.segmenter) if has_masks else None,
        release.reducer,
        *((release.classes, release.classifier) if release.classes else ()),
    ]
    return [release.catalog, release.backbone, release.index, *(ref for ref in optional if ref)]
