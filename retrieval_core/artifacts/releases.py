"""Releases and the aliases that point at them: find, promote, roll back.

An alias is the only mutable object that a search reads. It moves only by compare-and-swap, and it keeps its history, so
that a rollback knows where to go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import MANIFEST, Backbone, Ref, Release, Value, fingerprint
from retrieval_core.artifacts.sealed import Sealed
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, ShardCorrupt
from retrieval_core.store.base import Store
from retrieval_core.store.format import require_current

RUNS = "runs"
_ALIASES = "aliases/"

PRODUCTION = "production"  # the release that searches use
LATEST = "latest"  # the release of the last run, published or held
NO_BASELINE = "none"
MAX_TRIES = 20
HISTORY_LENGTH = 100


class Promotion(Value):
    """The promotion of a release by a person: who, when (ISO 8601) and why.

    `overruled` are the causes for which the gate had held it, empty if it only waited to be promoted.
    """

    release: str
    by: str
    at: str
    why: str = ""
    overruled: tuple[str, ...] = ()

    @classmethod
    def now(cls, release: str, by: str, why: str) -> Self:
        """Return a promotion at this moment."""
        return cls(release=release, by=by, at=datetime.now(UTC).isoformat(timespec="seconds"), why=why)

    def as_sentence(self) -> str:
        """Say who promoted it, when and why."""
        against = ", against the gate," if self.overruled else ""
        return f"Promoted by {self.by}{against} at {self.at}{': ' * bool(self.why)}{self.why.removesuffix('.')}."


class Alias(Sealed):
    """The release that an alias points at, and its earlier ones, the latest last.

    `manifest` is the sha256 of the release's manifest, "" where the first format wrote the alias.
    `withdrawn` was rolled back, so that only a person promotes it again. `promotions` lists those by a person, the
    latest last, and survives every move of the alias.
    """

    release: str
    manifest: str = ""
    history: tuple[str, ...] = ()
    withdrawn: str = ""
    promotions: tuple[Promotion, ...] = ()

    @property
    def promoted_by_hand(self) -> Promotion | None:
        """The latest promotion of the current release by a person, if there was one."""
        return next((step for step in reversed(self.promotions) if step.release == self.release), None)

    def moved_to(self, release: str) -> Alias:
        if release == self.release:
            return self
        history = (*self.history, self.release)
        return Alias(release=release, history=history, promotions=self.promotions)

    def moved_back(self, position: int, withdrawn: str = "") -> Alias:
        """Point back at the release at this position of the history."""
        earlier = self.history[:position]
        return Alias(release=self.history[position], history=earlier, withdrawn=withdrawn, promotions=self.promotions)


def alias_key(name: str) -> str:
    """Return the store key of an alias."""
    return f"{_ALIASES}{name}"


def alias_names(store: Store) -> Iterator[str]:
    """Yield the names of all aliases: of releases (`production`) and of backbones (`NAME@production`)."""
    return (key.removeprefix(_ALIASES) for key in store.list(_ALIASES))


def read_alias(store: Store, name: str) -> Alias | None:
    """Read an alias, None where it was never set. Raises `ShardCorrupt`."""
    data = _alias_bytes(store, name)
    return _parse(name, data) if data is not None else None


def read_release(store: Store, alias: str) -> Release | None:
    """Read the release that an alias points at, None where it was never set.

    Raises `NotFound` where it is missing, `ShardCorrupt` where it is not the one that the alias was pointed at.
    """
    target = read_alias(store, alias)
    if target is None:
        return None
    release = get_release(store, target.release)
    if target.manifest not in ("", release.sha256):
        raise ShardCorrupt(
            f"alias {alias} was pointed at another manifest of release {release.fingerprint[:12]} than the one that is "
            "there now; `vitrine repair`"
        )
    return release


def read_reference(store: Store) -> Release | None:
    """Read the release whose models a run may reuse: production, or the latest where nothing is published."""
    return read_release(store, PRODUCTION) or read_release(store, LATEST)


def get_release(store: Store, name: str) -> Release:
    """Return a release by its fingerprint or the unique start of one. Raises `NotFound`, `BadConfig` if ambiguous."""
    release = Release.find(store, name)
    if release is not None:
        return release
    matches = [known for known in release_names(store) if name and known.startswith(name)]
    if len(matches) > 1:
        raise BadConfig(f"release {name!r} is ambiguous: {', '.join(matches)}")
    if not matches and name == PRODUCTION:
        raise NotFound(f"nothing is published in {store.url}; `vitrine run` publishes the first release")
    if not matches:
        raise NotFound(f"no release {name!r} in {store.url}; `vitrine status` lists them")
    return Release.open(store, Ref(kind="Release", key=f"{Release.folder}/{matches[0]}"))


def name_release(store: Store, question: dict[str, Any], bundle: Mapping[str, Ref | None]) -> str:
    """Return the fingerprint of the release of a config and of the artifacts that it names, by role.

    Where something that the sealed release of that name needs was lost and made again since, so that it cannot be
    opened any more, the name is another one.
    """
    refs = {role: ref for role, ref in bundle.items() if ref}
    name = fingerprint("release", STAGE_VERSIONS["publish"], question, [ref.name for ref in refs.values()])
    sealed = Release.find(store, name)
    if sealed is None or all(getattr(sealed, role) == ref for role, ref in refs.items()):
        return name
    return fingerprint("release", STAGE_VERSIONS["publish"], question, [ref.sha256 for ref in refs.values()])


def release_names(store: Store) -> list[str]:
    """Return the fingerprints of all sealed releases."""
    keys = store.list(f"{Release.folder}/")
    return [key.split("/")[1] for key in keys if key.endswith(f"/{MANIFEST}")]


def list_releases(store: Store) -> list[Release]:
    """Return all sealed releases, the oldest first."""
    releases = [get_release(store, name) for name in release_names(store)]
    return sorted(releases, key=lambda release: (release.created, release.fingerprint))


def run_keys(store: Store) -> list[str]:
    """Return the keys of the documents of all runs that ended, the latest last."""
    return [key for key in store.list(f"{RUNS}/") if key.count("/") == 1 and key.endswith(".json")]


def run_ended(key: str) -> str:
    """Return the ISO moment of `runs/2026-11-21T070449.123+0000.json`, with the colons that keys cannot have."""
    name = key.split("/")[1].removesuffix(".json")
    day, _, time = name.partition("T")
    return f"{day}T{time[:2]}:{time[2:4]}:{time[4:6]}+00:00" if len(time) >= 6 and time[:6].isdigit() else name


def point_alias(store: Store, name: str, release: str) -> Alias:
    """Point an alias at a release, wherever it pointed. Raises `AliasConflict` if others keep moving it."""
    return _move(store, name, lambda current: current.moved_to(release) if current else Alias(release=release))


def promote(store: Store, release: str, expected: str | None) -> Alias:
    """Make a release production if production is still `expected`.

    Raises `AliasConflict` where another release was published meanwhile, `NotFound` where the release does not exist.
    """
    name = get_release(store, release).fingerprint

    def move(current: Alias | None) -> Alias:
        seen = current.release if current else None
        if seen not in (expected, name):
            raise AliasConflict(
                f"production moved from {expected} to {seen} meanwhile; run again to compare against it"
            )
        return current.moved_to(name) if current else Alias(release=name)

    return _move_to_release(store, name, move)


def promote_by_hand(store: Store, promotion: Promotion, anyway: bool = False) -> Alias:
    """Make a release production for a person, whatever is production, and record who did it and why.

    `promotion.release` may be the unique start of a fingerprint; `overruled` is filled in. Nothing is recorded where
    the release is production already. Raises `BadConfig` where the gate held the release for a cause, unless `anyway`,
    which needs a reason; `NotFound` where the release does not exist.
    """
    release = get_release(store, promotion.release)
    name, overruled = release.fingerprint, release.gate_causes if release.gate == "held" else ()
    why = " ".join(promotion.why.split())
    if overruled and not anyway:
        raise BadConfig(
            f"the gate keeps release {name[:12]} back. {release.gate_reason} "
            f"`vitrine promote {name[:12]} --anyway --why 'TEXT'` publishes it nevertheless"
        )
    if anyway and not why:
        raise BadConfig("--anyway goes with --why 'TEXT': the reason is kept beside the release")
    promotion = promotion.model_copy(update={"release": name, "why": why, "overruled": overruled})

    def move(current: Alias | None) -> Alias:
        if current and current.release == name:
            return current
        moved = current.moved_to(name) if current else Alias(release=name)
        return moved.model_copy(update={"promotions": (*moved.promotions, promotion)})

    return _move_to_release(store, name, move)


def _move_to_release(store: Store, name: str, step: Callable[[Alias | None], Alias]) -> Alias:
    before: Alias | None = None

    def move(current: Alias | None) -> Alias:
        nonlocal before
        before = current
        return step(current)

    moved = _move(store, PRODUCTION, move)
    if Release.find(store, name) is None:  # removed by a vacuum that read the alias before it moved
        _move(store, PRODUCTION, lambda current: before if before and current == moved else current or moved)
        raise NotFound(f"release {name} was removed at the same moment; production is unchanged")
    return moved


def rollback(store: Store, expected: Alias | None = None) -> Alias:
    """Point production at the release before it.

    Raises `NotFound` where there is none, and `AliasConflict` where production is no longer as `expected`.
    """

    def back(current: Alias | None) -> Alias:
        if current is None or not current.history:
            raise NotFound("production has no earlier release to roll back to")
        if expected is not None and current != expected:
            raise AliasConflict("production moved meanwhile; nothing was changed")
        return current.moved_back(len(current.history) - 1, withdrawn=current.release)

    return _move(store, PRODUCTION, back)


def roll_back_to(store: Store, release: str, expected: str) -> Alias:
    """Point production back at a release of its history, if it is still `expected`; that release is not withdrawn.

    Raises `AliasConflict` where it was moved meanwhile, `NotFound` for a release that is not in its history.
    """

    def back(current: Alias | None) -> Alias:
        if current is None or current.release != expected:
            raise AliasConflict(f"production is no longer {expected}; nothing was changed")
        if release not in current.history:
            raise NotFound(f"production never was {release}")
        return current.moved_back(len(current.history) - 1 - current.history[::-1].index(release))

    return _move(store, PRODUCTION, back)


def forget(store: Store, name: str, removed: Collection[str]) -> Alias:
    """Remove releases from the history of an alias, so that no rollback leads to them. Raises `NotFound`."""

    def without(current: Alias | None) -> Alias:
        if current is None:
            raise NotFound(f"no alias {name} in {store.url}")
        return current.model_copy(update={"history": tuple(past for past in current.history if past not in removed)})

    return _move(store, name, without)


def is_backbone_alias(name: str) -> bool:
    """Return whether an alias points at a backbone, as `NAME@production` does, rather than at a release."""
    return "@" in name


def _move(store: Store, name: str, step: Callable[[Alias | None], Alias]) -> Alias:
    require_current(store)
    for _ in range(MAX_TRIES):
        seen = _alias_bytes(store, name)
        current = _parse(name, seen) if seen is not None else None
        target = step(current)
        kept: dict[str, object] = {
            "history": target.history[-HISTORY_LENGTH:],
            "promotions": target.promotions[-HISTORY_LENGTH:],
        }
        if current is None or target.release != current.release:
            kind = Backbone if is_backbone_alias(name) else Release
            pointed_at = kind.find(store, target.release)
            kept["manifest"] = pointed_at.sha256 if pointed_at else ""
        target, data = target.model_copy(update=kept).to_sealed()
        if data == seen or store.compare_and_swap(alias_key(name), data, seen):
            return target
    raise AliasConflict(f"alias {name} moved during each of {MAX_TRIES} tries; nothing was changed")


def _alias_bytes(store: Store, name: str) -> bytes | None:
    try:
        return store.get(alias_key(name))
    except NotFound:
        return None


def _parse(name: str, data: bytes) -> Alias:
    return Alias.from_sealed(data, f"alias {name}")


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
