"""One release mended: what of it is damaged is made again to the byte, or removed for the next run, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from retrieval_core.artifacts.manifests import (
    MANIFEST,
    Artifact,
    Catalog,
    GrowingSet,
    IndexSet,
    Part,
    Ref,
    Release,
    Value,
    VectorSet,
)
from retrieval_core.artifacts.parts import read_ids
from retrieval_core.errors import NotFound, Permanent, ShardCorrupt
from retrieval_core.maintenance.inventory import Holdings, release_refs
from retrieval_core.maintenance.rebuild_parts import (
    remake_catalog_part,
    remake_derived_part,
    remake_shard,
    remake_template,
)
from retrieval_core.store.base import Store

Action = Literal["repaired", "removed", "moved", "refused"]

BY_RUN = "the next `vitrine run` makes it again"
_REFIT = "put it back from a copy; or have another one made by a run that asks for another seed or other weights"
_HINTS: dict[str, str] = {
    "Report": "searches do not read it, but the next run compares with it: `vitrine rollback`, then run again",
    "Catalog": "give --source; else `vitrine rollback`, then run again",
    "IndexSet": "let a run bring the vectors back and repair again, or `vitrine rollback`",
}


class Finding(Value):
    """One damaged thing, and what became of it; `detail` says what was wrong and what to do."""

    key: str
    action: Action
    detail: str


class Bad(NamedTuple):
    """A part that is not what was sealed."""

    owner: Artifact
    part: Part
    damage: str


class Mender:
    """Repairs one release, and the views of its catalogue."""

    def __init__(self, store: Store, release: Release, source: str | None) -> None:
        self._store, self._release, self._source = store, release, source
        self._held = Holdings(store)
        self._gone: set[str] = set()  # folders of manifests that were removed

    def mend(self) -> Iterator[Finding]:
        """What was found, in the order in which one repair needs another."""
        yield from self._mend_sets()
        refs = {ref.key: ref for ref in release_refs(self._release)}
        for ref in (ref for key, ref in refs.items() if key not in self._gone):
            try:
                artifact = self._held.open(ref.key)
            except (NotFound, ShardCorrupt) as error:
                yield self._without_manifest(ref, error)
                continue
            if isinstance(artifact, IndexSet):
                yield from self._mend_template(artifact)
            if not isinstance(artifact, GrowingSet):
                yield from (self._mend_part(bad) for bad in damaged_parts(self._store, artifact))

    def _without_manifest(self, ref: Ref, error: Permanent) -> Finding:
        key = f"{ref.key}/{MANIFEST}"
        if ref.kind.endswith("Set") and ref.kind != IndexSet.__name__:
            return Finding(key=key, action="removed", detail=f"it is gone; {BY_RUN}")
        return Finding(key=key, action="refused", detail=f"{error}; {_HINTS.get(ref.kind, _REFIT)}")

    def _mend_part(self, bad: Bad) -> Finding:
        try:
            made_of = self._remake(bad)
        except Permanent as error:
            hint = _HINTS.get(bad.owner.kind, _REFIT)
            return Finding(key=bad.part.key, action="refused", detail=f"{bad.damage}; {error}; {hint}")
        return Finding(key=bad.part.key, action="repaired", detail=f"{bad.damage}; made again from {made_of}")

    def _remake(self, bad: Bad) -> str:
        if isinstance(bad.owner, Catalog):
            return remake_catalog_part(self._store, self._release, bad.part, self._source)
        if isinstance(bad.owner, IndexSet):
            return remake_shard(self._held, self._release, bad.owner, bad.part.key.rsplit("/", 1)[0])
        raise ShardCorrupt(f"no {bad.owner.kind.lower()} can be made again the same")

    def _mend_template(self, index: IndexSet) -> Iterator[Finding]:
        """What the index's shards start from is one of them without its rows."""
        if key := remake_template(self._store, index):
            detail = "it was not what the shards were made from; taken from one of them"
            yield Finding(key=key, action="repaired", detail=detail)

    def _mend_sets(self) -> Iterator[Finding]:
        """The views of this release's catalogue, sources before what is made of them; then parts that no view lists."""
        views: list[GrowingSet] = []  # that can be read
        for key in self._held.all_views():
            try:
                view = self._held.open(key)
            except (NotFound, ShardCorrupt) as error:
                yield self._drop_manifest(key, str(error))
                continue
            if isinstance(view, GrowingSet):
                views.append(view)
        own = [view for view in views if view.parents.get("catalog") == self._release.catalog.name]
        for view in sorted(own, key=lambda view: ("vectors" in view.parents, "head" not in view.parents)):
            for bad in damaged_parts(self._store, view):
                yield self._mend_member(view, bad, views)
        listed = {part.key for view in views for part in view.parts}
        for key in self._held.all_parts():
            if key not in listed:
                yield from self._drop_unreadable(key)

    def _mend_member(self, view: GrowingSet, bad: Bad, views: list[GrowingSet]) -> Finding:
        """Made again where it was made of other vectors; else removed, with every view that lists it."""
        listing = [(other, part) for other in views for part in other.parts if part.key == bad.part.key]
        if any(_is_whole(self._store, part) for _, part in listing):
            return self._drop_manifest(view.key, f"other manifests know {bad.part.key} as it is, this one does not")
        try:
            if not isinstance(view, VectorSet):
                raise NotFound("it is made of pictures")
            made_of = remake_derived_part(self._held, self._release, view, bad.part)
        except Permanent as error:
            for other, _ in listing:
                self._store.delete(f"{other.key}/{MANIFEST}")
            self._store.delete(bad.part.key)
            return Finding(key=bad.part.key, action="removed", detail=f"{bad.damage}; {error}; {BY_RUN}")
        return Finding(key=bad.part.key, action="repaired", detail=f"{bad.damage}; made again from {made_of}")

    def _drop_manifest(self, key: str, why: str) -> Finding:
        self._store.delete(f"{key}/{MANIFEST}")
        self._gone.add(key)
        return Finding(key=f"{key}/{MANIFEST}", action="removed", detail=f"{why}; {BY_RUN}")

    def _drop_unreadable(self, key: str) -> Iterator[Finding]:
        try:
            read_ids(self._store.local_path(key))
        except ShardCorrupt:
            self._store.delete(key)
            yield Finding(key=key, action="removed", detail=f"it cannot be read; {BY_RUN}")
        except NotFound:
            return


def damaged_parts(store: Store, artifact: Artifact) -> Iterator[Bad]:
    """The parts that are not what was sealed; each is looked at when asked for, as another repair may have made it."""
    for part in artifact.parts:
        try:
            store.local_path(part.key)  # what the store has now, whatever a local copy holds
            store.local_path(part.key, part.sha256)
        except NotFound:
            yield Bad(artifact, part, "the file is missing")
        except ShardCorrupt:
            yield Bad(artifact, part, "the file is not what was sealed")


def _is_whole(store: Store, part: Part) -> bool:
    try:
        store.local_path(part.key, part.sha256)
    except (NotFound, ShardCorrupt):
        return False
    return True
