"""Vectors to index shards: plan which shards moved, build those, seal the version."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from retrieval_core import lineage
from retrieval_core.artifacts import IndexSet, Ref, Value, VectorSet, fingerprint
from retrieval_core.config import IndexConfig
from retrieval_core.index import VERSION
from retrieval_core.index.build import INDEX_FILE, VECTORS_FILE, build_shard, train_template
from retrieval_core.index.plan import name_shard, split_rows
from retrieval_core.index.recipes import Recipe, choose_recipe, choose_shards
from retrieval_core.sets import indexable_items, sample_vectors
from retrieval_core.settings import Settings
from retrieval_core.shards import describe_part, load_vectors
from retrieval_core.store import Store
from tasks.stage import stage

SHARD_FILES = (INDEX_FILE, VECTORS_FILE)  # stored in this order: a shard exists when its last file does


class IndexPlan(Value):
    """A version of the index to be: its recipe, and the folder of every shard; `missing` numbers those to build."""

    catalog: Ref
    vectors: Ref
    candidates: Ref
    recipe: Recipe
    template: str
    shards: tuple[str, ...]
    missing: tuple[int, ...]
    n_rows: int


@stage("plan index")
def plan_index(settings: Settings, catalog: Ref, vectors: Ref, candidates: Ref, config: IndexConfig) -> IndexPlan:
    """Choose recipe and shards; a shard is named by what goes into it, so an unchanged one exists already."""
    store = settings.open_store()
    vector_set, candidate_set = VectorSet.open(store, vectors), VectorSet.open(store, candidates)
    rows = _rows(store, catalog, vector_set)
    recipe = choose_recipe(len(rows), candidate_set.dim, config)
    template = lineage.template_fingerprint(recipe.key, config, candidate_set.family)
    _ensure_template(store, template, recipe, candidate_set, config)
    made_by = [template, vector_set.family, candidate_set.family]
    split = split_rows(rows, choose_shards(len(rows), config))
    shards = [f"{IndexSet.folder}/shards/{name_shard(shard, made_by)}" for shard in split]
    missing = tuple(n for n, folder in enumerate(shards) if not store.exists(f"{folder}/{SHARD_FILES[-1]}"))
    return IndexPlan(
        catalog=catalog,
        vectors=vectors,
        candidates=candidates,
        recipe=recipe,
        template=template,
        shards=tuple(shards),
        missing=missing,
        n_rows=len(rows),
    )


def _rows(store: Store, catalog: Ref, vectors: VectorSet) -> pl.DataFrame:
    """row_id and content_id of every row that can be indexed."""
    items = indexable_items(store, lineage.load_items(store, catalog.name), vectors)
    return items.select("row_id", "content_id")


def _template_key(template: str) -> str:
    return f"{IndexSet.folder}/templates/{template}.faiss"


def _ensure_template(store: Store, template: str, recipe: Recipe, candidates: VectorSet, config: IndexConfig) -> None:
    if store.exists(_template_key(template)):
        return
    empty = np.empty((0, candidates.dim), np.float32)
    sample = np.concatenate([empty, *sample_vectors(store, candidates, config.sample_rows, config.seed)])
    store.put_if_absent(_template_key(template), train_template(sample, recipe, config.seed))


@stage("build index shard")
def build_index_shard(settings: Settings, plan: IndexPlan, number: int) -> None:
    """Build one shard from the shared template and store its files."""
    store = settings.open_store()
    vectors, candidates = VectorSet.open(store, plan.vectors), VectorSet.open(store, plan.candidates)
    rows = split_rows(_rows(store, plan.catalog, vectors), len(plan.shards))[number]
    content_ids = rows["content_id"].to_list()
    template = store.get(_template_key(plan.template))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_shard(
            template,
            rows["row_id"].to_numpy(),
            load_vectors(store, candidates, content_ids),
            load_vectors(store, vectors, content_ids),
            folder,
        )
        for file in SHARD_FILES:
            store.put_file(f"{plan.shards[number]}/{file}", folder / file)


@stage("seal index")
def seal_index(settings: Settings, plan: IndexPlan) -> Ref:
    """The index version as a list of shard files."""
    store = settings.open_store()
    vectors, candidates = VectorSet.open(store, plan.vectors), VectorSet.open(store, plan.candidates)
    name = fingerprint("index", VERSION, [plan.shards, plan.recipe.nprobe], [plan.catalog.name])
    known = IndexSet.find(store, name)
    if known:
        return known.ref
    parts = tuple(describe_part(store, f"{folder}/{file}", n_rows=0) for folder in plan.shards for file in SHARD_FILES)
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
    )
    return index.seal(store).ref
