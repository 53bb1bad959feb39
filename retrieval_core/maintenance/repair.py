"""Rebuild what is damaged from what is intact, and name what cannot be rebuilt.

Only bytes equal to the sealed ones are put in place. A part of a growing set that cannot be rebuilt here is removed
with the views that list it, so that the next run makes it again; no search reads those. Fitted models stay, even
damaged: another one of the same name would not fit what was made with them. If production cannot be served, it goes
back to the latest release of its history that can. Nothing is done while a run is active.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER, PIECES, QUARANTINE_FILE, SEEN_ITEMS, read_with_fields
from retrieval_core.artifacts.manifests import MANIFEST, Artifact, Backbone, Catalog, IndexSet, Release, Value
from retrieval_core.artifacts.parts import read_table, read_unsealed, table_bytes
from retrieval_core.artifacts.releases import LATEST, PRODUCTION, Alias, alias_key
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.index.shard_files import VECTORS_FILE
from retrieval_core.maintenance.damage import damage_to, damage_to_search, damaged_parts
from retrieval_core.maintenance.inventory import FITTED, Inventory, release_key, release_refs
from retrieval_core.maintenance.repair_release import BY_RUN, Finding, repair_release
from retrieval_core.maintenance.verify_objects import checks_itself, read_self_checking
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.format import require_current


class Repair(Value):
    """The findings of a repair; `ok` unless one was refused. The next run rebuilds what was removed."""

    ok: bool
    findings: tuple[Finding, ...]


def repair(store: Store, source: str | None = None) -> Repair:
    """Repair what aliases point at, what the next run builds on, and every other release; `source` is KIND:URI.

    Raises `NotFound` if nothing was ever published, `StoreBusy` while a run or a vacuum is active, `TooNew` or
    `NeedsMigration` for a store of another format.
    """
    require_current(store, mark=False)
    if not any(store.exists(alias_key(name)) for name in (PRODUCTION, LATEST)):
        raise NotFound(f"nothing is published in {store.url}; `vitrine run` publishes the first release")
    with leases.exclusive_lease(store, "a repair"):
        findings = tuple(dict.fromkeys(_repair_all(store, source)))
    return Repair(ok=all(finding.action != "refused" for finding in findings), findings=findings)


def _repair_all(store: Store, source: str | None) -> Iterator[Finding]:
    current = _readable_releases(store)
    for name in current:
        yield from repair_release(store, releases.get_release(store, name), source)
    yield from _check_named_backbones(store)
    yield from _repair_production(store)
    yield from _repair_latest(store)
    yield from _repair_last_seen(store)
    yield from _remove_unreadable_manifests(store)
    for name in sorted(set(releases.release_names(store)) - set(current)):
        found = repair_release(store, releases.get_release(store, name), source)
        yield from (finding for finding in found if finding.action != "refused")
    yield from _remove_damaged_leftovers(store)


def _not_in_use(store: Store, inventory: Inventory) -> list[str]:
    """Return the folders of the artifacts that no release of an alias needs, and that are no named backbone."""
    current = [inventory.release(name) for name in _readable_releases(store)]
    in_use = {ref.key for release in current for ref in (release.ref, *release_refs(release))}
    named = [_readable_alias(store, name) for name in releases.alias_names(store) if releases.is_backbone_alias(name)]
    in_use |= {f"{Backbone.folder}/{alias.release}" for alias in named if alias}
    return sorted(set(inventory.artifact_keys()) - in_use)


def _remove_unreadable_manifests(store: Store) -> Iterator[Finding]:
    """Remove unreadable manifests of what runs make again; those of models are named.

    Otherwise a run that would make the same thing fails, and no vacuum removes anything.
    """
    inventory = Inventory(store)
    for key in _not_in_use(store, inventory):
        try:
            inventory.open(key)
        except ShardCorrupt as error:
            manifest = f"{key}/{MANIFEST}"
            if key.split("/")[0] in {kind.folder for kind in FITTED}:
                yield Finding(key=manifest, action="refused", detail=f"{error}; restore it from a backup")
                continue
            store.delete(manifest)
            yield Finding(key=manifest, action="removed", detail=f"{error}; a run that needs it makes it again")


def _remove_damaged_leftovers(store: Store) -> Iterator[Finding]:
    """Remove what is still damaged of artifacts that are not in use, so that a run that needs them makes them again.

    A trained backbone stays: it cannot be made again within a night.
    """
    inventory = Inventory(store)
    for key in _not_in_use(store, inventory):
        with suppress(NotFound, ShardCorrupt):
            owner = inventory.open(key)
            if isinstance(owner, Backbone) and owner.objective:
                found = [damaged.part.key for damaged in damaged_parts(store, owner)]
                yield from (Finding(key=part, action="refused", detail="restore it from a backup") for part in found)
            else:
                yield from _remove_damaged_parts(store, owner)
    pieces = {key for key in inventory.entries if key.startswith(PIECES)} - _listed_pieces(inventory)
    # Plans, templates that no shard could restore, and items of catalogues that were never sealed.
    for key in [*filter(checks_itself, inventory.entries), *sorted(pieces)]:
        try:
            read_self_checking(store, key)
        except ShardCorrupt as error:
            store.delete(key)
            yield Finding(key=key, action="removed", detail=f"{error}; {BY_RUN}")
        except NotFound:
            continue


def _listed_pieces(inventory: Inventory) -> set[str]:
    """Return the keys of the parts that a readable catalogue lists."""
    listed: set[str] = set()
    for key in inventory.artifact_keys():
        if key.startswith(f"{Catalog.folder}/"):
            with suppress(ShardCorrupt):
                listed.update(part.key for part in inventory.open(key).parts)
    return listed


def _check_named_backbones(store: Store) -> Iterator[Finding]:
    for name in (name for name in releases.alias_names(store) if releases.is_backbone_alias(name)):
        try:
            alias = releases.read_alias(store, name)
            backbone = Backbone.find(store, alias.release) if alias else None
            if backbone is None:
                raise NotFound("the backbone it names is absent")
        except (NotFound, ShardCorrupt) as error:
            detail = f"{error}; train it again under this name, or restore it from a backup"
            yield Finding(key=alias_key(name), action="refused", detail=detail)
            continue
        for damaged in damaged_parts(store, backbone):
            detail = f"{damaged.damage}, of {name}; restore it from a backup, or train it again with another seed"
            yield Finding(key=damaged.part.key, action="refused", detail=detail)


# Aliases


def _readable_alias(store: Store, name: str) -> Alias | None:
    """Return the alias; None if it was never set or cannot be read."""
    try:
        return releases.read_alias(store, name)
    except ShardCorrupt:
        return None


def _readable_releases(store: Store) -> list[str]:
    """Return the releases of the aliases `production` and `latest` whose manifests can be read."""
    aliases = [alias for name in (PRODUCTION, LATEST) if (alias := _readable_alias(store, name))]
    names = dict.fromkeys(alias.release for alias in aliases)
    return [name for name in names if not damage_to(store, release_key(name))]


def _damage_to_search(inventory: Inventory, name: str) -> str:
    """Return what keeps a release from being searched, "" if nothing does."""
    return damage_to(inventory.store, release_key(name)) or damage_to_search(inventory.store, inventory.release(name))


def _damage_to_next_run(inventory: Inventory, name: str) -> str:
    """Return what keeps the next run from starting with a release and its catalogue, "" if nothing does."""
    return damage_to(inventory.store, release_key(name)) or damage_to(
        inventory.store, inventory.release(name).catalog.key
    )


def _repair_production(store: Store) -> Iterator[Finding]:
    """Point production at a release that can be searched, if there is one."""
    key, inventory = alias_key(PRODUCTION), Inventory(store)
    try:
        alias = releases.read_alias(store, PRODUCTION)
    except ShardCorrupt as error:
        detail = f"{error}; delete this file, then `vitrine promote` one of the releases that `vitrine status` lists"
        yield Finding(key=key, action="refused", detail=detail)
        return
    if alias is None or not (why := _damage_to_search(inventory, alias.release)):
        return
    target = next((past for past in reversed(alias.history) if not _damage_to_search(inventory, past)), None)
    if target is None:
        yield Finding(key=key, action="refused", detail=f"{why}; and no earlier release can be served either")
        return
    releases.roll_back_to(store, target, alias.release)
    detail = f"{why}; production is back at {target} until a run publishes another release"
    yield Finding(key=key, action="moved", detail=detail)
    yield from _remove_damaged(inventory, alias.release)


def _remove_damaged(inventory: Inventory, name: str) -> Iterator[Finding]:
    """Remove what is damaged of a release that no longer serves, its catalogue and its index.

    Otherwise the next run would find them and build on them.
    """
    keys, store = [release_key(name)], inventory.store
    with suppress(NotFound, ShardCorrupt):
        release = inventory.release(name)
        keys = [release.catalog.key, release.index.key]
    for key in keys:
        try:
            owner = inventory.open(key)
        except NotFound:
            continue
        except ShardCorrupt as error:
            store.delete(f"{key}/{MANIFEST}")
            yield Finding(key=f"{key}/{MANIFEST}", action="removed", detail=f"{error}; {BY_RUN}")
            continue
        yield from _remove_damaged_parts(store, owner)


def _remove_damaged_parts(store: Store, owner: Artifact) -> Iterator[Finding]:
    """Remove the damaged parts of an artifact, and first its manifest if there are any."""
    parts = list(damaged_parts(store, owner))
    if parts:
        store.delete(f"{owner.key}/{MANIFEST}")
    for damaged in parts:
        for part in _keys_to_remove(owner, damaged.part.key):
            store.delete(part)
        yield Finding(key=damaged.part.key, action="removed", detail=f"{damaged.damage}; {BY_RUN}")


def _keys_to_remove(owner: Artifact, key: str) -> list[str]:
    """Return the files to remove with a damaged one: all of its shard, first the one that says that it exists."""
    if not isinstance(owner, IndexSet):
        return [key]
    folder = key.rsplit("/", 1)[0]
    files = [part.key for part in owner.parts if part.key.startswith(f"{folder}/")]
    return sorted(files, key=lambda file: not file.endswith(f"/{VECTORS_FILE}"))


def _repair_latest(store: Store) -> Iterator[Finding]:
    """Point `latest` at a release whose catalogue can be read, as the next run starts with it."""
    key = alias_key(LATEST)
    if not store.exists(key):
        return
    inventory, alias = Inventory(store), _readable_alias(store, LATEST)
    if alias and not _damage_to_next_run(inventory, alias.release):
        return
    production = _readable_alias(store, PRODUCTION)
    past = (*(alias.history if alias else ()), *([production.release] if production else []))
    target = next((name for name in reversed(past) if not _damage_to_next_run(inventory, name)), None)
    why = "the last run's release or its catalogue cannot be read"
    if target is None:
        detail = f"{why}, nor can an earlier one; delete this file, and the next run compares with none"
        yield Finding(key=key, action="refused", detail=detail)
        return
    if alias is None:
        store.delete(key)
    releases.point_alias(store, LATEST, target)
    yield Finding(key=key, action="moved", detail=f"{why}; it is now {target}")


# The tables of what was last seen of the source


def _repair_last_seen(store: Store) -> Iterator[Finding]:
    """Replace an unreadable table of what was last seen of the source by that of the latest readable release."""
    release = next((releases.get_release(store, name) for name in reversed(_readable_releases(store))), None)
    for key in (SEEN_ITEMS, LEDGER):
        try:
            read_unsealed(store, key)
        except NotFound:
            continue
        except ShardCorrupt:
            yield _restore_last_seen(store, key, release)


def _restore_last_seen(store: Store, key: str, release: Release | None) -> Finding:
    try:
        if release is None:
            raise NotFound("no release can be read")
        catalog = Catalog.open(store, release.catalog)
        if key == SEEN_ITEMS:
            table = read_with_fields(store, catalog, release.fields)
        else:
            table = read_table(store, catalog.part(QUARANTINE_FILE))
        store.put(key, table_bytes(table))
    except (NotFound, ShardCorrupt):
        store.delete(key)
        return Finding(key=key, action="removed", detail="it cannot be read; the next run reads every picture again")
    return Finding(key=key, action="repaired", detail=f"it could not be read; it was restored from {catalog.key}")
