"""Rebuild single files of a release from their sources; they are put in place only if the bytes are the sealed ones."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

import polars as pl

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import (
    FIELDS_FILE,
    LEDGER,
    QUARANTINE_FILE,
    SEEN_ITEMS,
    field_table,
    item_pieces,
    load_items,
    with_fields,
)
from retrieval_core.artifacts.growing_sets import Transform, derived_bytes, derived_name, indexable_items, made_of
from retrieval_core.artifacts.manifests import Head, IndexSet, Part, Release, VectorSet
from retrieval_core.artifacts.parts import load_vectors, read_unsealed, table_bytes
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.index.build import build_shard
from retrieval_core.index.plan import read_template, split_rows, template_key, template_name
from retrieval_core.index.recipes import Recipe
from retrieval_core.index.update import template_of
from retrieval_core.index.versions import train_on_sample
from retrieval_core.ingest.delta import require_whole
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, load_pca
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256


def rebuild_catalog_part(store: Store, release: Release, part: Part, source: str | None) -> str:
    """Rebuild a table of a release's catalogue or fields from what was last seen or the source; return which it was.

    Raises `ShardCorrupt` if neither gives the sealed bytes.
    """
    is_items = not part.key.endswith(f"/{QUARANTINE_FILE}")
    for origin, read in _catalog_origins(store, release, is_items, source):
        with suppress(NotFound, ShardCorrupt):
            for table in _tables_of(part, read()):
                data = table_bytes(table)
                if hashlib.sha256(data).hexdigest() == part.sha256:
                    store.put(part.key, data)
                    return origin
    raise ShardCorrupt(f"neither what was last seen nor {source or 'a source (give --source)'} holds the same table")


def _tables_of(part: Part, table: pl.DataFrame) -> Iterable[pl.DataFrame]:
    """Return what the part may hold of a table of items or of rejects."""
    if part.key.endswith(f"/{FIELDS_FILE}"):
        return [field_table(with_fields(table))]
    is_items = not part.key.endswith(f"/{QUARANTINE_FILE}")
    return chain([table], item_pieces(table) if is_items else ())  # older stores have the items in one piece


def _catalog_origins(
    store: Store, release: Release, is_items: bool, source: str | None
) -> Iterator[tuple[str, Callable[[], pl.DataFrame]]]:
    yield "what was last seen of the source", partial(read_unsealed, store, SEEN_ITEMS if is_items else LEDGER)
    if source and is_items:
        yield source, partial(_read_source, source, release.nightly_config())


def _read_source(source: str, config: NightlyConfig) -> pl.DataFrame:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    opened = open_source(source)
    require_whole(opened)
    return take_snapshot(opened.rows(), None, config.ingest, now).items


def rebuild_derived_part(inventory: Inventory, release: Release, view: VectorSet, part: Part) -> str:
    """Boost or reduce a part of a view again; return the key of the part it derives from.

    Raises `NotFound` if the view does not derive from other vectors, or its source or model is absent; `ShardCorrupt`
    if the bytes differ.
    """
    store, source = inventory.store, inventory.vector_set(view.parents.get("vectors", ""))
    transform = _transform(inventory, release, view, source)
    source_part = next((other for other in source.parts if derived_name(other) == made_of(part.key)), None)
    if source_part is None:
        raise NotFound(f"{source.key} lists no part that {part.key} is made of")
    (data,) = derived_bytes(store.local_path(source_part.key, source_part.sha256), [transform])
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ShardCorrupt(f"rebuilt from {source_part.key} it differs from what was sealed")
    store.put(part.key, data)
    return source_part.key


def _transform(inventory: Inventory, release: Release, view: VectorSet, source: VectorSet) -> Transform:
    """Return the function that makes the vectors of a view from those of its source. Raises `NotFound`."""
    store = inventory.store
    if "head" in view.parents:
        weights = inventory.open(f"{Head.folder}/{view.parents['head']}").part(WEIGHTS_FILE)
        return partial(boost, load_head(store.local_path(weights.key, weights.sha256)))
    reducer = release.reducer
    if reducer and fingerprints.reduced_family(reducer.name, source.family, view.dim) == view.family:
        fitted = inventory.open(reducer.key).part(PCA_FILE)
        pca = load_pca(store.local_path(fitted.key, fitted.sha256))
        return partial(apply_pca, pca, dim=view.dim, whiten=release.nightly_config().reduce.whiten)
    raise NotFound(f"no model of release {release.fingerprint} makes {view.key}")


def rebuild_shard(inventory: Inventory, release: Release, index: IndexSet, folder: str) -> str:
    """Rebuild a shard of an index, retraining an absent template; return a description of its sources.

    Raises `ShardCorrupt` if the bytes differ, and `NotFound` if vectors, catalogue or template are absent; nothing is
    changed then.
    """
    store = inventory.store
    vectors, candidates = (inventory.vector_set(index.parents.get(role, "")) for role in ("vectors", "candidates"))
    items = indexable_items(store, load_items(store, release.catalog.name), vectors)
    shards = _parts_by_shard(index)
    rows = split_rows(items.select("row_id", "content_id"), len(shards))[list(shards).index(folder)]
    content_ids = rows["content_id"].to_list()
    loaded = load_vectors(store, candidates, content_ids), load_vectors(store, vectors, content_ids)
    for template, description in _templates(inventory, release, index, candidates):
        with tempfile.TemporaryDirectory() as name, suppress(ShardCorrupt):  # the template cannot be read
            build_shard(template, rows["row_id"].to_numpy(), *loaded, Path(name))
            files = {part.key: Path(name, part.key.rsplit("/", 1)[-1]) for part in shards[folder]}
            if all(file_sha256(files[part.key]) == part.sha256 for part in shards[folder]):
                for key, file in files.items():
                    store.put_file(key, file)
                return f"{len(rows)} vectors and {description}"
    raise ShardCorrupt("rebuilt from its vectors it differs from what was sealed")


def restore_template(store: Store, index: IndexSet) -> str:
    """Take a damaged or missing template of an index out of one of the shards that start from it, and store it.

    Return its key, or "" if nothing was to be done, no shard is intact, or shards keep more than rows.
    """
    with suppress(NotFound, ShardCorrupt):
        read_template(store, index.template)
        return ""
    for parts in _parts_by_shard(index).values():
        with suppress(NotFound, ShardCorrupt):
            paths = [store.local_path(part.key, part.sha256) for part in parts]
            template = template_of(paths[0].parent)
            if template is None or template_name(index.template.partition("/")[0], template) != index.template:
                return ""
            store.put(template_key(index.template), template)
            return template_key(index.template)
    return ""


def _parts_by_shard(index: IndexSet) -> dict[str, list[Part]]:
    shards: dict[str, list[Part]] = {}
    for part in index.parts:
        shards.setdefault(part.key.rsplit("/", 1)[0], []).append(part)
    return shards


def _templates(
    inventory: Inventory, release: Release, index: IndexSet, candidates: VectorSet
) -> Iterator[tuple[bytes, str]]:
    """Yield the stored template, then a retrained one, each with its description."""
    store = inventory.store
    with suppress(NotFound, ShardCorrupt):
        yield read_template(store, index.template), "its template"
    question = index.template.partition("/")[0]
    trained_on = question.rpartition("-")[2]  # the catalogue of the run that trained it
    views = [inventory.open(key) for key in inventory.views((VectorSet.folder, candidates.family))]
    of_catalog = [view for view in views if isinstance(view, VectorSet) and view.parents["catalog"] == trained_on]
    recipe, config = Recipe.model_validate(index.config), release.nightly_config().index
    retrained = train_on_sample(store, (of_catalog or [candidates])[0], recipe, config)
    if template_name(question, retrained) == index.template:
        store.put(template_key(index.template), retrained)
    yield retrained, "a retrained template"
