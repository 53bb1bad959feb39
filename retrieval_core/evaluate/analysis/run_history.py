"""The nights before this one, as the runs' own documents tell them."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.releases import RUNS
from retrieval_core.metrics.retrieval import HEADLINES
from retrieval_core.store.base import Store

N_NIGHTS = 30
FOLLOWED = (*HEADLINES, "ann_recall@10")

log = logging.getLogger(__name__)


class PastNight(Value):
    """One run: when it ended, what became of its release, its headline metrics and its seconds by stage."""

    ended: str
    release: str
    gate: str
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    embedded: int = 0


def past_nights(store: Store, before: str = "", n: int = N_NIGHTS) -> tuple[PastNight, ...]:
    """The last n runs that ended by then, the latest last; documents that cannot be read are passed over.

    `before` is a moment in ISO 8601, UTC; "" is now. Reads no more than n documents.
    """
    ended = (key for key in store.list(f"{RUNS}/") if key.count("/") == 1 and key.endswith(".json"))
    keys = deque((key for key in ended if not before or _iso(key) < before), maxlen=n)
    nights = (_night(key, store.get(key)) for key in keys)
    return tuple(night for night in nights if night)


def _night(key: str, data: bytes) -> PastNight | None:
    try:
        told: Mapping[str, Any] = json.loads(data)
        metrics = {name: told["metrics"][name] for name in FOLLOWED if name in told["metrics"]}
        return PastNight(
            ended=_iso(key),
            release=told["release"],
            gate=told["gate"],
            metrics=metrics,
            seconds=told["seconds"],
            embedded=told.get("embedded", 0),
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s does not tell of a run: %s", key, error)
        return None


def _iso(key: str) -> str:
    """Of `runs/2026-11-21T070449.123+0000.json`: the colons, which no key may have, put back."""
    name = key.split("/")[1].removesuffix(".json")
    day, _, time = name.partition("T")
    return f"{day}T{time[:2]}:{time[2:4]}:{time[4:6]}+00:00" if len(time) >= 6 and time[:6].isdigit() else name


def n_held_in_a_row(nights: tuple[PastNight, ...]) -> int:
    """How many of the latest nights ended held."""
    count = 0
    for night in reversed(nights):
        if night.gate != "held":
            break
        count += 1
    return count
