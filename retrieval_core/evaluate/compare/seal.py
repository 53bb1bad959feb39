"""Seal a comparison under the fingerprint of all that its variants were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Comparison, Fitted, Ref, fingerprint
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.evaluate.compare.build import gather_facts
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.measure import ComparisonInputs, compare_variants, per_query_table, summary_table
from retrieval_core.evaluate.compare.render import render_comparison
from retrieval_core.store.base import Store


def comparison_fingerprint(
    config: ComparisonConfig,
    catalog: Ref,
    vectors: Sequence[Ref],
    classes: Sequence[Ref | None],
    models: Mapping[str, Fitted],
) -> str:
    """Return the fingerprint of a comparison; `vectors` and `classes` are those of the variants, in their order."""
    parents = [ref.name if ref else "" for ref in (catalog, *vectors, *classes)]
    parents += [model.ref.name for model in models.values()]
    return fingerprint("comparison", STAGE_VERSIONS["compare"], _question(config), parents)


def seal_comparison(store: Store, name: str, inputs: ComparisonInputs, config: ComparisonConfig) -> Comparison:
    """Put the same queries to every variant, and seal the report and its tables under `name`."""
    evaluate, top_classes = config.evaluate, config.classify.top_classes
    results = compare_variants(store, inputs.catalog, inputs.variants, evaluate, top_classes)
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
    parents |= {f"model/{model}": fitted.ref.name for model, fitted in inputs.models.items()}
    return Comparison(fingerprint=name, config=_question(config), parents=parents, parts=parts).seal(store)


def _question(config: ComparisonConfig) -> dict[str, object]:
    """The part of the config that the comparison depends on besides what was made for it."""
    included = {"title", "about", "variants", "tables", "evaluate"}
    return config.model_dump(mode="json", include=included) | {"top_classes": config.classify.top_classes}
