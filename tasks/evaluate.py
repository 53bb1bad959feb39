"""Measure the night, compare it with production, write the report."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core import releases
from retrieval_core.artifacts import Ref, Report, fingerprint
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate import VERSION
from retrieval_core.evaluate.facts import CatalogFacts, Facts
from retrieval_core.evaluate.gate import Verdict, decide
from retrieval_core.evaluate.gather import gather_facts
from retrieval_core.evaluate.measure import Measured, Night, measure
from retrieval_core.evaluate.report import render
from retrieval_core.settings import Settings
from retrieval_core.shards import put_part, read_table, table_bytes
from retrieval_core.store import Store
from tasks.stage import stage

# Too large for metrics.json.
PICTURES: dict[str, Any] = {"grids": True, "masks": {"examples": True}, "duplicates": {"pairs": True}}
# The gate compares the published search alone: no other variant, no baseline, no spread, no rate where less is better.
NOT_COMPARED = re.compile(r"/|_random|_std|_rate")


@stage("evaluate")
def evaluate_night(settings: Settings, night: Night, config: NightlyConfig) -> Ref:
    """Measure, decide, and write the report. A night measured before against the same production keeps its report."""
    store = settings.open_store()
    production = releases.read_release(store, releases.PRODUCTION)
    against = Report.open(store, production.report) if production else None
    question: dict[str, object] = {
        "evaluate": config.evaluate.model_dump(),
        "gate": config.gate.model_dump(),
        "index": night.index.name,
        "variants": [ref.name for ref in night.variants],
    }
    if night.classes:
        question |= {"classes": night.classes.name, "top_classes": config.classify.top_classes}
    if against and against.config == question:
        return against.ref
    name = fingerprint("report", VERSION, question, [against.fingerprint if against else ""])
    known = Report.find(store, name)
    if known:
        return known.ref
    measured = measure(store, night, config)
    verdict = _verdict(store, measured, against, night.catalog_facts, config)
    get_run_logger().info("gate: %s. %s", verdict.gate, verdict.reason)
    facts = gather_facts(store, night, measured, verdict, config, name, production.fingerprint if production else None)
    return _seal(store, name, question, facts, measured).ref


def _verdict(
    store: Store, measured: Measured, against: Report | None, catalog: CatalogFacts, config: NightlyConfig
) -> Verdict:
    production = read_table(store, against.part("queries.parquet")) if against else None
    published = {name: value for name, value in measured.metrics.items() if not NOT_COMPARED.search(name)}
    return decide(
        measured.per_query, published, production, against.metrics if against else None, config.gate, catalog.reconciled
    )


def _seal(store: Store, name: str, question: dict[str, object], facts: Facts, measured: Measured) -> Report:
    metrics = pl.DataFrame({"metric": list(measured.metrics), "value": list(measured.metrics.values())})
    files = {
        "metrics.json": facts.model_dump_json(indent=1, exclude=PICTURES).encode(),
        "metrics.parquet": table_bytes(metrics),
        "queries.parquet": table_bytes(measured.per_query),
        "near_duplicates.parquet": table_bytes(measured.duplicates.pairs),
        "report.html": render(facts).encode(),
    }
    parts = tuple(put_part(store, f"{Report.folder}/{name}/{file}", data, 0) for file, data in files.items())
    return Report(
        fingerprint=name,
        config=question,
        parts=parts,
        metrics=measured.metrics,
        gate=facts.gate,
        gate_reason=facts.reason,
    ).seal(store)
