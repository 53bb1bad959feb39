"""Seal a release of an evaluated run, and promote it if the gate let it through."""

from __future__ import annotations

import logging
from typing import Literal

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER
from retrieval_core.artifacts.manifests import Reject, Release, Report, Value, VectorSet
from retrieval_core.artifacts.parts import read_unsealed, table_bytes
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

Gate = Literal["published", "held"]
UNCHANGED = "It is searched as production is: only fields of items, such as a price, or settings differ."


class Publication(Value):
    """The release of a run, and whether it is production now."""

    release: str
    gate: Gate
    reason: str


def publish_release(
    store: Store, outputs: RunOutputs, report: Report, production: str | None, config: NightlyConfig
) -> Publication:
    """Seal the release of a run, and promote it if the gate published it.

    `production` is the release that it was compared with. Raises `AliasConflict` when production has moved since.
    """
    release = _release(store, outputs, report, config).seal(store)
    _add_to_ledger(store, outputs.rejects)
    gate, reason = _decide(store, release, production, report)
    if gate == "published":
        releases.promote(store, release.fingerprint, production)
    else:
        log.warning("held back: %s", reason)
    releases.point_alias(store, releases.LATEST, release.fingerprint)
    return Publication(release=release.fingerprint, gate=gate, reason=reason)


def _decide(store: Store, release: Release, production: str | None, report: Report) -> tuple[Gate, str]:
    """What the gate decided, unless a person has decided about this very release since.

    A release with production's own report is searched as production is, however that was published.
    """
    alias = releases.read_alias(store, releases.PRODUCTION)
    if release.fingerprint == production:
        promotion = alias.promoted_by_hand if alias else None
        return "published", promotion.as_sentence() if promotion and report.gate == "held" else report.gate_reason
    if alias and alias.withdrawn == release.fingerprint:
        return "held", "Held: this release was rolled back; `vitrine promote` publishes it again."
    current = Release.find(store, production) if production else None
    if current and current.report == report.ref and release.nightly_config().gate.mode != "hold":
        return "published", UNCHANGED
    return report.gate, report.gate_reason


def _release(store: Store, outputs: RunOutputs, report: Report, config: NightlyConfig) -> Release:
    vectors = VectorSet.open(store, outputs.vectors)
    bundle = outputs.release_refs(store) | {"report": report.ref}
    parents = {role: ref.name for role, ref in bundle.items() if ref}
    question = config.model_dump(mode="json")
    return Release(
        fingerprint=releases.name_release(store, question, bundle),
        config=question,
        parents=parents,
        counts={"rows": outputs.catalog_facts.indexed},
        heads=tuple(head.ref for head in outputs.heads),
        variant=vectors.full_variant(),
        gate=report.gate,
        gate_reason=report.gate_reason,
        gate_causes=report.gate_causes,
        **bundle,
    )


def _add_to_ledger(store: Store, rejects: tuple[Reject, ...]) -> None:
    """Add the pictures that were refused at embedding to the quarantine ledger that ingest wrote."""
    if not rejects:
        return
    ledger = read_unsealed(store, LEDGER)
    late = pl.DataFrame([reject.model_dump() for reject in rejects], schema=ledger.schema)
    store.put(LEDGER, table_bytes(pl.concat([ledger, late]).unique("item_id", keep="last").sort("item_id")))
