"""Variants side by side: what the catalogue can teach, what a picture costs, and the comparison itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Comparison, Fitted, Ref, Value, fingerprint
from retrieval_core.artifacts.parts import put_part_once, table_bytes
from retrieval_core.artifacts.shards import usable_pictures
from retrieval_core.evaluate.compare.build import gather_facts
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.cost import decode_sample, ms_per_picture
from retrieval_core.evaluate.compare.measure import ComparisonInputs, compare_variants, per_query_table, summary_table
from retrieval_core.evaluate.compare.render import render_comparison
from retrieval_core.head.targets import build_targets
from retrieval_core.settings import Settings
from retrieval_core.train.config import DistillTraining
from retrieval_core.train.inputs import find_teacher, teacher_vectors
from retrieval_core.train.split import choose_items
from tasks.stage import stage


class Unlearnable(Value):
    """What a catalogue cannot teach: the reasons by model, and why no head can boost vectors ("" where one can)."""

    models: dict[str, str] = {}
    head: str = ""


@stage("check what can be learned")
def find_unlearnable(settings: Settings, catalog: Ref, config: ComparisonConfig) -> Unlearnable:
    """What of the comparison cannot be trained on this catalogue. Raises `BadConfig` for a teacher nobody knows."""
    from retrieval_core.evaluate.compare.check import why_unlearnable

    store = settings.open_store()
    items = load_items(store, catalog.name)
    reasons = {}
    for name, model in config.models.items():
        if name in config.teachers:
            continue  # toward vectors of this very catalogue
        teacher = None
        if isinstance(model, DistillTraining):
            content_ids = choose_items(items, model)["content_id"].to_list()
            teacher = teacher_vectors(store, find_teacher(store, model.teacher), content_ids)
        reasons[name] = why_unlearnable(model, items, teacher)
    tasks = build_targets(items.filter(items["status"] == "ok"), config.head.min_count).tasks
    return Unlearnable(
        models={name: reason for name, reason in reasons.items() if reason},
        head="" if tasks else "no label of the catalogue is frequent enough for a head to learn from",
    )


@stage("time network")
def time_network(settings: Settings, catalog: Ref, network: Ref, config: ComparisonConfig) -> float:
    """Milliseconds that a network takes for a picture of the catalogue, on this machine."""
    pictures = usable_pictures(settings.open_store(), catalog).sort("item_id")
    shuffled = pictures.sample(fraction=1.0, shuffle=True, seed=0)["image_uri"].to_list()
    images = decode_sample(shuffled, config.ingest.max_pixels)
    return ms_per_picture(settings, network, images, config.crop)


def comparison_fingerprint(
    config: ComparisonConfig,
    catalog: Ref,
    vectors: Sequence[Ref],
    classes: Sequence[Ref | None],
    models: Mapping[str, Fitted],
) -> str:
    """Of the comparison of what was made for the variants of `config`, in their order."""
    parts = [ref.name if ref else "" for ref in (catalog, *vectors, *classes)]
    return fingerprint(
        "comparison",
        STAGE_VERSIONS["compare"],
        _question(config),
        parts + [model.ref.name for model in models.values()],
    )


def _question(config: ComparisonConfig) -> dict[str, object]:
    told = {"title", "about", "variants", "tables", "evaluate"}
    return config.model_dump(mode="json", include=told) | {"top_classes": config.classify.top_classes}


@stage("compare")
def seal_comparison(settings: Settings, name: str, inputs: ComparisonInputs, config: ComparisonConfig) -> Ref:
    """Ask every variant the same queries, and seal the report under `name`."""
    store = settings.open_store()
    evaluate, top_classes = config.evaluate, config.classify.top_classes
    results = compare_variants(store, inputs.catalog, inputs.variants, evaluate, top_classes)
    facts = gather_facts(store, inputs, results, config, name)
    files = {
        "facts.json": facts.json_bytes(),
        "summary.parquet": table_bytes(summary_table(results)),
        "queries.parquet": table_bytes(per_query_table(results)),
        "report.html": render_comparison(facts).encode(),
    }
    parts = tuple(put_part_once(store, f"{Comparison.folder}/{name}/{file}", data, 0) for file, data in files.items())
    parents = {"catalog": inputs.catalog.name}
    parents |= {f"vectors/{variant.spec.name}": variant.vectors.name for variant in inputs.variants}
    parents |= {f"model/{model}": fitted.ref.name for model, fitted in inputs.models.items()}
    return Comparison(fingerprint=name, config=_question(config), parents=parents, parts=parts).seal(store).ref
