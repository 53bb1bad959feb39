"""Vectors to index shards: plan which shards moved, update or build those, tune the search, seal the version."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.catalog_rows import HELD_OUT, load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.growing_sets import indexable_items, sample_vectors
from retrieval_core.artifacts.manifests import IndexSet, Ref, Value, VectorSet, fingerprint
from retrieval_core.artifacts.parts import describe_part, load_vectors
from retrieval_core.config import IndexConfig
from retrieval_core.errors import ShardCorrupt
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.plan import name_shard, rows_to_change, split_rows, template_key
from retrieval_core.index.recipes import Recipe, choose_recipe, choose_shards
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, shard_row_ids
from retrieval_core.index.tune import TuneResult, choose_candidate_dim, tune_queries, tune_search
from retrieval_core.index.update import can_update, imbalance, update_shard
from retrieval_core.search.release import open_index, shard_folders
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.stage import stage

SHARD_FILES = (INDEX_FILE, VECTORS_FILE)  # stored in this order: a shard exists when its last file does
MIN_HELD_OUT = 100
DIM_ROWS = 200_000  # of a larger catalogue a sample decides in how many dimensions candidates are found


class IndexShard(Value):
    """One shard of a version to be: where it goes, and what it is made of."""

    catalog: Ref
    vectors: Ref
    candidates: Ref
    template: str
    folder: str
    number: int
    n_shards: int
    before: Ref | None


class IndexPlan(Value):
    """A version of the index to be: its recipe, and the folder of every shard; `missing` numbers those to make.

    `before` is the index of production where its shards were made alike, so that they can be updated; `when_new` is
    empty where the template is new.
    """

    catalog: Ref
    vectors: Ref
    candidates: Ref
    recipe: Recipe
    template: str
    shards: tuple[str, ...]
    missing: tuple[int, ...]
    n_rows: int
    before: Ref | None
    when_new: dict[str, float]

    def split(self) -> list[IndexShard]:
        """The shards to make, each by itself."""
        return [
            IndexShard(
                catalog=self.catalog,
                vectors=self.vectors,
                candidates=self.candidates,
                template=self.template,
                folder=self.shards[number],
                number=number,
                n_shards=len(self.shards),
                before=self.before,
            )
            for number in self.missing
        ]


@stage("plan index")
def plan_index(settings: Settings, catalog: Ref, vectors: Ref, reduced: list[Ref], config: IndexConfig) -> IndexPlan:
    """Choose candidates, recipe and shards; a shard is named by what goes into it, so an unchanged one exists already.

    What production has stays while it serves: the width of the candidates and the trained lists.
    """
    store, logger = settings.open_store(), get_run_logger()
    release = releases.read_reference(store)
    standing = IndexSet.open(store, release.index) if release else None
    vector_set = VectorSet.open(store, vectors)
    rows = _rows(store, catalog, vector_set)
    sets = (vector_set, *(VectorSet.open(store, ref) for ref in reduced))
    known = (
        fingerprints.known_candidates(release, standing, catalog.name, sets, config) if release and standing else None
    )
    candidates = known or _choose_candidates(store, sets, rows, config, standing)
    recipe = choose_recipe(len(rows), candidates.dim, vector_set.dim, config)
    logger.info("index: %s", recipe.why)
    template = _choose_template(recipe, candidates, catalog, config, standing)
    _ensure_template(store, template, recipe, candidates, config)
    made_by = [template, vector_set.family, candidates.family]
    split = split_rows(rows, choose_shards(len(rows), config))
    shards = [f"{IndexSet.folder}/shards/{name_shard(shard, made_by)}" for shard in split]
    missing = tuple(n for n, folder in enumerate(shards) if not store.exists(f"{folder}/{SHARD_FILES[-1]}"))
    kept = standing if standing and standing.template == template else None
    alike = kept is not None and (kept.counts["shards"], kept.family) == (len(shards), vector_set.family)
    return IndexPlan(
        catalog=catalog,
        vectors=vectors,
        candidates=candidates.ref,
        recipe=recipe,
        template=template,
        shards=tuple(shards),
        missing=missing,
        n_rows=len(rows),
        before=kept.ref if kept and alike else None,
        when_new=kept.when_new if kept else {},
    )


def _rows(store: Store, catalog: Ref, vectors: VectorSet) -> pl.DataFrame:
    """row_id, content_id and split of every row that can be indexed."""
    items = indexable_items(store, load_items(store, catalog.name), vectors)
    return items.select("row_id", "content_id", "split")


def _choose_candidates(
    store: Store, sets: Sequence[VectorSet], rows: pl.DataFrame, config: IndexConfig, standing: IndexSet | None
) -> VectorSet:
    """Which of the sets, the full vectors and what they are reduced to, candidates are found in."""
    by_dim = {made.dim: made for made in sets}
    if len(by_dim) == 1:
        return sets[0]
    sample = rows.sample(min(len(rows), DIM_ROWS), seed=config.seed)
    loaded = {dim: load_vectors(store, made, sample["content_id"].to_list()) for dim, made in by_dim.items()}
    asking = _asking(sample.with_row_index("place"))["place"].to_numpy().astype(np.int64)
    return by_dim[choose_candidate_dim(loaded, asking, len(rows), config, standing.candidate_dim if standing else None)]


def _asking(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows to tune with: those nothing trained on, as what people will show, or all where they are few."""
    held_out = rows.filter(pl.col("split").is_in(HELD_OUT))
    return held_out if len(held_out) >= MIN_HELD_OUT else rows


def _choose_template(
    recipe: Recipe, candidates: VectorSet, catalog: Ref, config: IndexConfig, standing: IndexSet | None
) -> str:
    """The trained empty index of production while it serves, else one trained on tonight's catalogue."""
    question = fingerprints.template_fingerprint(recipe.key, config, candidates.family)
    if standing and standing.template.startswith(f"{question}-") and fingerprints.quantizer_serves(standing, config):
        return standing.template
    return f"{question}-{catalog.name}"


def _ensure_template(store: Store, template: str, recipe: Recipe, candidates: VectorSet, config: IndexConfig) -> None:
    if store.exists(template_key(template)):
        return
    empty = np.empty((0, candidates.dim), np.float32)
    sample = np.concatenate([empty, *sample_vectors(store, candidates, config.sample_rows, config.seed)])
    store.put_if_absent(template_key(template), train_template(sample, recipe, config.seed))


@stage("build index shard")
def build_index_shard(settings: Settings, shard: IndexShard) -> None:
    """Make one shard and store its files: from production's where that was made alike, else from the template.

    Both ways give the same bytes.
    """
    store = settings.open_store()
    vectors = VectorSet.open(store, shard.vectors)
    rows = split_rows(_rows(store, shard.catalog, vectors), shard.n_shards)[shard.number]
    template = store.get(template_key(shard.template))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not _updated(store, shard, rows, template, folder):
            content_ids = rows["content_id"].to_list()
            candidates = load_vectors(store, VectorSet.open(store, shard.candidates), content_ids)
            full = load_vectors(store, vectors, content_ids)
            build_shard(template, rows["row_id"].to_numpy(), candidates, full, folder)
        for file in SHARD_FILES:
            store.put_file(f"{shard.folder}/{file}", folder / file)


def _updated(store: Store, shard: IndexShard, rows: pl.DataFrame, template: bytes, folder: Path) -> bool:
    """Whether the shard could be made of production's; it cannot where that is damaged or its kind holds no lists."""
    if shard.before is None or not can_update(template):
        return False
    before = IndexSet.open(store, shard.before)
    try:
        previous = shard_folders(store, before)[shard.number]
        then = load_items(store, before.parents["catalog"], ["row_id", "content_id"])
        held = pl.DataFrame({"row_id": shard_row_ids(previous)})
        removed, added = rows_to_change(then.join(held, on="row_id", how="semi"), rows)
        content_ids = added["content_id"].to_list()
        candidates = load_vectors(store, VectorSet.open(store, shard.candidates), content_ids)
        full = load_vectors(store, VectorSet.open(store, shard.vectors), content_ids)
        update_shard(template, previous, removed, added["row_id"].to_numpy(), candidates, full, folder)
    except ShardCorrupt as error:
        get_run_logger().warning("%s; the shard is built anew", error)
        return False
    return True


@stage("seal index")
def seal_index(settings: Settings, plan: IndexPlan, config: IndexConfig) -> Ref:
    """Tune the search on the finished shards, and seal the version as a list of their files."""
    store = settings.open_store()
    vectors, candidates = VectorSet.open(store, plan.vectors), VectorSet.open(store, plan.candidates)
    tuning = config.model_dump(include={"recall_target", "nprobe", "rerank_depth", "tune_queries", "seed"})
    name = fingerprint("index", STAGE_VERSIONS["index"], [plan.shards, tuning], [plan.catalog.name])
    known = IndexSet.find(store, name)
    if known:
        return known.ref
    # A shard taken over is what production sealed: one that was damaged since must not be sealed as it is.
    taken = {part.key: part for part in IndexSet.open(store, plan.before).parts} if plan.before else {}
    keys = [f"{folder}/{file}" for folder in plan.shards for file in SHARD_FILES]
    parts = tuple(taken.get(key) or describe_part(store, key, n_rows=0) for key in keys)
    index = IndexSet(
        fingerprint=name,
        config=plan.recipe.model_dump(),
        parents={"catalog": plan.catalog.name, "vectors": vectors.fingerprint, "candidates": candidates.fingerprint},
        parts=parts,
        counts={"rows": plan.n_rows, "shards": len(plan.shards)},
        recipe=plan.recipe.key,
        dim=vectors.dim,
        candidate_dim=candidates.dim,
        nprobe=plan.recipe.nprobe,
        rerank_depth=config.rerank_depth or 1,
        template=plan.template,
        family=vectors.family,
    )
    tuned = _tuned(store, index, plan, config)
    uneven = imbalance(shard_folders(store, index))
    return (
        index.model_copy(
            update={
                "nprobe": tuned.nprobe,
                "rerank_depth": tuned.rerank_depth,
                "recall": tuned.recall,
                "curve": tuned.curve,
                "imbalance": uneven,
                "when_new": plan.when_new or {"imbalance": uneven, "recall": tuned.recall},
            }
        )
        .seal(store)
        .ref
    )


def _tuned(store: Store, index: IndexSet, plan: IndexPlan, config: IndexConfig) -> TuneResult:
    pool = _asking(_rows(store, plan.catalog, VectorSet.open(store, plan.vectors)))
    sample = pool.sample(min(len(pool), config.tune_queries), seed=config.seed).sort("row_id")
    candidates = load_vectors(store, VectorSet.open(store, plan.candidates), sample["content_id"].to_list())
    opened = open_index(store, index)
    tuned = tune_search(opened, tune_queries(opened, sample["row_id"].to_numpy(), candidates), config)
    if not tuned.reached:
        get_run_logger().warning(
            "index: searching finds %.4f of the true ten nearest at best, %.4f was asked (index.recall_target)",
            tuned.recall,
            config.recall_target,
        )
    return tuned
