"""Summarise a store for `vitrine status`: production, the releases and the last run."""

from __future__ import annotations

import json
import logging
from typing import Any

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.anchors import Anchor, describe_anchor, find_anchors
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)


class ReleaseRow(Value):
    """A release as `vitrine status` lists it; `causes` are the gate's reasons against publishing."""

    release: str
    created: str
    gate: str
    reason: str
    causes: tuple[str, ...]
    rows: int
    variant: str


class Status(Value):
    """Production, its promotions by hand (latest last), every release (oldest first), the last run's document.

    `anchor` is the release that the next challenger is also compared with, None where it cannot be read.
    """

    production: str | None
    anchor: Anchor | None
    promotions: tuple[releases.Promotion, ...]
    releases: list[ReleaseRow]
    last_run: dict[str, Any] | None


def status(store: Store) -> Status:
    """Return the status of a store."""
    production = releases.read_alias(store, releases.PRODUCTION)
    rows = [
        ReleaseRow(
            release=release.fingerprint,
            created=release.created,
            gate=release.gate,
            reason=release.gate_reason,
            causes=release.gate_causes,
            rows=release.counts["rows"],
            variant=str(release.variant),
        )
        for release in releases.list_releases(store)
    ]
    return Status(
        production=production.release if production else None,
        anchor=_anchor(store),
        promotions=production.promotions if production else (),
        releases=rows,
        last_run=last_run(store),
    )


def _anchor(store: Store) -> Anchor | None:
    try:
        production = releases.read_release(store, releases.PRODUCTION)
        return describe_anchor(store, next(find_anchors(store, production))) if production else None
    except (NotFound, ShardCorrupt) as error:
        log.warning("the anchor of production cannot be read: %s", error)
        return None


def last_run(store: Store) -> dict[str, Any] | None:
    """Return the document of the last run that ended, None before the first."""
    keys = releases.run_keys(store)
    return json.loads(store.get(keys[-1])) if keys else None
