"""What is damaged of an artifact or of a release, by the checksums that manifests and references state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Artifact, Part, Release
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.maintenance.inventory import open_artifact, searched_refs
from retrieval_core.store.base import Store


class DamagedPart(NamedTuple):
    """A part that is not what was sealed."""

    owner: Artifact
    part: Part
    damage: str


def damaged_parts(store: Store, artifact: Artifact) -> Iterator[DamagedPart]:
    """Yield the parts that are not what was sealed, checking each lazily: an earlier repair may have rebuilt it."""
    for part in artifact.parts:
        try:
            store.local_path(part.key)  # so that a stale local copy does not hide what the store has now
            store.local_path(part.key, part.sha256)
        except NotFound:
            yield DamagedPart(artifact, part, "the file is missing")
        except ShardCorrupt:
            yield DamagedPart(artifact, part, "the file is not what was sealed")


def damage_to(store: Store, key: str, sha256: str = "") -> str:
    """Return what is wrong with the artifact in a folder, whose manifest has this `sha256`; "" if it is intact."""
    try:
        first = next(damaged_parts(store, open_artifact(store, key, sha256)), None)
    except (NotFound, ShardCorrupt) as error:
        return str(error)
    return f"{first.part.key}: {first.damage}" if first else ""


def damage_to_search(store: Store, release: Release) -> str:
    """Return what keeps a release from being searched, "" if nothing does."""
    damages = (damage_to(store, ref.key, ref.sha256) for ref in searched_refs(release))
    return next(filter(None, damages), "")


def promote_checked(store: Store, promotion: releases.Promotion, anyway: bool = False) -> releases.Alias:
    """Make a release production for a person, as `promote_by_hand` does, if it can be searched.

    Raises `ShardCorrupt` where it cannot, having changed nothing, and what `promote_by_hand` raises.
    """
    _require_searchable(store, releases.get_release(store, promotion.release))
    return releases.promote_by_hand(store, promotion, anyway)


def roll_back_checked(store: Store) -> releases.Alias:
    """Point production at the release before it, if that can be searched.

    Raises `ShardCorrupt` where it cannot, having changed nothing, `NotFound` where there is none, and `AliasConflict`
    where production moved meanwhile.
    """
    alias = releases.read_alias(store, releases.PRODUCTION)
    if alias and alias.history:
        _require_searchable(store, releases.get_release(store, alias.history[-1]))
    return releases.rollback(store, alias)


def _require_searchable(store: Store, release: Release) -> None:
    if damage := damage_to_search(store, release):
        raise ShardCorrupt(
            f"release {release.fingerprint[:12]} cannot be searched: {damage}. Production was not moved; `vitrine "
            "promote` another release that `vitrine status` lists, or restore that file from a backup"
        )
