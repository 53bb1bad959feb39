"""Seal a comparison under the fingerprint of all that its variants were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Comparison, Fitted, Ref, fingerprint
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.evaluate.compare.build import gather_facts
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.measure import (
    ComparisonInputs,
    Searched,
    compare_variants,
    per_query_table,
    summary_table,
)
from retrieval_core.evaluate.compare.render import render_comparison
from retrieval_core.store.base import Store


def comparison_fingerprint(
    config: ComparisonConfig,
    catalog: Ref,
    searched: Sequence[Searched],
    replicas: Mapping[str, Sequence[Searched]],
    models: Mapping[str, Fitted],
) -> str:
    """Return the fingerprint of a comparison.

    `searched` are those of the variants, in their order; `replicas` those of other seeds, by variant.
    """
    everything = [*searched, *(replica for of_variant in replicas.values() for replica in of_variant)]
    refs = [catalog, *(getattr(entry, kind) for kind in ("vectors", "classes", "whole") for entry in everything)]
    parents = [ref.name if ref else "" for ref in refs]
    parents += [model.ref.name for model in models.values()]
    return fingerprint("comparison", STAGE_VERSIONS["compare"], _question(config), parents)


def seal_comparison(store: Store, name: str, inputs: ComparisonInputs, config: ComparisonConfig) -> Comparison:
    """Put the same queries to every variant, and seal the report and its tables under `name`."""
    results = compare_variants(store, inputs.catalog, inputs.variants, config)
    facts = gather_facts(store, inputs, results, config, name)
    files = {
        "facts.json": facts.json_bytes(),
        "summary.parquet": table_bytes(summary_table(results)),
        "queries.parquet": table_bytes(per_query_table(results)),
        "report.html": render_comparison(facts).encode(),
    }
    parts = put_parts(store, f"{Comparison.folder}/{name}", files)
    parents = {"catalog": inputs.catalog.name}
    parents |= {f"vectors/{variant.spec.name}": variant.vectors.name for variant in inputs.variants}
    parents |= {
        f"vectors/{variant.spec.name}/{step}": replica.vectors.name
        for variant in inputs.variants
        for step, replica in enumerate(variant.replicas, start=1)
    }
    parents |= {f"model/{model}": fitted.ref.name for model, fitted in inputs.models.items()}
    return Comparison(fingerprint=name, config=_question(config), parents=parents, parts=parts).seal(store)


def _question(config: ComparisonConfig) -> dict[str, object]:
    """The part of the config that the comparison depends on besides what was made for it."""
    included = {"title", "about", "variants", "tables", "evaluate", "protocol"}
    return config.model_dump(mode="json", include=included) | {"top_classes": config.classify.top_classes}
