"""Single files of a release made again from what they were made of, and put in place only if they are the same."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS, load_items
from retrieval_core.artifacts.growing_sets import indexable_items, sample_vectors
from retrieval_core.artifacts.manifests import Head, IndexSet, Part, Release, VectorSet
from retrieval_core.artifacts.parts import load_vectors, read_vectors, table_bytes, vectors_bytes
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.plan import split_rows, template_key
from retrieval_core.index.recipes import Recipe
from retrieval_core.index.update import template_of
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.inventory import Holdings
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, load_pca
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256

_LAST_SEEN = {"items.parquet": SEEN_ITEMS, "quarantine.parquet": LEDGER}


def remake_catalog_part(store: Store, release: Release, part: Part, source: str | None) -> str:
    """Make a table of a release's catalogue again, from what was last seen or from the source; returns from what.

    Raises `ShardCorrupt` where neither gives what was sealed.
    """
    name = part.key.rsplit("/", 1)[-1]
    for made_of, make in _catalog_makers(store, release, name, source):
        try:
            data = make()
        except NotFound:
            continue
        if hashlib.sha256(data).hexdigest() == part.sha256:
            store.put(part.key, data)
            return made_of
    raise ShardCorrupt(f"neither what was last seen nor {source or 'a source (give --source)'} holds the same table")


def _catalog_makers(
    store: Store, release: Release, name: str, source: str | None
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    yield "what was last seen of the source", partial(store.get, _LAST_SEEN[name])
    if source and name == "items.parquet":
        yield source, partial(_items_of, source, release.nightly_config())


def _items_of(source: str, config: NightlyConfig) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return table_bytes(take_snapshot(open_source(source).rows(), None, config.ingest, now).items)


def remake_derived_part(held: Holdings, release: Release, view: VectorSet, part: Part) -> str:
    """Boost or reduce a part of a view again; returns from what. Raises `ShardCorrupt`, `NotFound` where it cannot be.

    A view whose vectors come from pictures has no source.
    """
    source = held.vector_set(view.parents.get("vectors", ""))
    transform = _transform(held, release, view, source)
    twin = source.part(part.key.rsplit("/", 1)[-1])
    ids, vectors = read_vectors(held.store.local_path(twin.key, twin.sha256))
    data = vectors_bytes(ids, transform(vectors))
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ShardCorrupt(f"made of {twin.key} again it differs from what was sealed")
    held.store.put(part.key, data)
    return twin.key


def _transform(held: Holdings, release: Release, view: VectorSet, source: VectorSet) -> Callable[[Float32], Float32]:
    """What made the vectors of a view out of those of its source. Raises `NotFound`."""
    if "head" in view.parents:
        weights = held.open(f"{Head.folder}/{view.parents['head']}").part(WEIGHTS_FILE)
        return partial(boost, load_head(held.store.local_path(weights.key, weights.sha256)))
    reducer = release.reducer
    if reducer and fingerprints.reduced_family(reducer.name, source.family, view.dim) == view.family:
        fitted = held.open(reducer.key).part(PCA_FILE)
        pca = load_pca(held.store.local_path(fitted.key, fitted.sha256))
        return partial(apply_pca, pca, dim=view.dim, whiten=release.nightly_config().reduce.whiten)
    raise NotFound(f"no model of release {release.fingerprint} makes {view.key}")


def remake_shard(held: Holdings, release: Release, index: IndexSet, folder: str) -> str:
    """Build a shard of an index again; returns from what. A template that is lost is trained again too.

    Raises `ShardCorrupt`, and `NotFound` where vectors, catalogue or template are gone; then nothing is changed.
    """
    store = held.store
    vectors, candidates = (held.vector_set(index.parents.get(role, "")) for role in ("vectors", "candidates"))
    items = indexable_items(store, load_items(store, release.catalog.name), vectors)
    shards = _files_by_shard(index)
    rows = split_rows(items.select("row_id", "content_id"), len(shards))[list(shards).index(folder)]
    content_ids = rows["content_id"].to_list()
    made_of = load_vectors(store, candidates, content_ids), load_vectors(store, vectors, content_ids)
    sealed = shards[folder]
    for template, what in _templates(held, release, index, candidates):
        with tempfile.TemporaryDirectory() as name, suppress(ShardCorrupt):  # of a template that cannot be read
            made = Path(name)
            build_shard(template, rows["row_id"].to_numpy(), *made_of, made)
            files = {part.key: made / part.key.rsplit("/", 1)[-1] for part in sealed}
            if all(file_sha256(files[part.key]) == part.sha256 for part in sealed):
                store.put(template_key(index.template), template)
                for key, file in files.items():
                    store.put_file(key, file)
                return f"{len(rows)} vectors and {what}"
    raise ShardCorrupt("built again from its vectors it differs from what was sealed")


def remake_template(store: Store, index: IndexSet) -> str:
    """Put in place what the shards of an index start from, where it is not what they do; its key, "" where it was.

    Known from any shard that is whole; nothing is done without one, or where shards keep more than rows.
    """
    key, stored = template_key(index.template), None
    with suppress(NotFound):
        stored = store.get(key)
    for files in _files_by_shard(index).values():
        with suppress(NotFound, ShardCorrupt):
            paths = [store.local_path(part.key, part.sha256) for part in files]
            template = template_of(paths[0].parent)
            if template is None or template == stored:
                return ""
            store.put(key, template)
            return key
    return ""


def _files_by_shard(index: IndexSet) -> dict[str, list[Part]]:
    shards: dict[str, list[Part]] = {}
    for part in index.parts:
        shards.setdefault(part.key.rsplit("/", 1)[0], []).append(part)
    return shards


def _templates(held: Holdings, release: Release, index: IndexSet, candidates: VectorSet) -> Iterator[tuple[bytes, str]]:
    """The stored template, then the one trained again, each with what to call it."""
    with suppress(NotFound):
        yield held.store.get(template_key(index.template)), "its template"
    trained_on = index.template.rpartition("-")[2]
    views = [held.open(key) for key in held.views((VectorSet.folder, candidates.family))]
    then = [view for view in views if isinstance(view, VectorSet) and view.parents["catalog"] == trained_on]
    config = release.nightly_config().index
    empty = np.empty((0, candidates.dim), np.float32)
    drawn = sample_vectors(held.store, (then or [candidates])[0], config.sample_rows, config.seed)
    recipe = Recipe.model_validate(index.config)
    yield train_template(np.concatenate([empty, *drawn]), recipe, config.seed), "a template trained again"
