"""A run's release becomes production if the gate let it through, and is kept as the latest in any case."""

from __future__ import annotations

import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER, QUARANTINE_SCHEMA
from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Release, Report, VectorSet
from retrieval_core.artifacts.parts import read_unsealed, table_bytes
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import AliasConflict
from retrieval_core.evaluate.publish import Publication, publish_release
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.store.base import Store

CONFIG = NightlyConfig()
REJECT = Reject(item_id="i2", image_uri="/2.jpg", content_id="c2", reason="truncated", last_seen="2026-01-01")


def ref(kind: str, name: str) -> Ref:
    return Ref(kind=kind, key=f"{kind.lower()}s/{name}")


def outputs(store: Store, catalog: str = "c", rejects: tuple[Reject, ...] = ()) -> RunOutputs:
    head = Fitted(ref=ref("Head", "h"), trained=True)
    vectors = VectorSet(fingerprint="v", family="f", variant=Variant(boosted=True), dim=4, parents={"head": "h"}).seal(
        store
    )
    return RunOutputs(
        source="folder:/shop",
        catalog=ref("Catalog", catalog),
        catalog_facts=CatalogFacts(
            source="folder:/shop", rows=9, added=9, changed=0, removed=0, unchanged=0, indexed=8, quarantined=1
        ),
        backbone=ref("Backbone", "b"),
        segmenter=None,
        detector=None,
        masks=None,
        classifier=None,
        classes=None,
        heads=(Fitted(ref=ref("Head", "other"), trained=False), head),
        reducer=Fitted(ref=ref("Reducer", "r"), trained=True),
        variants=(vectors.ref,),
        vectors=vectors.ref,
        candidates=vectors.ref,
        index=ref("Index", "i"),
        n_shards_built=1,
        rejects=rejects,
        seconds={},
    )


def report(gate: str, name: str = "report") -> Report:
    return Report(fingerprint=name, gate=gate, gate_reason=f"It was {gate}.", gate_causes=("recall@1 fell",))


def publish(store: Store, gate: str, production: str | None = None, **given) -> Publication:
    name = given.pop("name", gate)
    return publish_release(store, outputs(store, **given), report(gate, name), production, CONFIG)


def test_a_release_that_the_gate_publishes_becomes_production(local_store: Store) -> None:
    publication = publish(local_store, "published")
    assert publication == Publication(release=publication.release, gate="published", reason="It was published.")
    production = releases.read_release(local_store, releases.PRODUCTION)
    assert production is not None
    assert production.fingerprint == publication.release
    assert (production.head, str(production.variant)) == (ref("Head", "h"), "boosted")
    assert (production.counts, production.gate_causes) == ({"rows": 8}, ("recall@1 fell",))
    assert production.nightly_config() == CONFIG
    latest = releases.read_release(local_store, releases.LATEST)
    assert latest == production


def test_a_release_that_the_gate_holds_is_only_the_latest(local_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first = publish(local_store, "published")
    held = publish(local_store, "held", first.release, catalog="other")
    assert held.gate == "held"
    assert "held back: It was held." in caplog.text
    aliases = {name: releases.read_alias(local_store, name) for name in (releases.PRODUCTION, releases.LATEST)}
    assert [alias.release for alias in aliases.values() if alias] == [first.release, held.release]


def test_a_release_is_not_published_over_one_it_was_not_compared_with(local_store: Store) -> None:
    publish(local_store, "published")
    with pytest.raises(AliasConflict):
        publish(local_store, "published", None, catalog="other", name="second")


def test_a_release_that_was_rolled_back_is_held_until_a_person_promotes_it(local_store: Store) -> None:
    first = publish(local_store, "published")
    second = publish(local_store, "published", first.release, catalog="other", name="second")
    releases.rollback(local_store)
    again = publish(local_store, "published", first.release, catalog="other", name="second")
    assert (again.release, again.gate) == (second.release, "held")
    assert "rolled back" in again.reason


def test_production_made_again_stays_published(local_store: Store) -> None:
    first = publish(local_store, "held")
    releases.promote(local_store, first.release, None)
    again = publish(local_store, "held", first.release)
    assert (again.release, again.gate) == (first.release, "published")


def test_pictures_refused_at_embedding_join_the_quarantine_ledger(local_store: Store) -> None:
    earlier = REJECT.model_copy(update={"reason": "absent", "last_seen": "2025-12-31"})
    other = REJECT.model_copy(update={"item_id": "i1"})
    ledger = pl.DataFrame([earlier.model_dump(), other.model_dump()], schema=QUARANTINE_SCHEMA)
    local_store.put(LEDGER, table_bytes(ledger))
    publish(local_store, "published", rejects=(REJECT,))
    rows = read_unsealed(local_store, LEDGER).select("item_id", "reason").rows()
    assert rows == [("i1", "truncated"), ("i2", "truncated")]


def test_the_same_outputs_are_sealed_as_the_same_release(local_store: Store) -> None:
    first = publish(local_store, "published")
    publish(local_store, "published", first.release)
    assert releases.release_names(local_store) == [first.release]
    assert Release.find(local_store, first.release) is not None
