"""Work in shards, on the pictures of a catalogue or on the parts of a set of vectors: plan what is missing, make it.

Every stage of this kind has three steps, `plan_x` -> `x_shard` for each shard -> `seal_x`. A shard that was stored
before its run was killed is not planned again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Int64
from retrieval_core.artifacts.growing_sets import (
    Transform,
    View,
    derived_bytes,
    derived_name,
    made_of,
    named_sha256,
    parts_prefix,
    put_growing_part,
    seal_view,
    stored_parts_of,
    view_fingerprint,
)
from retrieval_core.artifacts.manifests import Part, Ref, Value, VectorSet, fingerprint
from retrieval_core.artifacts.mapped_rows import MissingIds, mapped, rows_at, sorted_by, unique_by
from retrieval_core.artifacts.parts import put_table, read_unsealed
from retrieval_core.artifacts.pictures import Picture, usable_pictures, with_local_files, with_places
from retrieval_core.artifacts.variants import RepresentationField
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 10.0
PART_SHARD_ROWS = 65_536  # whose vectors take seconds to derive, while Prefect takes up to 0.1 s for a shard
ORDERS = "orders"  # folder of the shards that a run lets others make, one folder a call, and of what came of them


def shard_name(ids: Iterable[str]) -> str:
    """Return the name of a shard by the ids of what it works on: 16 hex digits."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


class Target(Value):
    """A growing set that a plan adds parts to."""

    folder: str
    family: str


class WorkShard(Value):
    """One shard of a plan; its size does not depend on the number of shards.

    `number` counts from 0 and selects its pictures in the plan's table at `key`; `names` are those of the parts that it
    adds, one for each target.
    """

    targets: tuple[Target, ...]
    key: str
    names: tuple[str, ...]
    number: int
    n_shards: int

    @property
    def label(self) -> str:
        """For people: "shard 3 of 10"."""
        return f"shard {self.number + 1} of {self.n_shards}"


class WorkPlan(Value):
    """The shards of pictures that at least one target lacks; each holds the names of its parts, one for each target.

    `key` names the table of the pictures, "" when none is missing.
    """

    targets: tuple[Target, ...]
    key: str = ""
    shards: tuple[tuple[str, ...], ...] = ()
    n_missing: int = 0

    def split(self) -> list[WorkShard]:
        """Return one value per shard, in order."""
        n_shards = len(self.shards)
        return [
            WorkShard(targets=self.targets, key=self.key, names=names, number=number, n_shards=n_shards)
            for number, names in enumerate(self.shards)
        ]


class ShardWork(NamedTuple):
    """The pictures of a shard, ordered by content id, and the content ids that each target lacks."""

    pictures: list[Picture]
    missing: dict[Target, set[str]]


def plan_pictures(store: Store, targets: Sequence[Target], catalog: Ref, shard_rows: int) -> WorkPlan:
    """Plan the shards of a catalogue's usable pictures that some target lacks."""
    return plan_work(store, targets, with_places(store, usable_pictures(store, catalog)), shard_rows)


def seal_pictures(store: Store, kind: type[View], family: str, catalog: Ref) -> View:
    """Seal the masks or classes of a catalogue's usable pictures, as far as they are stored, as one set."""
    return seal_view(store, kind, family, catalog.name, usable_pictures(store, catalog)["content_id"])


def plan_work(store: Store, targets: Sequence[Target], pictures: pl.DataFrame, shard_rows: int) -> WorkPlan:
    """Store and return a plan of the shards that cover what no stored part of a target covers yet.

    `pictures` has columns content_id, image_uri and item_id, and may have those of `with_places`; of
    several items with the same picture, one is kept. Pictures whose bytes lie in one file are neighbours. The plan's
    table lies beside the last target and names in `missing_in` the targets that lack a picture, by position.
    """
    one_each = unique_by(sorted_by(pictures, "item_id"), "content_id")
    lacks = [_is_missing(store, target, one_each["content_id"]) for target in targets]
    order = _neighbours_by_file(one_each)
    order = order[np.logical_or.reduce([np.zeros(len(order), np.bool_), *lacks])[order]]
    if not len(order):
        return WorkPlan(targets=tuple(targets))
    shards = [order[start : start + shard_rows] for start in range(0, len(order), shard_rows)]
    names = tuple(
        tuple(shard_name(one_each["content_id"].gather(rows[lack[rows]])) for lack in lacks) for rows in shards
    )
    plan = mapped(_planned(one_each, rows, lacks, number) for number, rows in enumerate(shards))
    name = fingerprint("plan", 2, names, [target.family for target in targets])
    key = f"{targets[-1].folder}/{targets[-1].family}/plans/{name}.parquet"
    put_table(store, key, plan)
    return WorkPlan(targets=tuple(targets), key=key, shards=names, n_missing=len(plan))


def _neighbours_by_file(pictures: pl.DataFrame) -> Int64:
    """Return the rows of pictures in the order of their files, if any, and content ids."""
    order = pictures["content_id"].arg_sort().to_numpy().astype(np.int64)
    if "file" not in pictures.columns:
        return order
    files = pictures["file"].drop_nulls().unique().sort()
    number = pictures["file"].cast(pl.Enum(files)).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    return order[np.argsort(number[order], kind="stable")]


def _planned(pictures: pl.DataFrame, rows: Int64, lacks: Sequence[Bool], number: int) -> pl.DataFrame:
    """Return the pictures of a shard with its number and the targets that lack each, by content id."""
    flags = [pl.when(pl.Series(lack[rows])).then(pl.lit(n, pl.Int32)) for n, lack in enumerate(lacks)]
    missing_in = pl.concat_list(flags).list.drop_nulls()
    shard = pl.lit(number, pl.Int32)
    return rows_at(pictures, rows).with_columns(missing_in=missing_in, shard=shard).sort("content_id")


def _is_missing(store: Store, target: Target, content_ids: pl.Series) -> Bool:
    """Return which of these pictures, (n,), no stored part of a target has."""
    missing = MissingIds(content_ids)
    for part in stored_parts_of(store, target.folder, target.family):
        missing.take(part.content_ids)
    return missing.is_missing


def read_shard(store: Store, shard: WorkShard) -> ShardWork:
    """Return the pictures of one shard of a plan, and which of them each target lacks."""
    table = read_unsealed(store, shard.key, pl.col("shard") == shard.number).drop("shard").sort("content_id")
    missing = {
        target: set(table.filter(pl.col("missing_in").list.contains(n))["content_id"])
        for n, target in enumerate(shard.targets)
    }
    pictures = [Picture(**row) for row in table.drop("missing_in").iter_rows(named=True)]
    return ShardWork(with_local_files(store, pictures), missing)


def shard_pictures(store: Store, shard: WorkShard) -> list[Picture]:
    """Return the pictures of one shard of a plan, ordered by content id."""
    return read_shard(store, shard).pictures


def put_shard(
    store: Store, shard: WorkShard, target: Target, content_ids: Sequence[str], encode: Callable[[], bytes]
) -> int:
    """Store the results of a shard as its part of a target, unless there are none; return the number of pictures."""
    if content_ids:
        name = shard.names[shard.targets.index(target)]
        put_growing_part(store, target.folder, target.family, name, encode(), len(content_ids))
    return len(content_ids)


class DerivedSet(Value):
    """A set of vectors to derive from another: `dim` is its width, `made_by` names a model among its parents."""

    family: str
    variant: RepresentationField
    dim: int
    made_by: dict[str, str] = {}


class PartShard(Value):
    """One shard of a derivation: it derives the same `sets` from each of these parts of the set `source`.

    `parts` are their positions in the source's manifest, so that a shard is small however many parts there are.
    """

    source: Ref
    sets: tuple[DerivedSet, ...]
    parts: tuple[int, ...]
    number: int
    n_shards: int


class DerivationPlan(Value):
    """The `sets` to derive from `source`, and the shards that make what is missing of them."""

    source: Ref
    sets: tuple[DerivedSet, ...]
    shards: tuple[PartShard, ...]


def plan_derivation(
    store: Store, source: VectorSet, sets: Sequence[DerivedSet], shard_rows: int = PART_SHARD_ROWS
) -> DerivationPlan:
    """Plan the shards that derive `sets` from those parts of `source` whose derived parts are absent or damaged.

    Parts that lack the same sets share a shard of at most `shard_rows` rows, unless one part alone has more.
    """
    stored = [_derived_parts(store, source, wanted) for wanted in sets]
    by_lack: dict[tuple[int, ...], list[int]] = {}
    for number in range(len(source.parts)):
        lacking = tuple(n for n, parts in enumerate(stored) if number not in parts)
        by_lack.setdefault(lacking, []).append(number)
    work = [
        (tuple(sets[n] for n in lacking), group)
        for lacking, numbers in by_lack.items()
        for group in group_parts(numbers, source.parts, shard_rows)
        if lacking
    ]
    shards = tuple(
        PartShard(source=source.ref, sets=lacking, parts=group, number=number, n_shards=len(work))
        for number, (lacking, group) in enumerate(work)
    )
    return DerivationPlan(source=source.ref, sets=tuple(sets), shards=shards)


def _derived_parts(store: Store, source: VectorSet, wanted: DerivedSet) -> dict[int, Part]:
    """Return the intact parts of a derived set, by the position of what they derive from; others are made again."""
    positions = {derived_name(part): number for number, part in enumerate(source.parts)}
    found: dict[int, Part] = {}
    for entry in store.entries(parts_prefix(VectorSet.folder, wanted.family)):
        number, sha256 = positions.get(made_of(entry.key)), named_sha256(entry.key)
        if number is None or sha256 is None:
            continue
        try:
            store.local_path(entry.key, sha256)
        except ShardCorrupt as error:
            log.warning("%s; it is made again", error)
            continue
        n_rows = source.parts[number].n_rows
        found[number] = Part(key=entry.key, sha256=sha256, n_rows=n_rows, n_bytes=entry.size_bytes)
    return found


def group_parts(numbers: Iterable[int], parts: Sequence[Part], shard_rows: int) -> Iterator[tuple[int, ...]]:
    """Yield these positions of `parts` in groups of at most `shard_rows` rows, unless one part alone has more."""
    group: list[int] = []
    n_rows = 0
    for number in numbers:
        if group and n_rows + parts[number].n_rows > shard_rows:
            yield tuple(group)
            group, n_rows = [], 0
        group.append(number)
        n_rows += parts[number].n_rows
    if group:
        yield tuple(group)


def derive_shard(store: Store, shard: PartShard, transform_of: Callable[[DerivedSet], Transform]) -> None:
    """Store what the parts of one shard of a plan become in each of its sets by `transform_of` the set."""
    source = VectorSet.open(store, shard.source)
    transforms = [transform_of(wanted) for wanted in shard.sets]
    for part in (source.parts[number] for number in shard.parts):
        derived = derived_bytes(store.local_path(part.key, part.sha256), transforms)
        for wanted, data in zip(shard.sets, derived, strict=True):
            put_growing_part(store, VectorSet.folder, wanted.family, derived_name(part), data, part.n_rows)


def seal_derived(store: Store, plan: DerivationPlan) -> list[VectorSet]:
    """Seal the sets of a plan whose shards are made, in its order. Raises `NotFound` where a part is absent."""
    source = VectorSet.open(store, plan.source)
    return [_seal_derived(store, source, wanted) for wanted in plan.sets]


def _seal_derived(store: Store, source: VectorSet, wanted: DerivedSet) -> VectorSet:
    catalog, found = source.parents["catalog"], _derived_parts(store, source, wanted)
    absent = [part.key for number, part in enumerate(source.parts) if number not in found]
    if absent:
        raise NotFound(f"{store.url} has nothing of {wanted.variant} that is derived from {absent[0]}; run again")
    parts = tuple(found[number] for number in range(len(source.parts)))
    return VectorSet(
        fingerprint=view_fingerprint(wanted.family, catalog, parts),
        family=wanted.family,
        variant=wanted.variant,
        dim=wanted.dim,
        parts=parts,
        parents={"catalog": catalog, "vectors": source.fingerprint, **wanted.made_by},
        counts=source.counts,
    ).seal(store)


def log_progress(name: str, total: int) -> Callable[[int], None]:
    """Return a callback that is given how many more of `total` are done, and logs the sum at most every ten seconds."""
    started = last = time.monotonic()
    n_done = 0

    def advance(n: int) -> None:
        nonlocal n_done, last
        n_done += n
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S:
            last = now
            log.info("%s: %d of %d, %.1f/s", name, n_done, total, n_done / (now - started))

    return advance
