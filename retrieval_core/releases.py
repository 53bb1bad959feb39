"""Releases and the aliases that point at them: promote, roll back, list.

An alias is the one mutable thing a searcher reads. It is moved by compare-and-swap and by nothing else, and it
remembers where it pointed, so that a rollback needs no guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from retrieval_core.artifacts import MANIFEST, Ref, Release, Value
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, ShardCorrupt
from retrieval_core.store import Store

PRODUCTION = "production"  # what searches use
LATEST = "latest"  # the last run's release, published or held
MAX_TRIES = 20
HISTORY_LENGTH = 100


class Alias(Value):
    """Where an alias points, and where it pointed before, the latest last.

    `withdrawn` was rolled back since: nobody but a person promotes it again.
    """

    release: str
    history: tuple[str, ...] = ()
    withdrawn: str = ""

    def moved_to(self, release: str) -> Alias:
        return self if release == self.release else Alias(release=release, history=(*self.history, self.release))


def read_alias(store: Store, name: str) -> Alias | None:
    """The alias, or None where it was never set. Raises `ShardCorrupt`."""
    data = _alias_bytes(store, name)
    return _parse(name, data) if data is not None else None


def read_release(store: Store, alias: str) -> Release | None:
    """The release an alias points at; None where the alias was never set. Raises `NotFound` where it dangles."""
    found = read_alias(store, alias)
    return get_release(store, found.release) if found else None


def read_reference(store: Store) -> Release | None:
    """The release whose models a night may keep: production, or the last one where nothing is published."""
    return read_release(store, PRODUCTION) or read_release(store, LATEST)


def get_release(store: Store, name: str) -> Release:
    """A release by its fingerprint or the unique start of it. Raises `NotFound`, `BadConfig` when ambiguous."""
    release = Release.find(store, name)
    if release is not None:
        return release
    matches = [known for known in release_names(store) if name and known.startswith(name)]
    if len(matches) > 1:
        raise BadConfig(f"release {name!r} is ambiguous: {', '.join(matches)}")
    if not matches:
        raise NotFound(f"no release {name!r} in {store.url}; `vitrine status` lists them")
    return Release.open(store, Ref(kind="Release", key=f"{Release.folder}/{matches[0]}"))


def release_names(store: Store) -> list[str]:
    """Fingerprints of every sealed release."""
    keys = store.list(f"{Release.folder}/")
    return [key.split("/")[1] for key in keys if key.endswith(f"/{MANIFEST}")]


def list_releases(store: Store) -> list[Release]:
    """Every sealed release, oldest first."""
    releases = [get_release(store, name) for name in release_names(store)]
    return sorted(releases, key=lambda release: (release.created, release.fingerprint))


def point_alias(store: Store, name: str, release: str) -> Alias:
    """Point an alias at a release, whatever it pointed at. Raises `AliasConflict` under endless contention."""
    return _move(store, name, lambda now: now.moved_to(release) if now else Alias(release=release))


def promote(store: Store, release: str, expected: str | None) -> Alias:
    """Make a release production if production still is `expected`.

    Raises `AliasConflict` when somebody else published meanwhile, and `NotFound` when there is no such release.
    """
    name = get_release(store, release).fingerprint

    def move(now: Alias | None) -> Alias:
        seen = now.release if now else None
        if seen not in (expected, name):
            raise AliasConflict(
                f"production moved from {expected} to {seen} meanwhile; run again to compare against it"
            )
        return now.moved_to(name) if now else Alias(release=name)

    return _move(store, PRODUCTION, move)


def rollback(store: Store) -> Alias:
    """Point production at the release before. Raises `NotFound` when there is none."""

    def back(now: Alias | None) -> Alias:
        if now is None or not now.history:
            raise NotFound("production has no earlier release to roll back to")
        return Alias(release=now.history[-1], history=now.history[:-1], withdrawn=now.release)

    return _move(store, PRODUCTION, back)


def _move(store: Store, name: str, step: Callable[[Alias | None], Alias]) -> Alias:
    for _ in range(MAX_TRIES):
        seen = _alias_bytes(store, name)
        wanted = step(_parse(name, seen) if seen is not None else None)
        wanted = wanted.model_copy(update={"history": wanted.history[-HISTORY_LENGTH:]})
        data = json.dumps(wanted.model_dump(), sort_keys=True).encode()
        if data == seen or store.compare_and_swap(_key(name), data, seen):
            return wanted
    raise AliasConflict(f"alias {name} kept moving during {MAX_TRIES} tries; nothing was changed")


def _key(name: str) -> str:
    return f"aliases/{name}"


def _alias_bytes(store: Store, name: str) -> bytes | None:
    try:
        return store.get(_key(name))
    except NotFound:
        return None


def _parse(name: str, data: bytes) -> Alias:
    try:
        return Alias.model_validate_json(data)
    except ValueError as error:
        raise ShardCorrupt(f"alias {name} cannot be read: {error}") from error
