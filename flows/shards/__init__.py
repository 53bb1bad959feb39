"""Runs a task over the shards of a plan, on the engine that the settings of the run choose."""

from flows.shards.engines import check_runner, each_shard, in_shards

__all__ = ["check_runner", "each_shard", "in_shards"]
