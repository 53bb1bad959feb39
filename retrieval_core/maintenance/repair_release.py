"""Repair one release: a damaged part is rebuilt to the byte, removed for the next run to rebuild, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from retrieval_core.artifacts.catalog_rows import FieldSet
from retrieval_core.artifacts.growing_sets import named_sha256
from retrieval_core.artifacts.manifests import MANIFEST, Catalog, GrowingSet, IndexSet, Ref, Release, Value, VectorSet
from retrieval_core.artifacts.parts import is_stored, read_ids
from retrieval_core.errors import NotFound, Permanent, ShardCorrupt
from retrieval_core.maintenance.damage import DamagedPart, damaged_parts
from retrieval_core.maintenance.inventory import Inventory, release_refs
from retrieval_core.maintenance.rebuild_parts import (
    rebuild_catalog_part,
    rebuild_derived_part,
    rebuild_shard,
    restore_template,
)
from retrieval_core.store.base import Store

Action = Literal["repaired", "removed", "moved", "refused"]

BY_RUN = "the next `vitrine run` rebuilds it"
_REFIT = "restore it from a backup; or run with another seed or other weights, which fits another one"
_HINTS: dict[str, str] = {
    "Report": "searches do not read it, and the next run compares with what the release finds again",
    "FieldSet": "give --source; else run again",
    "Catalog": "give --source; else `vitrine rollback`, then run again",
    "IndexSet": "let a run rebuild the vectors and repair again, or `vitrine rollback`",
}


class Finding(Value):
    """One damaged object and what was done about it; `detail` says what was wrong and what to do."""

    key: str
    action: Action
    detail: str


def repair_release(store: Store, release: Release, source: str | None) -> Iterator[Finding]:
    """Repair a release and the views of its catalogue; `source` (KIND:URI) may be read for a damaged catalogue.

    Findings come in the order in which one repair needs another.
    """
    return _ReleaseRepair(store, release, source).run()


class _ReleaseRepair:
    def __init__(self, store: Store, release: Release, source: str | None) -> None:
        self._store, self._release, self._source = store, release, source
        self._inventory = Inventory(store)
        self._dropped: set[str] = set()  # folders whose manifests were removed

    def run(self) -> Iterator[Finding]:
        yield from self._repair_sets()
        refs = {ref.key: ref for ref in release_refs(self._release)}
        for ref in (ref for key, ref in refs.items() if key not in self._dropped):
            try:
                artifact = self._inventory.open(ref.key)
            except (NotFound, ShardCorrupt) as error:
                yield self._without_manifest(ref, error)
                continue
            if isinstance(artifact, IndexSet):
                yield from self._repair_template(artifact)
            if not isinstance(artifact, GrowingSet):
                yield from (self._repair_part(damaged) for damaged in damaged_parts(self._store, artifact))

    def _without_manifest(self, ref: Ref, error: Permanent) -> Finding:
        key = f"{ref.key}/{MANIFEST}"
        if ref.kind.endswith("Set") and ref.kind != IndexSet.__name__:
            return Finding(key=key, action="removed", detail=f"it is absent; {BY_RUN}")
        return Finding(key=key, action="refused", detail=f"{error}; {_HINTS.get(ref.kind, _REFIT)}")

    def _repair_part(self, damaged: DamagedPart) -> Finding:
        key, damage = damaged.part.key, damaged.damage
        try:
            source = self._rebuild(damaged)
        except Permanent as error:
            hint = _HINTS.get(damaged.owner.kind, _REFIT)
            return Finding(key=key, action="refused", detail=f"{damage}; {error}; {hint}")
        return Finding(key=key, action="repaired", detail=f"{damage}; rebuilt from {source}")

    def _rebuild(self, damaged: DamagedPart) -> str:
        if isinstance(damaged.owner, Catalog | FieldSet):
            return rebuild_catalog_part(self._store, self._release, damaged.part, self._source)
        if isinstance(damaged.owner, IndexSet):
            folder = damaged.part.key.rsplit("/", 1)[0]
            return rebuild_shard(self._inventory, self._release, damaged.owner, folder)
        raise ShardCorrupt(f"a {damaged.owner.kind.lower()} cannot be rebuilt to the same bytes")

    def _repair_template(self, index: IndexSet) -> Iterator[Finding]:
        if key := restore_template(self._store, index):
            detail = "it was not what the shards started from; it was taken from one of them"
            yield Finding(key=key, action="repaired", detail=detail)

    def _repair_sets(self) -> Iterator[Finding]:
        """Repair the views of the release's catalogue, sources before what derives from them; then unlisted parts."""
        views: list[GrowingSet] = []  # that can be read
        for key in self._inventory.all_views():
            try:
                view = self._inventory.open(key)
            except (NotFound, ShardCorrupt) as error:
                yield self._drop_manifest(key, str(error))
                continue
            if isinstance(view, GrowingSet):
                views.append(view)
        of_catalog = [view for view in views if view.parents.get("catalog") == self._release.catalog.name]
        for view in sorted(of_catalog, key=lambda view: ("vectors" in view.parents, "head" not in view.parents)):
            for damaged in damaged_parts(self._store, view):
                yield self._repair_set_part(view, damaged, views)
        listed = {part.key for view in views for part in view.parts}
        for key in self._inventory.all_parts():
            if key not in listed:
                yield from self._drop_unreadable(key)

    def _repair_set_part(self, view: GrowingSet, damaged: DamagedPart, views: list[GrowingSet]) -> Finding:
        """Rebuild a part that derives from other vectors; else remove it, with every view that lists it."""
        key, damage = damaged.part.key, damaged.damage
        listing = [(other, part) for other in views for part in other.parts if part.key == key]
        if any(is_stored(self._store, part) for _, part in listing):
            return self._drop_manifest(view.key, f"other manifests list {key} with its checksum, this one does not")
        try:
            if not isinstance(view, VectorSet):
                raise NotFound("it is made of pictures")
            source = rebuild_derived_part(self._inventory, self._release, view, damaged.part)
        except Permanent as error:
            for other, _ in listing:
                self._store.delete(f"{other.key}/{MANIFEST}")
            self._store.delete(key)
            return Finding(key=key, action="removed", detail=f"{damage}; {error}; {BY_RUN}")
        return Finding(key=key, action="repaired", detail=f"{damage}; rebuilt from {source}")

    def _drop_manifest(self, key: str, why: str) -> Finding:
        self._store.delete(f"{key}/{MANIFEST}")
        self._dropped.add(key)
        return Finding(key=f"{key}/{MANIFEST}", action="removed", detail=f"{why}; {BY_RUN}")

    def _drop_unreadable(self, key: str) -> Iterator[Finding]:
        try:
            path = self._store.local_path(key, named_sha256(key))
            if not key.endswith(".tar"):
                read_ids(path)
        except ShardCorrupt:
            self._store.delete(key)
            yield Finding(key=key, action="removed", detail=f"it cannot be read; {BY_RUN}")
        except NotFound:
            return
