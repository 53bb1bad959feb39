"""The runs before this one, as their own documents in the store describe them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.releases import run_ended, run_keys
from retrieval_core.metrics.registry import ANN_RECALL, HEADLINES
from retrieval_core.store.base import Store

N_RUNS = 30
METRICS = (*HEADLINES, ANN_RECALL.name)

log = logging.getLogger(__name__)


class PastRun(Value):
    """One run: when it ended (ISO 8601, UTC), the gate's verdict on its release, headline metrics, seconds a stage."""

    ended: str
    release: str
    gate: str
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    embedded: int = 0


def past_runs(store: Store, before: str = "", n: int = N_RUNS) -> tuple[PastRun, ...]:
    """Return the last n runs that ended before a moment, the latest last; unreadable documents are skipped.

    `before` is ISO 8601 in UTC; "" means now. Reads at most n documents.
    """
    keys = [key for key in run_keys(store) if not before or run_ended(key) < before]
    runs = (_parse(key, store.get(key)) for key in keys[max(len(keys) - n, 0) :])
    return tuple(run for run in runs if run)


def _parse(key: str, data: bytes) -> PastRun | None:
    try:
        document: Mapping[str, Any] = json.loads(data)
        return PastRun(
            ended=run_ended(key),
            release=document["release"],
            gate=document["gate"],
            metrics={name: document["metrics"][name] for name in METRICS if name in document["metrics"]},
            seconds=document["seconds"],
            embedded=document.get("embedded", 0),
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is not the document of a run: %s", key, error)
        return None


def n_held_in_a_row(runs: tuple[PastRun, ...]) -> int:
    """Count the latest runs whose releases were held, back to the last published one."""
    count = 0
    for run in reversed(runs):
        if run.gate != "held":
            break
        count += 1
    return count
