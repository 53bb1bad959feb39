"""Remove what no kept release needs: mark what is needed, sweep the rest.

Kept are production and whatever another alias names, the last of their histories, young releases, and all that these
need; what was written lately, with all that it may build on, since a run that died may be taken up again; and the last
epoch of every training that has not ended. While a run goes on nothing is removed at all. A release goes before its
artifacts and what says that a thing exists before the thing, so that nothing is ever half there, and a vacuum that was
killed leaves what the next one finds and removes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby

from pydantic import Field

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import SEEN_ITEMS
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
from retrieval_core.index.build import VECTORS_FILE
from retrieval_core.index.plan import TEMPLATES, template_key
from retrieval_core.maintenance.inventory import FITTED, SETS, Family, Holdings
from retrieval_core.store import leases
from retrieval_core.store.base import Store

HOUR_S, DAY_S = 3600.0, 86_400.0
BATCH_KEYS = 200  # removed between two looks at what others do meanwhile
DELETE_THREADS = 8  # they wait for the network
STOPPED = "an alias moved or a run began meanwhile; the rest is left for the next vacuum"
_REPAIR_FIRST = "nothing is removed before `vitrine repair` has seen to it"
# Where that lies which an artifact of a folder needs, for when its manifest cannot say what exactly.
_MAY_NEED = {
    VectorSet.folder: (VectorSet.folder, Catalog.folder),
    IndexSet.folder: (VectorSet.folder, Catalog.folder),
    Segmenter.folder: (MaskSet.folder, Catalog.folder),
    Head.folder: (Catalog.folder,),
    Reducer.folder: (Catalog.folder,),
}


class Policy(Value):
    """What to keep: `keep` releases of every alias's history, releases younger than `older_than_days`, and everything
    written within `safe_hours`, for the sake of runs that died and may be taken up again."""

    keep: int = Field(5, ge=0, description="Releases to keep of each alias's history.")
    older_than_days: float = Field(7.0, ge=0, description="Younger releases are kept.")
    safe_hours: float = Field(
        24.0, ge=0, description="Whatever was written since then is kept: a run that died may be taken up again."
    )


class VacuumPlan(Value):
    """What to remove: `keys` in the order to remove them, `n_bytes` in all; the releases `removed` and those `kept`.

    `whole` are folders of which nothing is removed, since a manifest that would say what is needed there cannot be
    read. `seen` is what aliases and runs had done by then.
    """

    keys: tuple[str, ...]
    n_bytes: int
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    whole: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


class Vacuumed(Value):
    """What was removed; `stopped` says why it is less than was planned, "" where it is not."""

    n_removed: int
    stopped: str = ""


def plan_vacuum(store: Store, policy: Policy, now: float) -> VacuumPlan:
    """What to remove at `now` (seconds since 1970); nothing is changed.

    Raises `NotFound` and `ShardCorrupt` where an alias, a kept release, or a manifest that what an alias names needs,
    is lost or cannot be read: then nobody can say what is needed, and an earlier release may have to serve.
    """
    seen = _what_runs_did(store)
    held = Holdings(store)
    marks = _Marks(held)
    serving = sorted(_aliased(held))
    for key in serving:
        marks.add_root(key)
    marks.check_whole()
    past = {*_past(held, policy.keep), *_young_releases(held, now - policy.older_than_days * DAY_S)}
    roots = sorted({*serving, *past})
    for key in roots:
        marks.add_root(key)
    marks.add_young(now - policy.safe_hours * HOUR_S)
    keys = [key for key in held.entries if not marks.holds(key)]
    return VacuumPlan(
        keys=tuple(sorted(keys, key=_order)),
        n_bytes=sum(held.entries[key].size_bytes for key in keys),
        kept=tuple(key.split("/")[1] for key in roots if key.startswith(f"{Release.folder}/")),
        removed=tuple(key.split("/")[1] for key in keys if _is_release(key)),
        whole=tuple(sorted(marks.whole)),
        seen=seen,
    )


def apply(store: Store, plan: VacuumPlan) -> Vacuumed:
    """Remove what was planned, as long as no alias moves and no run begins: what is left then is for the next vacuum.

    Raises `StoreBusy` while a run, a repair or another vacuum goes on, and `StoreNotWritable`, `StoreUnavailable`; what
    was removed by then stays removed.
    """
    with leases.exclusive_lease(store, "a vacuum") as disturbed:

        def stopped() -> bool:
            return disturbed() or _what_runs_did(store) != plan.seen

        if not stopped():
            for key in store.list("aliases/"):
                releases.forget(store, key.split("/", 1)[1], plan.removed)
        if stopped():
            return Vacuumed(n_removed=0, stopped=STOPPED)
        n_removed = 0
        for batch in _batches(plan.keys):
            taken = _delete(store, batch)
            n_removed += len(batch)
            if stopped():
                # Somebody may have promoted one of them meanwhile.
                back = [store.put_if_absent(key, data) for key, data in taken.items()]
                return Vacuumed(n_removed=n_removed - len(back), stopped=STOPPED)
    return Vacuumed(n_removed=n_removed)


def _delete(store: Store, batch: list[str]) -> dict[str, bytes]:
    """Remove objects; gives back the releases among them."""
    taken = {}
    for key in filter(_is_release, batch):
        with suppress(NotFound):
            taken[key] = store.get(key)
    with ThreadPoolExecutor(DELETE_THREADS) as pool:
        list(pool.map(store.delete, batch))
    return taken


class _Marks:
    """What is needed, so far."""

    def __init__(self, held: Holdings) -> None:
        self._held = held
        self._keys = {key for key in held.entries if _is_unfinished_training(held, key)}
        self._artifacts: set[str] = set()
        self._families: set[Family] = set()
        self._lost: NotFound | ShardCorrupt | None = None
        self.whole: set[str] = set()

    def holds(self, key: str) -> bool:
        return key in self._keys or key.split("/")[0] in self.whole

    def check_whole(self) -> None:
        """Raises `NotFound`, `ShardCorrupt` where a manifest could not be read so far."""
        if self._lost is not None:
            raise type(self._lost)(f"{self._lost}; {_REPAIR_FIRST}") from self._lost

    def add_root(self, key: str) -> None:
        """An artifact that must be readable, and what it needs. Raises `NotFound`, `ShardCorrupt`."""
        try:
            artifact = self._held.open(key)
        except (NotFound, ShardCorrupt) as error:
            raise type(error)(f"{error}; {_REPAIR_FIRST}") from error
        self._add(key)
        if isinstance(artifact, Release):
            self._add_views(artifact)

    def add_young(self, since_s: float) -> None:
        """What was written since then, and all that a run which wrote it may build on."""
        young = {key for key, entry in self._held.entries.items() if entry.modified_s > since_s}
        unfinished = {key for key in young - self._keys if "/plans/" not in key and not key.startswith("runs/")}
        self._keys |= young
        for key in young:
            if key.endswith(f"/{MANIFEST}"):
                self._add(key.removesuffix(f"/{MANIFEST}"))
        # Of a family that no kept release uses, e.g. another backbone's, many nights may have filled the parts.
        growing = {_group(key) for key in unfinished} - {"/".join(family) for family in self._families}
        self._keys.update(key for key in self._held.entries if _group(key) in growing)
        if unfinished:  # which models it grows by nobody has written down yet, and others would not make the same
            makers = (*(f"{kind.folder}/" for kind in FITTED), TEMPLATES)
            self._keys.update(key for key in self._held.entries if key.startswith(makers))

    def _add(self, key: str) -> None:
        """An artifact, its parts and what it needs; where its manifest is lost, all that may have been its own."""
        if key in self._artifacts:
            return
        self._artifacts.add(key)
        try:
            artifact = self._held.open(key)
            needed = list(self._held.needs(artifact))
        except (NotFound, ShardCorrupt) as error:
            self._lost = error
            folder = key.split("/")[0]
            self.whole.update((folder, *_MAY_NEED.get(folder, ())))
            return
        self._keys |= {f"{key}/{MANIFEST}", *(part.key for part in artifact.parts)}
        if isinstance(artifact, IndexSet):
            self._keys.add(template_key(artifact.template))
        for other in needed:
            self._add(other)

    def _add_views(self, release: Release) -> None:
        """The views of its catalogue that its night made: the next one only computes what they lack."""
        try:
            families = self._held.families(release)
        except (NotFound, ShardCorrupt) as error:
            self._lost = error
            self.whole.update(kind.folder for kind in SETS)
            return
        self._families |= families
        for view in (view for family in families for view in self._held.views(family)):
            if self._is_of(view, release.catalog.name):
                self._add(view)

    def _is_of(self, view: str, catalog: str) -> bool:
        """Whether a view is of this catalogue, or cannot tell."""
        try:
            return self._held.open(view).parents.get("catalog") == catalog
        except (NotFound, ShardCorrupt):
            return True


def _aliased(held: Holdings) -> Iterator[str]:
    """The folders of what aliases point at."""
    return (f"{folder}/{alias.release}" for folder, alias in _aliases(held.store))


def _past(held: Holdings, keep: int) -> Iterator[str]:
    """The folders of what there still is of the last `keep` that each alias pointed at before."""
    for folder, alias in _aliases(held.store):
        past = (*alias.history[max(len(alias.history) - keep, 0) :], alias.withdrawn)
        yield from (f"{folder}/{name}" for name in past if f"{folder}/{name}/{MANIFEST}" in held.entries)


def _aliases(store: Store) -> Iterator[tuple[str, releases.Alias]]:
    """Every alias, and the folder of what it points at."""
    for name in (key.split("/", 1)[1] for key in store.list("aliases/")):
        if alias := releases.read_alias(store, name):
            yield Backbone.folder if "@" in name else Release.folder, alias


def _young_releases(held: Holdings, since_s: float) -> Iterator[str]:
    for key, entry in held.entries.items():
        if _is_release(key) and entry.modified_s > since_s:
            yield key.removesuffix(f"/{MANIFEST}")


def _what_runs_did(store: Store) -> tuple[str, ...]:
    """Where the aliases point, and when a run last read a catalogue."""
    names = [key.split("/", 1)[1] for key in store.list("aliases/")]
    aliases = [(name, releases.read_alias(store, name)) for name in names]
    read = [f"{entry.key} {entry.modified_s}" for entry in store.entries(SEEN_ITEMS)]
    return (*(f"{name} {alias.release}" for name, alias in aliases if alias), *read)


def _is_unfinished_training(held: Holdings, key: str) -> bool:
    """Whether it is the checkpoint of a training that has not ended: days of work that nothing else holds."""
    folder, _, file = key.partition("/checkpoint/")
    return bool(file) and f"{folder}/{MANIFEST}" not in held.entries


def _is_release(key: str) -> bool:
    return key.startswith(f"{Release.folder}/") and key.endswith(f"/{MANIFEST}")


def _order(key: str) -> tuple[int, str]:
    """Releases, then what says that a thing exists, then the rest."""
    if _is_release(key):
        return 0, key
    return 1 if key.endswith((f"/{MANIFEST}", f"/{VECTORS_FILE}")) else 2, key


def _batches(keys: tuple[str, ...]) -> Iterator[list[str]]:
    """The keys in their order; none of a rank before all of the rank above are gone."""
    for _, alike in groupby(keys, lambda key: _order(key)[0]):
        run = list(alike)
        yield from (run[start : start + BATCH_KEYS] for start in range(0, len(run), BATCH_KEYS))


def _group(key: str) -> str:
    """What is written together: an artifact's folder, a growing family, one shard of an index."""
    steps = key.split("/")
    return "/".join(steps[: 3 if steps[:2] in (["indexes", "shards"], ["indexes", "templates"]) else 2])
