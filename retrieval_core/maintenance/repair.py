"""Make again what is damaged, from what is whole; name what cannot be made again.

Nothing is put in place that is not, byte for byte, what was sealed. A part of a growing set that cannot be made here is
removed with the views that list it, so that the next run makes it; a search reads none of those. Fitted models stay,
damaged or not: another one of the same name would not fit what was made with them. Where production cannot be served,
it goes back to the last release of its history that can. While a run goes on nothing is done at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS
from retrieval_core.artifacts.manifests import MANIFEST, Artifact, Backbone, Catalog, IndexSet, Ref, Release, Value
from retrieval_core.artifacts.parts import read_table, read_unsealed, table_bytes
from retrieval_core.artifacts.releases import LATEST, PRODUCTION, Alias
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.index.build import VECTORS_FILE
from retrieval_core.maintenance.inventory import Holdings, searched_refs
from retrieval_core.maintenance.repair_release import BY_RUN, Finding, Mender, damaged_parts
from retrieval_core.store import leases
from retrieval_core.store.base import Store


class Repair(Value):
    """`ok` where nothing had to be refused. What was removed is made by the next run."""

    ok: bool
    findings: tuple[Finding, ...]


def repair(store: Store, source: str | None = None) -> Repair:
    """Look through what aliases name, and what the next run builds on; `source` is KIND:URI.

    Raises `NotFound` where nothing was ever published, `StoreBusy` while a run or a vacuum goes on.
    """
    if not any(store.exists(_alias_key(name)) for name in (PRODUCTION, LATEST)):
        raise NotFound(f"nothing is published in {store.url}; `vitrine run` makes the first release")
    with leases.exclusive_lease(store, "a repair"):
        findings = tuple(dict.fromkeys(_mend(store, source)))
    return Repair(ok=all(found.action != "refused" for found in findings), findings=findings)


def _mend(store: Store, source: str | None) -> Iterator[Finding]:
    named = [releases.get_release(store, name) for name in _readable_releases(store)]
    for release in named:
        yield from Mender(store, release, source).mend()
    yield from _look_at_trained(store)
    yield from _mend_production(store)
    yield from _mend_latest(store)
    yield from _mend_last_seen(store)


def _look_at_trained(store: Store) -> Iterator[Finding]:
    """The backbones that names point at."""
    for name in (key.split("/", 1)[1] for key in store.list("aliases/") if "@" in key):
        try:
            alias = releases.read_alias(store, name)
            backbone = Backbone.find(store, alias.release) if alias else None
            if backbone is None:
                raise NotFound("it means no backbone")
        except (NotFound, ShardCorrupt) as error:
            detail = f"{error}; train it again under this name, or put it back from a copy"
            yield Finding(key=_alias_key(name), action="refused", detail=detail)
            continue
        for bad in damaged_parts(store, backbone):
            detail = f"{bad.damage}, of {name}; put it back from a copy, or train it again with another seed"
            yield Finding(key=bad.part.key, action="refused", detail=detail)


# Aliases


def _alias_key(name: str) -> str:
    return f"aliases/{name}"


def _alias(store: Store, name: str) -> Alias | None:
    """The alias, None where it was never set or cannot be read."""
    try:
        return releases.read_alias(store, name)
    except ShardCorrupt:
        return None


def _readable_releases(store: Store) -> list[str]:
    """The releases that production and the last run's alias point at."""
    aliases = [alias for name in (PRODUCTION, LATEST) if (alias := _alias(store, name))]
    names = dict.fromkeys(alias.release for alias in aliases)
    held = Holdings(store)
    return [name for name in names if not _why_not_whole(held, [Ref(kind="Release", key=f"{Release.folder}/{name}")])]


def _why_not_served(held: Holdings, name: str) -> str:
    """What keeps a release from being searched, "" where nothing does."""
    ref = Ref(kind="Release", key=f"{Release.folder}/{name}")
    why = _why_not_whole(held, [ref])
    release = None if why else held.open(ref.key)
    return _why_not_whole(held, searched_refs(release)) if isinstance(release, Release) else why


def _why_not_whole(held: Holdings, refs: list[Ref]) -> str:
    try:
        bad = next((bad for ref in refs for bad in damaged_parts(held.store, held.open(ref.key))), None)
    except (NotFound, ShardCorrupt) as error:
        return str(error)
    return f"{bad.part.key}: {bad.damage}" if bad else ""


def _mend_production(store: Store) -> Iterator[Finding]:
    """Production serves, if anything can."""
    key, held = _alias_key(PRODUCTION), Holdings(store)
    try:
        alias = releases.read_alias(store, PRODUCTION)
    except ShardCorrupt as error:
        detail = f"{error}; delete this file, then `vitrine promote` one of the releases that `vitrine status` lists"
        yield Finding(key=key, action="refused", detail=detail)
        return
    if alias is None or not (why := _why_not_served(held, alias.release)):
        return
    past = next((past for past in reversed(alias.history) if not _why_not_served(held, past)), None)
    if past is None:
        yield Finding(key=key, action="refused", detail=f"{why}; and no earlier release can be served either")
        return
    releases.roll_back_to(store, past, alias.release)
    detail = f"{why}; production is {past} again, until a run publishes what it makes"
    yield Finding(key=key, action="moved", detail=detail)
    yield from _drop_damaged(held, alias.release)


def _drop_damaged(held: Holdings, name: str) -> Iterator[Finding]:
    """Remove what is damaged of the catalogue and index of a release that serves no longer: else the next run would
    find them, and build on them."""
    try:
        release = held.open(f"{Release.folder}/{name}")
        refs = (release.catalog, release.index) if isinstance(release, Release) else ()
        owners = [held.open(ref.key) for ref in refs]
    except (NotFound, ShardCorrupt):
        return
    for owner in owners:
        damaged = list(damaged_parts(held.store, owner))
        if damaged:
            held.store.delete(f"{owner.key}/{MANIFEST}")
        for bad in damaged:
            for key in _goes_with(owner, bad.part.key):
                held.store.delete(key)
            yield Finding(key=bad.part.key, action="removed", detail=f"{bad.damage}; {BY_RUN}")


def _goes_with(owner: Artifact, key: str) -> list[str]:
    """The files to remove with a damaged one: all of its shard, beginning with the one that says that there is it."""
    if not isinstance(owner, IndexSet):
        return [key]
    folder = key.rsplit("/", 1)[0]
    files = [part.key for part in owner.parts if part.key.startswith(f"{folder}/")]
    return sorted(files, key=lambda file: not file.endswith(f"/{VECTORS_FILE}"))


def _mend_latest(store: Store) -> Iterator[Finding]:
    """The last run's release, and its catalogue, can be read: the next run begins with them."""
    if not store.exists(_alias_key(LATEST)):
        return
    held, alias = Holdings(store), _alias(store, LATEST)
    if alias and not _why_not_followed(held, alias.release):
        return
    production = _alias(store, PRODUCTION)
    past = (*(alias.history if alias else ()), *([production.release] if production else []))
    target = next((name for name in reversed(past) if not _why_not_followed(held, name)), None)
    key, why = _alias_key(LATEST), "the last run's release or its catalogue cannot be read"
    if target is None:
        detail = f"{why}, and no earlier one either; delete this file, and the next run compares with none"
        yield Finding(key=key, action="refused", detail=detail)
        return
    if alias is None:
        store.delete(key)
    releases.point_alias(store, LATEST, target)
    yield Finding(key=key, action="moved", detail=f"{why}; it is now {target}")


def _why_not_followed(held: Holdings, name: str) -> str:
    ref = Ref(kind="Release", key=f"{Release.folder}/{name}")
    why = _why_not_whole(held, [ref])
    release = None if why else held.open(ref.key)
    return _why_not_whole(held, [release.catalog]) if isinstance(release, Release) else why


# What was last seen


def _mend_last_seen(store: Store) -> Iterator[Finding]:
    """What was last seen of the source is that of the last release, where it cannot be read."""
    release = next((releases.get_release(store, name) for name in reversed(_readable_releases(store))), None)
    for key in (SEEN_ITEMS, LEDGER):
        try:
            read_unsealed(store, key)
        except NotFound:
            continue
        except ShardCorrupt:
            yield _bring_back(store, key, release)


def _bring_back(store: Store, key: str, release: Release | None) -> Finding:
    try:
        if release is None:
            raise NotFound("no release can be read")
        part = Catalog.open(store, release.catalog).part(key.rsplit("/", 1)[-1])
        store.put(key, table_bytes(read_table(store, part)))
    except (NotFound, ShardCorrupt):
        store.delete(key)
        return Finding(key=key, action="removed", detail="it cannot be read; the next run reads every picture again")
    return Finding(key=key, action="repaired", detail=f"it could not be read; it is what {part.key} says")
