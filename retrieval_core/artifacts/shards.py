"""Work on the pictures of a catalogue in shards: plan the shards that are missing, read one, store what it gives.

Every stage of this kind has three steps, `plan_x` -> `x_shard` for each shard -> `seal_x`. A shard that was stored
before its run was killed is not planned again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import polars as pl

from retrieval_core.artifacts.growing_sets import View, put_growing_part, seal_view, stored_parts_of
from retrieval_core.artifacts.manifests import GrowingSet, Ref, Value, fingerprint
from retrieval_core.artifacts.parts import read_unsealed, table_bytes
from retrieval_core.artifacts.pictures import Picture, usable_pictures
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 10.0


class ShardPlan(Value):
    """The ordered content ids of one shard, and the name of its part, which is derived from them."""

    name: str
    content_ids: tuple[str, ...]


def plan_shards(wanted: Iterable[str], present: Iterable[str], shard_rows: int) -> list[ShardPlan]:
    """Divide the `wanted` ids that are not `present` into shards of `shard_rows` ids; the last one may be shorter.

    Because ids are ordered and only the last shard is short, planning again after some shards were made gives the
    remaining ones under the same names.
    """
    missing = sorted(set(wanted) - set(present))
    chunks = (tuple(missing[i : i + shard_rows]) for i in range(0, len(missing), shard_rows))
    return [ShardPlan(name=_plan_name(chunk), content_ids=chunk) for chunk in chunks]


def _plan_name(content_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(content_ids).encode()).hexdigest()[:16]


class WorkShard(Value):
    """One shard of a plan; its size does not depend on the number of shards.

    `number` counts from 0 and selects its pictures in the plan's table at `key`.
    """

    folder: str
    family: str
    key: str
    name: str
    number: int
    n_shards: int

    @property
    def label(self) -> str:
        """For people: "shard 3 of 10"."""
        return f"shard {self.number + 1} of {self.n_shards}"


class WorkPlan(Value):
    """The shards of one family that are missing; `key` names the table of their pictures, "" when none is missing."""

    folder: str
    family: str
    key: str = ""
    shards: tuple[str, ...] = ()
    n_missing: int = 0

    def split(self) -> list[WorkShard]:
        """Return one value per shard, in order."""
        n_shards = len(self.shards)
        return [
            WorkShard(folder=self.folder, family=self.family, key=self.key, name=name, number=number, n_shards=n_shards)
            for number, name in enumerate(self.shards)
        ]


def plan_pictures(store: Store, kind: type[GrowingSet], family: str, catalog: Ref, shard_rows: int) -> WorkPlan:
    """Plan the shards of a catalogue's usable pictures that no part of the family covers yet."""
    return plan_work(store, kind.folder, family, usable_pictures(store, catalog), shard_rows)


def seal_pictures(store: Store, kind: type[View], plan: WorkPlan, catalog: Ref) -> View:
    """Seal the masks or classes of a catalogue's usable pictures, as far as they are stored, as one set."""
    return seal_view(store, kind, plan.family, catalog.name, usable_pictures(store, catalog)["content_id"])


def plan_work(store: Store, folder: str, family: str, pictures: pl.DataFrame, shard_rows: int) -> WorkPlan:
    """Store and return a plan of the shards that cover what no stored part covers yet.

    `pictures` has columns content_id, image_uri and item_id; of several items with the same picture, one is kept.
    """
    present = (key for stored in stored_parts_of(store, folder, family) for key in stored.content_ids)
    shards = plan_shards(pictures["content_id"], present, shard_rows)
    if not shards:
        return WorkPlan(folder=folder, family=family)
    shard_of = pl.DataFrame(
        [(number, key) for number, shard in enumerate(shards) for key in shard.content_ids],
        schema={"shard": pl.Int32, "content_id": pl.String},
        orient="row",
    )
    one_each = pictures.sort("content_id", "item_id").unique("content_id", keep="first")
    plan = shard_of.join(one_each, on="content_id", how="left").sort("shard", "content_id")
    names = tuple(shard.name for shard in shards)
    key = f"{folder}/{family}/plans/{fingerprint('plan', 1, names, [family])}.parquet"
    store.put(key, table_bytes(plan))
    return WorkPlan(folder=folder, family=family, key=key, shards=names, n_missing=len(plan))


def shard_pictures(store: Store, shard: WorkShard) -> list[Picture]:
    """Return the pictures of one shard of a plan, ordered by content id."""
    table = read_unsealed(store, shard.key, pl.col("shard") == shard.number).drop("shard").sort("content_id")
    return [Picture(**row) for row in table.iter_rows(named=True)]


def put_shard(store: Store, shard: WorkShard, content_ids: list[str], encode: Callable[[], bytes]) -> int:
    """Store the results of a shard as its part, unless there are none; return how many pictures they cover."""
    if content_ids:
        put_growing_part(store, shard.folder, shard.family, shard.name, encode(), len(content_ids))
    return len(content_ids)


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
