"""Versions of the index: plan which shards are missing, update or build those, tune the search, seal the version.

A shard is named after what goes into it, so one whose rows did not change exists already. A version keeps what
production has while it still serves: the width of the candidates, and the template with its trained lists.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import HELD_OUT, load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS, reduced_family, template_fingerprint
from retrieval_core.artifacts.growing_sets import indexable_items, sample_vectors
from retrieval_core.artifacts.manifests import IndexSet, Part, Ref, Release, Value, VectorSet, fingerprint
from retrieval_core.artifacts.parts import load_vectors, put_parts, stored_parts
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import open_index, shard_folders
from retrieval_core.index.plan import (
    TEMPLATE_FILE,
    TEMPLATES,
    name_shard,
    read_template,
    rows_to_change,
    split_rows,
    template_name,
)
from retrieval_core.index.recipes import Recipe, choose_recipe, choose_shards
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, shard_row_ids
from retrieval_core.index.tune import TuneResult, choose_candidate_dim, tune_queries, tune_search
from retrieval_core.index.update import can_update, imbalance, update_shard
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

SHARD_FILES = (INDEX_FILE, VECTORS_FILE)
MIN_HELD_OUT = 100
DIM_ROWS = 200_000  # of a larger catalogue a sample decides in how many dimensions candidates are searched
RECALL_NOISE = 0.005  # three standard errors of a recall of 0.99 over the ten nearest of 500 queries


class IndexShard(Value):
    """One shard of a planned version: where it is stored, and what it is made of."""

    catalog: Ref
    vectors: Ref
    candidates: Ref
    template: str
    folder: str
    number: int
    n_shards: int
    previous: Ref | None


class IndexPlan(Value):
    """A version of the index to make: its recipe, and the folder of every shard; `missing` numbers those to make.

    `previous` is the index of production if its shards were made the same way, so that they can be updated;
    `when_new` is empty when the template is new.
    """

    catalog: Ref
    vectors: Ref
    candidates: Ref
    recipe: Recipe
    template: str
    shards: tuple[str, ...]
    missing: tuple[int, ...]
    n_rows: int
    previous: Ref | None
    when_new: dict[str, float]

    def split(self) -> list[IndexShard]:
        """Return one value per missing shard, in order."""
        return [
            IndexShard(
                catalog=self.catalog,
                vectors=self.vectors,
                candidates=self.candidates,
                template=self.template,
                folder=self.shards[number],
                number=number,
                n_shards=len(self.shards),
                previous=self.previous,
            )
            for number in self.missing
        ]


def plan_index(
    store: Store, catalog: Ref, vectors: VectorSet, reduced: Sequence[VectorSet], config: IndexConfig
) -> IndexPlan:
    """Choose candidates, recipe, template and shards, train a template that is new, and return the plan."""
    release = releases.read_reference(store)
    current = IndexSet.open(store, release.index) if release else None
    rows = _indexable_rows(store, catalog, vectors)
    sets = (vectors, *reduced)
    candidates = previous_candidates(release, current, sets, config) if release and current else None
    candidates = candidates or _choose_candidates(store, sets, rows, config, current)
    recipe = choose_recipe(len(rows), candidates.dim, vectors.dim, config)
    log.info("index: %s", recipe.why)
    template = _choose_template(store, recipe, candidates, catalog, config, current)
    made_by = [template, vectors.family, candidates.family]
    split = split_rows(rows, choose_shards(len(rows), config))
    shards = [f"{IndexSet.folder}/shards/{name_shard(shard, made_by)}" for shard in split]
    missing = tuple(n for n, folder in enumerate(shards) if stored_parts(store, folder, SHARD_FILES) is None)
    kept = current if current and current.template == template else None
    is_updatable = kept is not None and (kept.counts["shards"], kept.family) == (len(shards), vectors.family)
    return IndexPlan(
        catalog=catalog,
        vectors=vectors.ref,
        candidates=candidates.ref,
        recipe=recipe,
        template=template,
        shards=tuple(shards),
        missing=missing,
        n_rows=len(rows),
        previous=kept.ref if kept and is_updatable else None,
        when_new=kept.when_new if kept else {},
    )


def make_shard(store: Store, shard: IndexShard) -> None:
    """Make one shard and store its files: updated from production's if possible, else built from the template.

    Both ways give the same bytes.
    """
    vectors = VectorSet.open(store, shard.vectors)
    rows = split_rows(_indexable_rows(store, shard.catalog, vectors), shard.n_shards)[shard.number]
    template = read_template(store, shard.template)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not _update(store, shard, rows, template, folder):
            candidates, full = _load_pairs(store, shard, rows)
            build_shard(template, rows["row_id"].to_numpy(), candidates, full, folder)
        put_parts(store, shard.folder, {file: folder / file for file in SHARD_FILES})


def seal_index(store: Store, plan: IndexPlan, config: IndexConfig) -> IndexSet:
    """Tune the search on the finished shards, and seal the version as a list of their files."""
    vectors, candidates = VectorSet.open(store, plan.vectors), VectorSet.open(store, plan.candidates)
    tuning = config.model_dump(include={"recall_target", "nprobe", "rerank_depth", "tune_queries", "seed"})
    name = fingerprint("index", STAGE_VERSIONS["index"], [plan.shards, tuning], [plan.catalog.name])
    existing = IndexSet.find(store, name)
    if existing:
        return existing
    index = IndexSet(
        fingerprint=name,
        config=plan.recipe.model_dump(),
        parents={"catalog": plan.catalog.name, "vectors": vectors.fingerprint, "candidates": candidates.fingerprint},
        parts=tuple(part for folder in plan.shards for part in _shard_parts(store, folder)),
        counts={"rows": plan.n_rows, "shards": len(plan.shards)},
        recipe=plan.recipe.key,
        dim=vectors.dim,
        candidate_dim=candidates.dim,
        nprobe=plan.recipe.nprobe,
        rerank_depth=config.rerank_depth or 1,
        template=plan.template,
        family=vectors.family,
    )
    tuned = _tune(store, index, plan, config)
    measured = {"imbalance": imbalance(shard_folders(store, index)), "recall": tuned.recall}
    chosen = {"nprobe": tuned.nprobe, "rerank_depth": tuned.rerank_depth, "curve": tuned.curve}
    return index.model_copy(update=chosen | measured | {"when_new": plan.when_new or measured}).seal(store)


def _shard_parts(store: Store, folder: str) -> tuple[Part, ...]:
    parts = stored_parts(store, folder, SHARD_FILES)
    if parts is None:
        raise NotFound(f"{store.url}/{folder} holds no intact shard, which this run has planned or made; run again")
    return parts


def quantizer_serves(current: IndexSet, config: IndexConfig) -> bool:
    """Return whether the trained lists of an index still serve: about as even, and recall as high, as when new."""
    is_uneven = current.imbalance > config.max_imbalance * current.when_new["imbalance"]
    is_worse = current.recall < min(config.recall_target, current.when_new["recall"]) - RECALL_NOISE
    return not (is_uneven or is_worse)


def previous_candidates(
    release: Release, current: IndexSet, sets: Sequence[VectorSet], config: IndexConfig
) -> VectorSet | None:
    """Return those of `sets` in as many dimensions as the index `current` of a release searches, while that serves.

    `sets` are the full vectors and what they are reduced to. Return None when vectors, reducer or config are others, or
    the index does not reach its recall, so that the choice has to be measured. A reducer is fitted again once much of
    the catalogue has changed.
    """
    full, *reduced = sets
    reducer = release.reducer.name if release.reducer else ""
    families = [full.family, *(reduced_family(reducer, full.family, vectors.dim) for vectors in reduced)]
    same_models = current.family == full.family and [vectors.family for vectors in sets] == families
    serves = release.config["index"] == config.model_dump(mode="json") and current.recall >= config.recall_target
    return next((vectors for vectors in sets if vectors.dim == current.candidate_dim and same_models and serves), None)


def _indexable_rows(store: Store, catalog: Ref, vectors: VectorSet) -> pl.DataFrame:
    """row_id, content_id and split of every row that can be indexed."""
    items = load_items(store, catalog.name, ["item_id", "row_id", "content_id", "split", "status"])
    return indexable_items(store, items, vectors).select("row_id", "content_id", "split")


def _query_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows to tune with: those that nothing trained on, as what users will query, or all if these are few."""
    held_out = rows.filter(pl.col("split").is_in(HELD_OUT))
    return held_out if len(held_out) >= MIN_HELD_OUT else rows


def _choose_candidates(
    store: Store, sets: Sequence[VectorSet], rows: pl.DataFrame, config: IndexConfig, current: IndexSet | None
) -> VectorSet:
    """Which of the sets, the full vectors and what they are reduced to, candidates are searched in."""
    by_dim = {vectors.dim: vectors for vectors in sets}
    if len(by_dim) == 1:
        return sets[0]
    sample = rows.sample(min(len(rows), DIM_ROWS), seed=config.seed)
    loaded = {dim: load_vectors(store, vectors, sample["content_id"]) for dim, vectors in by_dim.items()}
    queries = _query_rows(sample.with_row_index("place"))["place"].to_numpy().astype(np.int64)
    current_dim = current.candidate_dim if current else None
    return by_dim[choose_candidate_dim(loaded, queries, len(rows), config, current_dim)]


def _choose_template(
    store: Store, recipe: Recipe, candidates: VectorSet, catalog: Ref, config: IndexConfig, current: IndexSet | None
) -> str:
    """The template of production while it serves, else one trained on this catalogue, which may be stored already."""
    question = template_fingerprint(recipe.key, config, candidates.family)
    if current and current.template.startswith(f"{question}-") and quantizer_serves(current, config):
        try:
            read_template(store, current.template)
            return current.template
        except (NotFound, ShardCorrupt) as error:
            log.warning("%s; another one is trained", error)
    name = f"{question}-{catalog.name}"
    stored = stored_parts(store, f"{TEMPLATES}{name}", (TEMPLATE_FILE,))
    if stored:
        return stored[0].key.removeprefix(TEMPLATES).removesuffix(f"/{TEMPLATE_FILE}")
    data = train_on_sample(store, candidates, recipe, config)
    put_parts(store, f"{TEMPLATES}{name}", {TEMPLATE_FILE: data})
    return template_name(name, data)


def train_on_sample(store: Store, candidates: VectorSet, recipe: Recipe, config: IndexConfig) -> bytes:
    """Return the empty index of `recipe`, trained on a random sample of the candidate vectors."""
    empty = np.empty((0, candidates.dim), np.float32)
    sample = sample_vectors(store, candidates, config.sample_rows, config.seed)
    return train_template(np.concatenate([empty, *sample]), recipe, config.seed)


def _load_pairs(store: Store, shard: IndexShard, rows: pl.DataFrame) -> tuple[Float32, Float32]:
    """The candidate vectors and the full ones of some rows."""
    candidates, full = (
        load_vectors(store, VectorSet.open(store, ref), rows["content_id"]) for ref in (shard.candidates, shard.vectors)
    )
    return candidates, full


def _update(store: Store, shard: IndexShard, rows: pl.DataFrame, template: bytes, folder: Path) -> bool:
    """Write the shard as an update of production's; return False if that is damaged or its kind cannot be updated."""
    if shard.previous is None or not can_update(template):
        return False
    previous = IndexSet.open(store, shard.previous)
    try:
        previous_folder = shard_folders(store, previous)[shard.number]
        items = load_items(store, previous.parents["catalog"], ["row_id", "content_id"])
        held = pl.DataFrame({"row_id": shard_row_ids(previous_folder)})
        removed, added = rows_to_change(items.join(held, on="row_id", how="semi"), rows)
        candidates, full = _load_pairs(store, shard, added)
        update_shard(template, previous_folder, removed, added["row_id"].to_numpy(), candidates, full, folder)
    except ShardCorrupt as error:
        log.warning("%s; the shard is rebuilt", error)
        return False
    return True


def _tune(store: Store, index: IndexSet, plan: IndexPlan, config: IndexConfig) -> TuneResult:
    pool = _query_rows(_indexable_rows(store, plan.catalog, VectorSet.open(store, plan.vectors)))
    sample = pool.sample(min(len(pool), config.tune_queries), seed=config.seed).sort("row_id")
    candidates = load_vectors(store, VectorSet.open(store, plan.candidates), sample["content_id"])
    opened = open_index(store, index)
    tuned = tune_search(opened, tune_queries(opened, sample["row_id"].to_numpy(), candidates), config)
    if not tuned.reached:
        log.warning(
            "index: searching finds %.4f of the true ten nearest at best, %.4f was asked (index.recall_target)",
            tuned.recall,
            config.recall_target,
        )
    return tuned
