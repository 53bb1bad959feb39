"""What the runs of the pool `noted` start: the flow `make-shards`, with a task of the tests in place of the index's."""

from __future__ import annotations

from flows.shards.make_shards import TASKS, make_shards
from tests.flows.shards.noted_shards import note_shard

TASKS["index"] = note_shard
__all__ = ["make_shards"]
