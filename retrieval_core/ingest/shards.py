"""Read the pictures of a snapshot in shards, which may run on other machines: plan, read a shard, collect the readings.

What was read is stored with the plan. A run that resumes after a kill plans the same shards, as long as the source and
what was last seen of it are the same, and reads those that are missing.
"""

from __future__ import annotations

import hashlib

import polars as pl

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Catalog, Value, fingerprint
from retrieval_core.artifacts.parts import read_unsealed, table_bytes
from retrieval_core.artifacts.pictures import PictureWriter
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.config import IngestConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.ingest.reading import READING_SCHEMA, read_pictures
from retrieval_core.ingest.snapshot import unread
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

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
    """Store the items of `plan_snapshot` or `plan_update`, their unread ones divided into shards.

    The `ledger` of the quarantine counts the attempts at each picture, so that every run reads a bad picture again.
    """
    number = pl.int_range(pl.len(), dtype=pl.Int32) // config.shard_rows
    shard_of = unread(planned).select("item_id", shard=number)
    items = planned.join(shard_of, on="item_id", how="left", maintain_order="left")
    data = table_bytes(items)
    states = [hashlib.sha256(part).hexdigest() for part in (data, table_bytes(ledger) if ledger is not None else b"")]
    question = [config.keep, config.keep_px, config.keep_quality, config.max_pixels]
    folder = f"{Catalog.folder}/{fingerprint('reading', STAGE_VERSIONS['ingest'], question, states)}/plans"
    store.put(f"{folder}/{ITEMS}", data)
    plan = ReadingPlan(folder=folder, n_shards=-(-len(shard_of) // config.shard_rows))
    return plan.model_copy(update={"done": tuple(shard.number for shard in plan.shards() if _is_read(store, shard))})


def _is_read(store: Store, shard: ReadingShard) -> bool:
    """Return whether a shard was read without a fault: a picture that could not be read may be repaired by now."""
    try:
        return read_unsealed(store, shard.key, pl.col("read_reason").is_not_null()).is_empty()
    except (NotFound, ShardCorrupt):
        return False


def read_shard(settings: Settings, shard: ReadingShard, config: IngestConfig) -> int:
    """Read the pictures of a shard, keep their bytes, and store what was read; return the number of pictures."""
    store = settings.open_store()
    items = read_unsealed(store, f"{shard.folder}/{ITEMS}", pl.col("shard") == shard.number)
    advance = log_progress(f"read {shard.label}", len(items))
    name = hashlib.sha256("\n".join(items["item_id"]).encode()).hexdigest()[:16]
    with PictureWriter(store, name) as writer:
        readings = read_pictures(items, config, writer, lambda _: advance(1))
        writer.finish()
    store.put(shard.key, table_bytes(readings))
    return len(readings)


def planned_items(store: Store, plan: ReadingPlan) -> pl.DataFrame:
    """Return the items of a plan."""
    return read_unsealed(store, f"{plan.folder}/{ITEMS}").drop("shard")


def collect_readings(store: Store, plan: ReadingPlan) -> pl.DataFrame:
    """Return what all shards of a plan have read (`READING_SCHEMA`)."""
    readings = [read_unsealed(store, shard.key) for shard in plan.shards()]
    return pl.concat([pl.DataFrame(schema=READING_SCHEMA), *readings])
