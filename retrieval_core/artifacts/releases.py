"""Releases and the aliases that point at them: promote, roll back, list.

An alias is the one mutable thing a searcher reads. It is moved by compare-and-swap and by nothing else, and it
remembers where it pointed, so that a rollback needs no guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator

from retrieval_core.artifacts.manifests import (
    MANIFEST,
    Ref,
    Release,
    Value,
)
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, ShardCorrupt
from retrieval_core.store.base import Store

RUNS = "runs"
_ALIASES = "aliases/"

PRODUCTION = "production"  # what searches use
LATEST = "latest"  # the last run's release, published or held
NO_BASELINE = "none"
MAX_TRIES = 20
HISTORY_LENGTH = 100


class Promotion(Value):
    """A person's word that a release be production: whose, when (ISO 8601) and why.

    `overruled` are the causes the gate had held it for; none of a release that merely waited for that word.
    """

    release: str
    by: str
    at: str
    why: str = ""
    overruled: tuple[str, ...] = ()

    def as_sentence(self) -> str:
        """Who promoted it, when and why."""
        against = ", against the gate," if self.overruled else ""
        return f"Promoted by {self.by}{against} at {self.at}{': ' * bool(self.why)}{self.why.removesuffix('.')}."


class Alias(Value):
    """Where an alias points, and where it pointed before, the latest last.

    `withdrawn` was rolled back since: nobody but a person promotes it again. `promotions` are those by a person, the
    latest last; no move of the alias forgets them.
    """

    release: str
    history: tuple[str, ...] = ()
    withdrawn: str = ""
    promotions: tuple[Promotion, ...] = ()

    @property
    def said_by_hand(self) -> Promotion | None:
        """The last word of a person that made this very release production, if one did."""
        return next((said for said in reversed(self.promotions) if said.release == self.release), None)

    def moved_to(self, release: str) -> Alias:
        if release == self.release:
            return self
        history = (*self.history, self.release)
        return Alias(release=release, history=history, promotions=self.promotions)

    def moved_back(self, place: int, withdrawn: str = "") -> Alias:
        """To the release at this place of its history."""
        earlier = self.history[:place]
        return Alias(release=self.history[place], history=earlier, withdrawn=withdrawn, promotions=self.promotions)


def alias_key(name: str) -> str:
    """Return the store key of an alias."""
    return f"{_ALIASES}{name}"


def alias_names(store: Store) -> Iterator[str]:
    """Yield the names of all aliases: of releases (`production`) and of backbones (`NAME@production`)."""
    return (key.removeprefix(_ALIASES) for key in store.list(_ALIASES))


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

    return _move_to_release(store, name, move)


def promote_by_hand(store: Store, said: Promotion, anyway: bool = False) -> Alias:
    """Make a release production because a person says so, whatever is production now, and record what they said.

    `said.release` may be the unique start of a name; what was overruled is filled in. Nothing is recorded where that
    release is production already. Raises `BadConfig` where the gate held it for a cause unless it is to be done
    `anyway`, and then without a why; `NotFound` when there is no such release.
    """
    release = get_release(store, said.release)
    name, overruled = release.fingerprint, release.gate_causes if release.gate == "held" else ()
    why = " ".join(said.why.split())
    if overruled and not anyway:
        raise BadConfig(
            f"the gate keeps release {name[:12]} back. {release.gate_reason} "
            f"`vitrine promote {name[:12]} --anyway --why 'TEXT'` publishes it all the same"
        )
    if anyway and not why:
        raise BadConfig("--anyway goes with --why 'TEXT': the reason is kept beside the release")
    said = said.model_copy(update={"release": name, "why": why, "overruled": overruled})

    def move(now: Alias | None) -> Alias:
        if now and now.release == name:
            return now
        moved = now.moved_to(name) if now else Alias(release=name)
        return moved.model_copy(update={"promotions": (*moved.promotions, said)})

    return _move_to_release(store, name, move)


def _move_to_release(store: Store, name: str, step: Callable[[Alias | None], Alias]) -> Alias:
    before: Alias | None = None

    def move(now: Alias | None) -> Alias:
        nonlocal before
        before = now
        return step(now)

    moved = _move(store, PRODUCTION, move)
    if Release.find(store, name) is None:  # a vacuum that had not seen the alias move
        _move(store, PRODUCTION, lambda now: before if before and now == moved else now or moved)
        raise NotFound(f"release {name} was removed at this very moment; production stays where it was")
    return moved


def rollback(store: Store) -> Alias:
    """Point production at the release before. Raises `NotFound` when there is none."""

    def back(now: Alias | None) -> Alias:
        if now is None or not now.history:
            raise NotFound("production has no earlier release to roll back to")
        return now.moved_back(len(now.history) - 1, withdrawn=now.release)

    return _move(store, PRODUCTION, back)


def roll_back_to(store: Store, release: str, expected: str) -> Alias:
    """Point production back at a release of its history, if it still is `expected`; nothing is withdrawn by that.

    Raises `AliasConflict` when somebody moved it meanwhile, and `NotFound` for what is not in its history.
    """

    def back(now: Alias | None) -> Alias:
        if now is None or now.release != expected:
            raise AliasConflict(f"production is no longer {expected}; nothing was changed")
        if release not in now.history:
            raise NotFound(f"production never was {release}")
        place = len(now.history) - 1 - now.history[::-1].index(release)
        return now.moved_back(place)

    return _move(store, PRODUCTION, back)


def forget(store: Store, name: str, gone: Collection[str]) -> Alias:
    """Take releases out of an alias's history, so that no rollback leads to what is gone. Raises `NotFound`."""

    def without(now: Alias | None) -> Alias:
        if now is None:
            raise NotFound(f"no alias {name} in {store.url}")
        return now.model_copy(update={"history": tuple(past for past in now.history if past not in gone)})

    return _move(store, name, without)


def _move(store: Store, name: str, step: Callable[[Alias | None], Alias]) -> Alias:
    for _ in range(MAX_TRIES):
        seen = _alias_bytes(store, name)
        wanted = step(_parse(name, seen) if seen is not None else None)
        kept = {"history": wanted.history[-HISTORY_LENGTH:], "promotions": wanted.promotions[-HISTORY_LENGTH:]}
        wanted = wanted.model_copy(update=kept)
        data = json.dumps(wanted.model_dump(), sort_keys=True).encode()
        if data == seen or store.compare_and_swap(alias_key(name), data, seen):
            return wanted
    raise AliasConflict(f"alias {name} kept moving during {MAX_TRIES} tries; nothing was changed")


def _alias_bytes(store: Store, name: str) -> bytes | None:
    try:
        return store.get(alias_key(name))
    except NotFound:
        return None


def _parse(name: str, data: bytes) -> Alias:
    try:
        return Alias.model_validate_json(data)
    except ValueError as error:
        raise ShardCorrupt(f"alias {name} cannot be read: {error}") from error


def find_release(store: Store, name: str) -> Release:
    """Return a release by alias (production, latest), by fingerprint or by the unique start of one.

    Raises `NotFound`, `BadConfig`.
    """
    aliased = read_release(store, name) if name in (PRODUCTION, LATEST) else None
    return aliased or get_release(store, name)


def find_baseline(store: Store, release: Release, name: str) -> Release | None:
    """Return the release that `release` is compared with: the one of that name, or None for `none`.

    "" is production, or, where `release` is production itself, the one before it. Raises `NotFound`, `BadConfig`.
    """
    if name == NO_BASELINE:
        return None
    if name:
        return find_release(store, name)
    alias = read_alias(store, PRODUCTION)
    earlier = [*alias.history, alias.release] if alias else []
    others = [fingerprint for fingerprint in earlier if fingerprint != release.fingerprint]
    return get_release(store, others[-1]) if others else None
