"""Runs without pictures: every artifact of a release, from random vectors, made by the functions that tasks call."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    LEDGER,
    QUARANTINE_SCHEMA,
    SEEN_ITEMS,
    put_items,
    row_id,
    with_fields,
)
from retrieval_core.artifacts.growing_sets import indexable_items, sample_vectors, seal_vectors, seal_view
from retrieval_core.artifacts.manifests import (
    Backbone,
    Catalog,
    Head,
    IndexSet,
    MaskSet,
    Part,
    Reducer,
    Ref,
    Release,
    Report,
    Segmenter,
    VectorSet,
    fingerprint,
)
from retrieval_core.artifacts.parts import (
    load_vectors,
    masks_bytes,
    put_parts,
    stored_parts,
    table_bytes,
    vectors_bytes,
)
from retrieval_core.artifacts.shards import DerivedSet, Target, plan_pictures, put_shard, shard_pictures
from retrieval_core.config.stages import EmbedConfig, NightlyConfig
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head, save_head
from retrieval_core.index.build import build_shard
from retrieval_core.index.plan import TEMPLATE_FILE, TEMPLATES, name_shard, read_template, split_rows
from retrieval_core.index.recipes import Recipe
from retrieval_core.index.versions import SHARD_FILES, train_on_sample
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, fit_pca, load_pca, save_pca
from retrieval_core.store.base import Store
from tests.core.sealed_vectors import derive

DIM, BOOSTED_DIM, REDUCED_DIM, SHARDS, SHARD_ROWS = 12, 8, 4, 2, 5
CONFIG = NightlyConfig(embed=EmbedConfig(backbone="resnet18", background="masked"))
RECIPE = Recipe(key="Flat", nprobe=0, train_rows=0, why="", index_bytes=0, vector_bytes=0, memory_bytes=0)


def fake_fingerprint(text: str) -> str:
    """Return a name that looks like a fingerprint."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


SEGMENTER = fake_fingerprint("segmenter")


class SealedRuns:
    """Seals runs in a store: masks; masked, boosted and reduced vectors; an index of two shards; a report.

    `labels` are columns of the catalogue, by name.
    """

    def __init__(self, store: Store, recipe: Recipe = RECIPE, labels: Mapping[str, pl.Expr] | None = None) -> None:
        self.store, self.recipe, self.labels = store, recipe, labels or {}

    def seal(
        self, names: Iterable[str], backbone: str = "b", alias: str = releases.PRODUCTION, anchor: str = ""
    ) -> Release:
        """Seal a run over these items and publish it as `alias` and `latest`; what exists already is not made again.

        Its report names `anchor`.
        """
        items, backbone = _items(names).with_columns(**self.labels), fake_fingerprint(backbone)
        catalog = self._seal_catalog(items)
        tiny = Backbone(fingerprint=backbone, card="tiny", dim=DIM, size_px=32)
        sealed_backbone = self._seal_fitted(tiny, {"model.onnx": b"graph"})
        segmenter = Segmenter(fingerprint=SEGMENTER, val_iou=1.0, parents={"catalog": catalog.name})
        segmenter = self._seal_fitted(segmenter, {"weights.safetensors": b"u-net"})
        masks = self._grow_masks(items, catalog)
        raw = self._grow_vectors(items, catalog, backbone, masks.family)
        head, boosted = self._boost(catalog, raw)
        reducer, reduced = self._reduce(catalog, boosted)
        index = self._seal_index(items, catalog, boosted, reduced)
        report = self._seal_report(index, anchor)
        bundle = {
            "catalog": catalog, "backbone": sealed_backbone, "segmenter": segmenter,
            "head": head, "reducer": reducer, "vectors": boosted.ref, "index": index.ref, "report": report,
        }  # fmt: skip
        parents = {role: ref.name for role, ref in bundle.items()}
        release = Release(
            fingerprint=releases.name_release(self.store, {}, bundle),
            config=CONFIG.model_dump(mode="json"),
            parents=parents,
            counts={"rows": len(items)},
            heads=(head,),
            variant="masked_boosted",
            gate="published",
            **bundle,
        ).seal(self.store)
        self.store.put(SEEN_ITEMS, table_bytes(items))
        self.store.put(LEDGER, table_bytes(pl.DataFrame(schema=QUARANTINE_SCHEMA)))
        for name in dict.fromkeys((alias, releases.LATEST)):
            releases.point_alias(self.store, name, release.fingerprint)
        return release

    def _seal_catalog(self, items: pl.DataFrame) -> Ref:
        name = fingerprint("catalog", 1, items["content_id"].to_list(), [])
        quarantine = {"quarantine.parquet": table_bytes(pl.DataFrame(schema=QUARANTINE_SCHEMA))}
        parts = (*put_items(self.store, items), *put_parts(self.store, f"catalogs/{name}", quarantine))
        counts = {"rows": len(items), "ok": len(items), "quarantined": 0}
        return Catalog(fingerprint=name, parts=parts, counts=counts).seal(self.store).ref

    def _seal_fitted(self, fitted: Backbone | Segmenter, files: dict[str, bytes]) -> Ref:
        existing = type(fitted).find(self.store, fitted.fingerprint)
        if existing:
            return existing.ref
        parts = put_parts(self.store, fitted.key, files)
        return fitted.model_copy(update={"parts": parts}).seal(self.store).ref

    def _grow_masks(self, items: pl.DataFrame, catalog: Ref) -> MaskSet:
        family = fingerprints.mask_family(CONFIG.mask, SEGMENTER)
        target = Target(folder=MaskSet.folder, family=family)
        plan = plan_pictures(self.store, [target], catalog, SHARD_ROWS)
        for shard in plan.split():
            ids = [picture.content_id for picture in shard_pictures(self.store, shard)]
            data = masks_bytes(ids, [np.ones((4, 4), bool)] * len(ids), [""] * len(ids))
            put_shard(self.store, shard, target, ids, lambda data=data: data)
        return seal_view(self.store, MaskSet, family, catalog.name, items["content_id"])

    def _grow_vectors(self, items: pl.DataFrame, catalog: Ref, backbone: str, masks: str) -> VectorSet:
        family = fingerprints.vector_family(backbone, masks)
        target = Target(folder=VectorSet.folder, family=family)
        plan = plan_pictures(self.store, [target], catalog, SHARD_ROWS)
        for shard in plan.split():
            ids = [picture.content_id for picture in shard_pictures(self.store, shard)]
            data = vectors_bytes(ids, np.stack([_vector(content_id) for content_id in ids]))
            put_shard(self.store, shard, target, ids, lambda data=data: data)
        return seal_vectors(self.store, family, "masked", DIM, catalog.name, items["content_id"])

    def _boost(self, catalog: Ref, raw: VectorSet) -> tuple[Ref, VectorSet]:
        key = f"heads/{fake_fingerprint(raw.family)}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS_FILE
            save_head(_head_weights(), path)
            weights = load_head(path)
            head = Head.find(self.store, key.split("/")[1]) or Head(
                fingerprint=key.split("/")[1],
                parents={"catalog": catalog.name, "vectors": raw.family},
                parts=put_parts(self.store, key, {WEIGHTS_FILE: path}),
                variant="masked",
                input_dim=DIM,
                dim=BOOSTED_DIM,
            ).seal(self.store)
        family = fingerprints.boosted_family(head.fingerprint, raw.family)
        boosted = DerivedSet(
            family=family, variant="masked_boosted", dim=BOOSTED_DIM, made_by={"head": head.fingerprint}
        )
        return head.ref, derive(self.store, raw, boosted, lambda rows: boost(weights, rows))

    def _reduce(self, catalog: Ref, boosted: VectorSet) -> tuple[Ref, VectorSet]:
        name = fake_fingerprint(boosted.family)
        reducer = Reducer.find(self.store, name)
        if reducer is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / PCA_FILE
                save_pca(fit_pca(sample_vectors(self.store, boosted, 100, 0), REDUCED_DIM), path)
                parts = put_parts(self.store, f"reducers/{name}", {PCA_FILE: path})
            parents = {"catalog": catalog.name, "vectors": boosted.family}
            reducer = Reducer(
                fingerprint=name, parents=parents, parts=parts, input_dim=BOOSTED_DIM, dims=(REDUCED_DIM,)
            ).seal(self.store)
        part = reducer.part(PCA_FILE)
        pca = load_pca(self.store.local_path(part.key, part.sha256))
        family = fingerprints.reduced_family(name, boosted.family, REDUCED_DIM)
        reduced = DerivedSet(family=family, variant="pca4", dim=REDUCED_DIM)
        return reducer.ref, derive(self.store, boosted, reduced, lambda rows: apply_pca(pca, rows, REDUCED_DIM))

    def _seal_index(self, items: pl.DataFrame, catalog: Ref, full: VectorSet, reduced: VectorSet) -> IndexSet:
        question = fingerprints.template_fingerprint(self.recipe.key, CONFIG.index, reduced.family)
        existing = [key for key in self.store.list(TEMPLATES) if question in key]
        if not existing:
            data = train_on_sample(self.store, reduced, self.recipe, CONFIG.index)
            existing = [put_parts(self.store, f"{TEMPLATES}{question}-{catalog.name}", {TEMPLATE_FILE: data})[0].key]
        template = existing[0].removeprefix(TEMPLATES).removesuffix(f"/{TEMPLATE_FILE}")
        rows = indexable_items(self.store, items, full).select("row_id", "content_id")
        split = split_rows(rows, SHARDS)
        folders = [f"indexes/shards/{name_shard(shard, [template, full.family, reduced.family])}" for shard in split]
        parts = [
            part
            for folder, shard in zip(folders, split, strict=True)
            for part in self._put_shard(folder, shard, read_template(self.store, template), full, reduced)
        ]
        return IndexSet(
            fingerprint=fingerprint("index", 1, folders, [catalog.name]),
            config=self.recipe.model_dump(),
            parents={"catalog": catalog.name, "vectors": full.fingerprint, "candidates": reduced.fingerprint},
            parts=tuple(parts),
            counts={"rows": len(rows), "shards": SHARDS},
            recipe=self.recipe.key,
            dim=full.dim,
            candidate_dim=reduced.dim,
            nprobe=self.recipe.nprobe,
            rerank_depth=100,
            when_new={"imbalance": 1.0, "recall": 1.0},
            template=template,
            family=full.family,
        ).seal(self.store)

    def _put_shard(
        self, folder: str, rows: pl.DataFrame, template: bytes, full: VectorSet, reduced: VectorSet
    ) -> tuple[Part, ...]:
        if existing := stored_parts(self.store, folder, SHARD_FILES):
            return existing
        ids = rows["content_id"].to_list()
        vectors = [load_vectors(self.store, source, ids) for source in (reduced, full)]
        with tempfile.TemporaryDirectory() as name:
            build_shard(template, rows["row_id"].to_numpy(), *vectors, Path(name))
            return put_parts(self.store, folder, {file: Path(name, file) for file in SHARD_FILES})

    def _seal_report(self, index: IndexSet, anchor: str) -> Ref:
        name = fake_fingerprint(index.fingerprint)
        parts = put_parts(self.store, f"reports/{name}", {"report.html": f"<!doctype html>{name}".encode()})
        report = Report(fingerprint=name, parts=parts, gate="published", gate_reason="", anchor=anchor)
        return report.seal(self.store).ref


def _items(names: Iterable[str]) -> pl.DataFrame:
    """Return a catalogue of items; the id is what precedes `@` in a name, and the picture depends on the whole name."""
    rows = [
        {
            "item_id": name.split("@")[0],
            "image_uri": f"{name}.jpg",
            "split": "train",
            "row_id": row_id(name.split("@")[0]),
            "content_id": hashlib.sha256(name.encode()).hexdigest()[:32],
            "status": "ok",
            "labels": [],
            "attributes": [],
        }
        for name in sorted(names)
    ]
    return with_fields(pl.DataFrame(rows, schema=CATALOG_SCHEMA))


def _vector(content_id: str) -> Float32:
    drawn = np.random.default_rng(int(content_id, 16)).normal(size=DIM).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def _head_weights() -> dict[str, Float32]:
    rng = np.random.default_rng(0)
    return {
        "mean": np.zeros(DIM, np.float32),
        "std": np.ones(DIM, np.float32),
        "hidden.weight": rng.normal(size=(BOOSTED_DIM, DIM)).astype(np.float32),
        "hidden.bias": np.ones(BOOSTED_DIM, np.float32),
    }
