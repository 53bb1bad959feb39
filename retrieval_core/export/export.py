"""Export a release: send a target what it lacks, verify what it then holds, and point its alias at that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Int64
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release, Value
from retrieval_core.errors import AliasConflict, BadConfig
from retrieval_core.export.rows import ReleaseRows
from retrieval_core.export.target import Target
from retrieval_core.export.verification import Held, Verification, verify
from retrieval_core.index.shard_files import positions_of
from retrieval_core.store.base import Store

DELETED_ROWS = 1000  # at a time


class Exported(Value):
    """What an export did: rows by what happened to them, the collection, and whether searches use it (`ok`).

    `created` says that the collection is new, `switched` that the alias pointed elsewhere before. `superseded` are the
    collections of earlier vector spaces that the target still has, `pruned` those that were removed.
    """

    ok: bool
    reason: str = ""
    release: str
    target: str
    name: str
    collection: str
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    created: bool
    switched: bool = False
    superseded: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    verification: Verification


class How(NamedTuple):
    """How to export: the alias of the export, and the least overlap of neighbours, 0 to 1, that counts as the same.

    `rewrites` sends also the rows that the target says it has, `prunes` removes earlier collections afterwards.
    """

    name: str
    min_overlap: float = 0.9
    rewrites: bool = False
    prunes: bool = False


class _Sent(NamedTuple):
    held: Held  # what the target should hold now
    added: int
    changed: int
    removed: int


def find_exportable(store: Store, name: str = releases.PRODUCTION) -> Release:
    """Return production, or the release of that name if the gate approved it or a person promoted it.

    Raises `NotFound` where there is none, `BadConfig` where the gate held it back.
    """
    release = releases.find_release(store, name)
    alias = releases.read_alias(store, releases.PRODUCTION)
    was_production = alias is not None and release.fingerprint in (alias.release, *alias.history)
    if release.gate == "held" and not was_production:
        short = release.fingerprint[:12]
        raise BadConfig(
            f"the gate keeps release {short} back, so that no search may use it. {release.gate_reason} "
            f"`vitrine promote {short}` publishes it; without --release, production is exported"
        )
    return release


def export(
    store: Store, release: Release, target: Target, how: How, advance: Callable[[int], None] = lambda n: None
) -> Exported:
    """Bring a target to the rows of a release, and point its alias at them once they are verified.

    Rows that the target has as they are stay untouched, others are written, and those that the release lacks are
    removed; so an interrupted export is completed by the next one. A release of another vector space goes into a
    collection of its own, beside the one in use. `advance` is told how many more rows are compared.

    Raises what the target raises, `NotFound` and `ShardCorrupt` for a damaged release, and `AliasConflict` where the
    exported release was production and another one became so meanwhile; the alias then stays.
    """
    was_production = _is_production(store, release)
    rows = ReleaseRows(store, release)
    collection = f"{how.name}_{rows.space}"
    before = target.current()
    created = target.open(collection, rows.dim)
    sent = _send(rows, target, how.rewrites, advance)
    target.finish()
    verification = verify(rows, sent.held, target, how.min_overlap)
    done = Exported(
        ok=verification.ok,
        reason=verification.reason,
        release=release.fingerprint,
        target=target.label,
        name=how.name,
        collection=collection,
        rows=len(rows.row_ids),
        added=sent.added,
        changed=sent.changed,
        removed=sent.removed,
        unchanged=len(rows.row_ids) - sent.added - sent.changed,
        created=created,
        verification=verification,
    )
    if not verification.ok:
        return done
    if was_production and not _is_production(store, release):
        raise AliasConflict(
            f"release {release.fingerprint[:12]} is no longer production; {how.name} still is what it was: "
            "run the same command again"
        )
    target.publish()
    earlier = tuple(other for other in target.collections() if other != collection)
    for other in earlier if how.prunes else ():
        target.drop(other)
    outcome = {"pruned" if how.prunes else "superseded": earlier, "switched": before != collection}
    return done.model_copy(update=outcome)


def _is_production(store: Store, release: Release) -> bool:
    alias = releases.read_alias(store, releases.PRODUCTION)
    return alias is not None and alias.release == release.fingerprint


def _send(rows: ReleaseRows, target: Target, rewrites: bool, advance: Callable[[int], None]) -> _Sent:
    """Write the rows that the target lacks or has otherwise, and remove those that the release lacks."""
    known = Held.read(target)
    n_added = n_changed = 0
    sent: list[tuple[Int64, Int64]] = []
    for batch in rows.batches():
        position, is_known = positions_of(known.row_ids, batch.row_ids)
        differs = np.ones(len(batch), bool)
        if not rewrites:
            differs[is_known] = known.hashes[position[is_known]] != batch.hashes[is_known]
        if differs.any():
            target.upsert(batch.only(differs))
        n_added += int((~is_known).sum())
        n_changed += int((differs & is_known).sum())
        sent.append((batch.row_ids, batch.hashes))
        advance(len(batch))
    gone = np.setdiff1d(known.row_ids, rows.row_ids, assume_unique=True)
    for start in range(0, len(gone), DELETED_ROWS):
        target.delete(gone[start : start + DELETED_ROWS])
    return _Sent(Held.of(sent), n_added, n_changed, len(gone))
