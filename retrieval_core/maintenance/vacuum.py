"""Remove what no kept release needs: mark what is needed, delete the rest.

Kept are the artifacts that aliases point at, the latest releases of their histories, production's anchor, young
releases, and everything that these need; recent writes and everything they may build on, since a killed run may be
resumed; and the last checkpoint of every unfinished training. Documents of runs, searches and events are kept for a
year, pictures of queries for as long as their names say. A vacuum waits for the runs that are active, and new ones wait
for it. Releases are deleted before their artifacts, and manifests before parts. So nothing ever exists in part, and
what a killed vacuum leaves over the next one finds and deletes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby

from pydantic import Field

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.anchors import anchor_of
from retrieval_core.artifacts.manifests import (
    MANIFEST,
    Backbone,
    Catalog,
    Head,
    IndexSet,
    MaskSet,
    Reducer,
    Release,
    Segmenter,
    Value,
    VectorSet,
)
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.feedback.log import expired_parts
from retrieval_core.index.plan import TEMPLATES, template_key
from retrieval_core.maintenance.inventory import FITTED, GROWING, Family, Inventory, release_key
from retrieval_core.store import leases
from retrieval_core.store.base import Entry, Store
from retrieval_core.store.format import require_current

RUNS_DAYS, KEPT_RUNS = 365.0, 100  # documents of runs: for how long, and how many of the latest in any case
_RUN = re.compile(rf"{releases.RUNS}/\d{{4}}-\d\d-\d\dT\d{{6}}\.\d{{3}}\+0000\.json")
HOUR_S, DAY_S = 3600.0, 86_400.0
BATCH_KEYS = 200  # deleted between two looks at the aliases
DELETE_THREADS = 8  # they wait for the network
TURN_S = 600.0  # a run that waits may have to wait so long
STOPPED = "an alias moved meanwhile, or a run waits; the rest is left for the next vacuum"
_REPAIR_FIRST = "run `vitrine repair` first; until then nothing is removed"
# The folders of what an artifact may need, for when its manifest cannot say what exactly.
_MAY_NEED = {
    VectorSet.folder: (VectorSet.folder, Catalog.folder),
    IndexSet.folder: (VectorSet.folder, Catalog.folder),
    Segmenter.folder: (MaskSet.folder, Catalog.folder),
    Head.folder: (Catalog.folder,),
    Reducer.folder: (Catalog.folder,),
}


class Policy(Value):
    """What to keep beside the artifacts that aliases point at."""

    keep: int = Field(5, ge=0, description="Releases to keep of each alias's history.")
    older_than_days: float = Field(7.0, ge=0, description="Younger releases are kept.")
    safe_hours: float = Field(
        24.0, ge=0, description="Whatever was written since then is kept: a killed run may be resumed."
    )


class VacuumPlan(Value):
    """The objects to remove: `keys` in the order of removal, `n_bytes` in total; the releases `removed` and `kept`.

    `whole` holds the folders that stay untouched, since a manifest that would say what is needed there cannot be read.
    `seen` records where the aliases pointed at the time of planning.
    """

    keys: tuple[str, ...]
    n_bytes: int
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    whole: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


class Vacuumed(Value):
    """The number of removed objects; `stopped` says why there are fewer than planned, "" if there are not."""

    n_removed: int
    stopped: str = ""


def plan_vacuum(store: Store, policy: Policy, now_s: float) -> VacuumPlan:
    """Plan what to remove at `now_s` (seconds since 1970), changing nothing.

    Raises `NotFound` or `ShardCorrupt` if an alias, a kept release, or a manifest that an aliased artifact needs is
    absent or cannot be read: what is needed is unknown then, and an earlier release may have to serve; `TooNew` or
    `NeedsMigration` for a store of another format.
    """
    require_current(store, mark=False)
    seen = _targets(store)
    inventory = Inventory(store)
    marks = _Marks(inventory)
    aliased = sorted(_aliased(store))
    for key in aliased:
        marks.add_root(key)
    marks.check_intact()
    since_s = now_s - policy.older_than_days * DAY_S
    kept = (*_history(inventory, policy.keep), *_anchor(inventory), *_young_releases(inventory, since_s))
    roots = sorted({*aliased, *kept})
    for key in roots:
        marks.add_root(key)
    marks.add_young(now_s - policy.safe_hours * HOUR_S)
    entries = [entry for key, entry in inventory.entries.items() if not marks.covers(key)]
    entries += _old_runs(store, now_s - RUNS_DAYS * DAY_S)
    entries += expired_parts(store, datetime.fromtimestamp(now_s, UTC))
    keys = [entry.key for entry in entries]
    return VacuumPlan(
        keys=tuple(sorted(keys, key=_rank)),
        n_bytes=sum(entry.size_bytes for entry in entries),
        kept=tuple(key.split("/")[1] for key in roots if key.startswith(f"{Release.folder}/")),
        removed=tuple(key.split("/")[1] for key in keys if _is_release(key)),
        whole=tuple(sorted(marks.untouched)),
        seen=seen,
    )


def vacuum(store: Store, policy: Policy, now_s: float, wait_s: float = 0.0) -> tuple[VacuumPlan, Vacuumed]:
    """Plan what to remove at `now_s` and remove it, once the active runs have ended; they may take `wait_s` for it.

    Raises `StoreBusy` if they take longer, and what `plan_vacuum` and `apply` raise.
    """
    with leases.exclusive_lease(store, "a vacuum", wait_s) as has_waiter:
        plan = plan_vacuum(store, policy, now_s)
        return plan, apply(store, plan, has_waiter)


def apply(store: Store, plan: VacuumPlan, has_waiter: Callable[[], bool] = lambda: False) -> Vacuumed:
    """Remove what was planned, under the lease that it was planned under.

    It stops early, and leaves the rest for the next vacuum, if an alias moves, and after `TURN_S` if a run waits.
    Raises `StoreNotWritable`, `StoreUnavailable` and `LeaseLost`; objects removed by then stay removed.
    """
    started_s = time.monotonic()

    def must_stop() -> bool:
        return _targets(store) != plan.seen or (time.monotonic() - started_s > TURN_S and has_waiter())

    if not must_stop():
        for name in releases.alias_names(store):
            releases.forget(store, name, plan.removed)
    if must_stop():
        return Vacuumed(n_removed=0, stopped=STOPPED)
    n_removed = 0
    for batch in _batches(plan.keys):
        deleted_releases = _delete(store, batch)
        n_removed += len(batch)
        if must_stop():
            # Somebody may have promoted one of these releases meanwhile.
            restored = [store.put_if_absent(key, data) for key, data in deleted_releases.items()]
            return Vacuumed(n_removed=n_removed - len(restored), stopped=STOPPED)
    return Vacuumed(n_removed=n_removed)


def _delete(store: Store, batch: list[str]) -> dict[str, bytes]:
    """Delete objects; return the manifests of the releases among them."""
    manifests = {}
    for key in filter(_is_release, batch):
        with suppress(NotFound):
            manifests[key] = store.get(key)
    with ThreadPoolExecutor(DELETE_THREADS) as pool:
        list(pool.map(store.delete, batch))
    return manifests


class _Marks:
    """The objects marked as needed so far."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._keys = {key for key in inventory.entries if _is_unfinished_training(inventory, key)}
        self._artifacts: set[str] = set()
        self._families: set[Family] = set()
        self._error: NotFound | ShardCorrupt | None = None
        self.untouched: set[str] = set()

    def covers(self, key: str) -> bool:
        """Return whether an object is needed."""
        return key in self._keys or key.split("/")[0] in self.untouched

    def check_intact(self) -> None:
        """Raise `NotFound` or `ShardCorrupt` if a manifest could not be read so far."""
        if self._error is not None:
            raise type(self._error)(f"{self._error}; {_REPAIR_FIRST}") from self._error

    def add_root(self, key: str) -> None:
        """Mark an artifact, which must be readable, and what it needs. Raises `NotFound`, `ShardCorrupt`."""
        try:
            artifact = self._inventory.open(key)
        except (NotFound, ShardCorrupt) as error:
            raise type(error)(f"{error}; {_REPAIR_FIRST}") from error
        self._add(key)
        if isinstance(artifact, Release):
            self._add_views(artifact)

    def add_young(self, since_s: float) -> None:
        """Mark what was written since then, and everything that the run which wrote it may build on."""
        entries = self._inventory.entries
        young = {key for key, entry in entries.items() if entry.modified_s > since_s}
        unfinished = {key for key in young - self._keys if "/plans/" not in key and not key.startswith("runs/")}
        self._keys |= young
        for key in young:
            if key.endswith(f"/{MANIFEST}"):
                self._add(key.removesuffix(f"/{MANIFEST}"))
        # Many runs may have added parts to a family that no kept release uses, such as another backbone's.
        growing = {_group(key) for key in unfinished} - {"/".join(family) for family in self._families}
        self._keys.update(key for key in entries if _group(key) in growing)
        if unfinished:  # nothing says yet which models such a family is made with, and others would not fit its parts
            models = (*(f"{kind.folder}/" for kind in FITTED), TEMPLATES)
            self._keys.update(key for key in entries if key.startswith(models))

    def _add(self, key: str) -> None:
        """Mark an artifact, its parts and what it needs; without its manifest, every folder that may hold these."""
        if key in self._artifacts:
            return
        self._artifacts.add(key)
        try:
            artifact = self._inventory.open(key)
            needed = list(self._inventory.needs(artifact))
        except (NotFound, ShardCorrupt) as error:
            self._error = error
            folder = key.split("/")[0]
            self.untouched.update((folder, *_MAY_NEED.get(folder, ())))
            return
        self._keys |= {f"{key}/{MANIFEST}", *(part.key for part in artifact.parts)}
        if isinstance(artifact, IndexSet):
            self._keys.add(template_key(artifact.template))
        for other in needed:
            self._add(other)

    def _add_views(self, release: Release) -> None:
        """Mark the views of its catalogue that its run made: the next run then computes only what they lack."""
        try:
            families = self._inventory.families(release)
        except (NotFound, ShardCorrupt) as error:
            self._error = error
            self.untouched.update(kind.folder for kind in GROWING)
            return
        self._families |= families
        for view in (view for family in families for view in self._inventory.views(family)):
            if self._may_be_of(view, release.catalog.name):
                self._add(view)

    def _may_be_of(self, view: str, catalog: str) -> bool:
        """Return whether a view is of this catalogue, or cannot be read."""
        try:
            return self._inventory.open(view).parents.get("catalog") == catalog
        except (NotFound, ShardCorrupt):
            return True


def _aliased(store: Store) -> Iterator[str]:
    """Yield the folders of the artifacts that aliases point at."""
    return (f"{folder}/{alias.release}" for folder, alias in _aliases(store))


def _history(inventory: Inventory, keep: int) -> Iterator[str]:
    """Yield the folders of the last `keep` artifacts that each alias pointed at before, where they still exist."""
    for folder, alias in _aliases(inventory.store):
        past = (*alias.history[max(len(alias.history) - keep, 0) :], alias.withdrawn)
        yield from (f"{folder}/{name}" for name in past if f"{folder}/{name}/{MANIFEST}" in inventory.entries)


def _anchor(inventory: Inventory) -> Iterator[str]:
    """Yield the folder of the release that the next challenger is also compared with, where it still exists."""
    production = releases.read_release(inventory.store, releases.PRODUCTION)
    if production:
        folder = release_key(anchor_of(inventory.store, production))
        if f"{folder}/{MANIFEST}" in inventory.entries:
            yield folder


def _aliases(store: Store) -> Iterator[tuple[str, releases.Alias]]:
    """Yield every alias with the kind of artifact it points at, as a folder."""
    for name in releases.alias_names(store):
        if alias := releases.read_alias(store, name):
            yield Backbone.folder if releases.is_backbone_alias(name) else Release.folder, alias


def _young_releases(inventory: Inventory, since_s: float) -> Iterator[str]:
    for key, entry in inventory.entries.items():
        if _is_release(key) and entry.modified_s > since_s:
            yield key.removesuffix(f"/{MANIFEST}")


def _old_runs(store: Store, since_s: float) -> list[Entry]:
    """Return the documents of runs that ended before then, without the last `KEPT_RUNS` of all."""
    since = datetime.fromtimestamp(since_s, UTC).isoformat()
    runs = [entry for entry in store.entries(f"{releases.RUNS}/") if _RUN.fullmatch(entry.key)]
    return [entry for entry in runs[: max(len(runs) - KEPT_RUNS, 0)] if releases.run_ended(entry.key) < since]


def _targets(store: Store) -> tuple[str, ...]:
    """Return where the aliases point; a person may promote a release at any time."""
    aliases = [(name, releases.read_alias(store, name)) for name in releases.alias_names(store)]
    return tuple(f"{name} {alias.release}" for name, alias in aliases if alias)


def _is_unfinished_training(inventory: Inventory, key: str) -> bool:
    """Return whether the object is a checkpoint of an unfinished training: days of work that nothing else holds."""
    folder, _, file = key.partition("/checkpoint/")
    return bool(file) and f"{folder}/{MANIFEST}" not in inventory.entries


def _is_release(key: str) -> bool:
    return key.startswith(f"{Release.folder}/") and key.endswith(f"/{MANIFEST}")


def _rank(key: str) -> tuple[int, str]:
    """Order releases first, then other manifests, then parts."""
    if _is_release(key):
        return 0, key
    return 1 if key.endswith(f"/{MANIFEST}") else 2, key


def _batches(keys: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the keys in their order; no batch mixes ranks, so that a rank is deleted before the next begins."""
    for _, group in groupby(keys, lambda key: _rank(key)[0]):
        ranked = list(group)
        yield from (ranked[start : start + BATCH_KEYS] for start in range(0, len(ranked), BATCH_KEYS))


def _group(key: str) -> str:
    """Return what is written together with an object: an artifact's folder, a growing family, a shard of an index."""
    steps = key.split("/")
    return "/".join(steps[: 3 if steps[:2] in (["indexes", "shards"], ["indexes", "templates"]) else 2])
