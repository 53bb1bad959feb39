"""A task that notes which process makes which shard, refuses one, or dies of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from retrieval_core.artifacts.manifests import Ref, Reject, Value
from retrieval_core.artifacts.shards import WorkShard
from retrieval_core.errors import ImageRefused
from retrieval_core.settings import Settings
from tasks.stage import stage


class Wishes(Value):
    """What becomes of which shard; `n_deaths` processes die of `deadly`."""

    deadly: int = -1
    n_deaths: int = 1
    refused: int = -1


class Noted(Value):
    """What is returned of a shard: values of the kinds that shards return."""

    number: int
    rejects: tuple[Reject, ...]
    counts: dict[str, int]


@stage("note shard")
def note_shard(settings: Settings, shard: WorkShard, wishes: Wishes, ref: Ref) -> Noted:
    """Write down who makes which shard, and do as wished."""
    folder = Path(settings.store)
    with (folder / "made").open("a") as made:
        made.write(f"{shard.number} {os.getpid()}\n")
    if shard.number == wishes.refused:
        raise ImageRefused(f"{shard.label} cannot be made")
    if shard.number == wishes.deadly and (folder / "made").read_text().count(f"{shard.number} ") <= wishes.n_deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    reject = Reject(item_id=f'"é {shard.number}"', image_uri=ref.key, reason="none", last_seen="2026-11-30")
    return Noted(number=shard.number, rejects=(reject,), counts={"raw": shard.number})
