"""Bundle the night into a release; move production if the gate let it through."""

from __future__ import annotations

from typing import Literal

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Ref, Reject, Release, Report, Value, VectorSet, fingerprint
from retrieval_core.artifacts.parts import read_unsealed, table_bytes
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.stage import stage

Gate = Literal["published", "held"]


class Published(Value):
    """The night's release, and whether it is production now."""

    release: str
    gate: Gate
    reason: str


@stage("publish")
def publish_release(
    settings: Settings, night: RunOutputs, report: Ref, production: str | None, config: NightlyConfig
) -> Published:
    """Seal the release; promote it if the gate published it and production still is what it was compared with."""
    store = settings.open_store()
    sealed = Report.open(store, report)
    release = _release(store, night, sealed, config).seal(store)
    _add_to_ledger(store, night.rejects)
    gate, reason = _decide(store, release.fingerprint, production, sealed)
    if gate == "published":
        releases.promote(store, release.fingerprint, production)
    else:
        get_run_logger().warning("held back: %s", reason)
    releases.point_alias(store, releases.LATEST, release.fingerprint)
    return Published(release=release.fingerprint, gate=gate, reason=reason)


def _decide(store: Store, release: str, production: str | None, report: Report) -> tuple[Gate, str]:
    """What the gate said, unless a person has decided about this very release since."""
    alias = releases.read_alias(store, releases.PRODUCTION)
    if release == production:
        said = alias.promoted_by_hand if alias else None
        return "published", said.as_sentence() if said and report.gate == "held" else report.gate_reason
    if alias and alias.withdrawn == release:
        return "held", "Held: this release was rolled back; `vitrine promote` publishes it again."
    return report.gate, report.gate_reason


def _release(store: Store, night: RunOutputs, report: Report, config: NightlyConfig) -> Release:
    vectors = VectorSet.open(store, night.vectors)
    bundle = night.release_refs(store) | {"report": report.ref}
    parents = {role: ref.name for role, ref in bundle.items() if ref}
    return Release(
        fingerprint=fingerprint(
            "release", STAGE_VERSIONS["publish"], config.model_dump(mode="json"), list(parents.values())
        ),
        config=config.model_dump(mode="json"),
        parents=parents,
        counts={"rows": night.catalog_facts.indexed},
        heads=tuple(outcome.ref for outcome in night.heads),
        variant=vectors.full_variant(),
        gate=report.gate,
        gate_reason=report.gate_reason,
        gate_causes=report.gate_causes,
        **bundle,
    )


def _add_to_ledger(store: Store, rejects: tuple[Reject, ...]) -> None:
    """Pictures that went bad between ingest and embedding join the ledger that ingest wrote."""
    if not rejects:
        return
    ledger = read_unsealed(store, LEDGER)
    late = pl.DataFrame([reject.model_dump() for reject in rejects], schema=ledger.schema)
    store.put(LEDGER, table_bytes(pl.concat([ledger, late]).unique("item_id", keep="last").sort("item_id")))
