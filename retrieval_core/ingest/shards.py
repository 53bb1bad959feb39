"""Read the pictures of a snapshot in shards, which may run on other machines: plan, read a shard, collect the readings.

What was read is stored with the plan. A run that resumes after a kill plans the same shards, as long as the source and
what was last seen of it are the same, and reads those that are missing.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import polars as pl

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Catalog, Value, fingerprint
from retrieval_core.artifacts.mapped_rows import batches_at, beside, first_with_key, in_batches, mapped, rows_at
from retrieval_core.artifacts.parts import put_table, read_unsealed, table_bytes
from retrieval_core.artifacts.pictures import PictureWriter
from retrieval_core.artifacts.shards import log_progress, shard_name
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.ingest.reading import PICTURE_COLUMNS, READING_SCHEMA, read_pictures
from retrieval_core.ingest.snapshot import digest, unread_rows
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.traffic import Traffic, counted_traffic

ITEMS = "items.parquet"


class ReadingShard(Value):
    """One shard of a plan: it reads the rows of the plan's table in `folder` whose column shard is `number`."""

    folder: str
    number: int
    n_shards: int

    @property
    def key(self) -> str:
        """The store key of what was read."""
        return f"{self.folder}/readings-{self.number}.parquet"

    @property
    def label(self) -> str:
        """For people: "shard 3 of 10"."""
        return f"shard {self.number + 1} of {self.n_shards}"


class ReadingPlan(Value):
    """The planned items of a snapshot, a table in `folder`, and how many shards read those that are unread.

    `done` are the shards that an earlier run has read.
    """

    folder: str
    n_shards: int
    done: tuple[int, ...] = ()

    def shards(self) -> list[ReadingShard]:
        """Return all shards, in order."""
        numbers = range(self.n_shards)
        return [ReadingShard(folder=self.folder, number=number, n_shards=self.n_shards) for number in numbers]

    def split(self) -> list[ReadingShard]:
        """Return the shards that are to be read, in order."""
        return [shard for shard in self.shards() if shard.number not in self.done]


def plan_reading(store: Store, planned: pl.DataFrame, ledger: pl.DataFrame | None, config: IngestConfig) -> ReadingPlan:
    """Store the items of `plan_snapshot` or `plan_update`, the pictures of the unread ones divided into shards.

    The `ledger` of the quarantine counts the attempts at each picture, so that every run reads a bad picture again.
    """
    rows = unread_rows(planned)
    first = first_with_key(mapped(batches_at(planned.select(PICTURE_COLUMNS), rows)))
    number = np.cumsum(first == np.arange(len(first))) - 1
    shard_of = np.full(len(planned), -1, np.int32)
    shard_of[rows] = (number // config.shard_rows)[first]
    planned = beside(planned, pl.DataFrame({"shard": pl.Series(shard_of).replace(-1, None)}))
    states = [digest(batches_at(planned, rows)), digest(in_batches(ledger)) if ledger is not None else ""]
    question = [config.keep, config.keep_px, config.keep_quality, config.max_pixels]
    folder = f"{Catalog.folder}/{fingerprint('reading', STAGE_VERSIONS['ingest'], question, states)}/plans"
    put_table(store, f"{folder}/{ITEMS}", planned)
    plan = ReadingPlan(folder=folder, n_shards=-(-int(number.max(initial=-1) + 1) // config.shard_rows))
    done = (shard.number for shard in plan.shards() if _is_read(store, shard, planned))
    return plan.model_copy(update={"done": tuple(done)})


def _is_read(store: Store, shard: ReadingShard, planned: pl.DataFrame) -> bool:
    """Return whether a shard was read without a fault, and its pictures have versions, so that they did not change.

    A picture that could not be read may be repaired by now.
    """
    try:
        readings = read_unsealed(store, shard.key)
    except (NotFound, ShardCorrupt):
        return False
    rows = (planned["shard"] == shard.number).arg_true().to_numpy().astype(np.int64)
    items = rows_at(planned.select("item_id", planned_version="version"), rows)
    both = items.join(readings, on="item_id", how="left")
    is_sure = pl.col("read_reason").is_null() & pl.coalesce("version", "planned_version").is_not_null()
    return bool(both.select(is_sure.all()).item())


def read_shard(settings: Settings, shard: ReadingShard, config: IngestConfig) -> Traffic:
    """Read the pictures of a shard, keep their bytes, and store what was read; return what it took."""
    store = settings.open_store()
    items = read_unsealed(store, f"{shard.folder}/{ITEMS}", pl.col("shard") == shard.number)
    advance = log_progress(f"read {shard.label}", items.select(PICTURE_COLUMNS).n_unique())
    with counted_traffic() as counter, PictureWriter(store, shard_name(items["item_id"])) as writer:
        readings = read_pictures(items, config, writer, lambda _: advance(1))
        writer.finish()
    store.put(shard.key, table_bytes(readings))
    return counter.total


def planned_items(store: Store, plan: ReadingPlan) -> pl.DataFrame:
    """Return the items of a plan, mapped."""
    return read_unsealed(store, f"{plan.folder}/{ITEMS}").drop("shard")


def collect_readings(store: Store, plan: ReadingPlan) -> pl.DataFrame:
    """Return what all shards of a plan have read (`READING_SCHEMA`), mapped."""
    readings = (read_unsealed(store, shard.key) for shard in plan.shards())
    return mapped(chain([pl.DataFrame(schema=READING_SCHEMA)], readings))
