"""A run over drawn vectors, stage by stage, each of which can be called in a process of its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.memory.steps import Steps

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from retrieval_core.artifacts.manifests import Ref
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.evaluate.search_shards import Machines
    from retrieval_core.settings import Settings
    from retrieval_core.store.base import Store

DIM = 512  # of the backbone that embeds the synthetic queries
PART_ROWS = 8_192
N_QUERIES = 500
VIEWS = 5  # pictures of one product
N_CATEGORIES, N_LABELS, N_COLOURS = 50, 200, 12
REPLACED_EVERY = 100
MIN_QUERIES = 27  # in shards: as many as a search among 10 million rows needs to be long enough


class DrawnRun(Steps):
    """Runs the stages; a run without a head is of raw vectors."""

    def run(self, stage: str) -> None:
        stages: dict[str, Callable[[], None]] = {
            "draw": self._draw,
            "head": self._head,
            "reduce": self._reduce,
            "index": self._index,
            "evaluate": self._evaluate,
            "evaluate in shards": partial(self._evaluate, in_shards=True),
            "update": self._update,
            "index the update": self._index,
            "evaluate the update": self._evaluate,
            "evaluate the update in shards": partial(self._evaluate, in_shards=True),
        }
        stages[stage]()

    @property
    def settings(self) -> Settings:
        from retrieval_core.settings import Settings

        return Settings(store=str(self.folder / "store"))

    @property
    def store(self) -> Store:
        return self.settings.open_store()

    @property
    def config(self) -> NightlyConfig:
        from retrieval_core.config.stages import GateConfig, HeadConfig, NightlyConfig

        # A head of two epochs may lose against the plain vectors, which is not what is measured here.
        return NightlyConfig(head=HeadConfig(max_epochs=2, patience=1), gate=GateConfig(mode="off"))

    def _ref(self, name: str) -> Ref:
        from retrieval_core.artifacts.manifests import Ref

        return Ref.model_validate(self._load(name))

    def _draw(self) -> None:
        from PIL import Image

        from benchmarks.synthetic_vectors import draw

        picture = self.folder / "picture.jpg"
        Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(picture)
        items = _items(range(self.n_rows), str(picture))
        catalog = self._seal_catalog("first", items)
        self._export_backbone(catalog)
        self._put_vectors(catalog, items, draw(self.n_rows, DIM))

    def _export_backbone(self, catalog: Ref) -> None:
        from retrieval_core.artifacts.fingerprints import vector_family
        from retrieval_core.config.stages import EmbedConfig, IngestConfig
        from retrieval_core.embed.export import export_backbone

        embed = EmbedConfig(backbone="resnet18", weights="random:0", background="raw")
        backbone = export_backbone(self.store, catalog, embed, IngestConfig())
        family = vector_family(backbone.fingerprint, None)
        self._save(backbone=backbone.ref.model_dump(), family=family, heads=[])

    def _update(self) -> None:
        """Replace one in a hundred items, and derive from the vectors what the models of the first run make of them."""
        from benchmarks.synthetic_vectors import draw

        numbers = [n + self.n_rows * (n % REPLACED_EVERY == 0) for n in range(self.n_rows)]
        items = _items(numbers, str(self.folder / "picture.jpg"))
        new = items.filter(items["item_id"] >= _item_id(self.n_rows))
        catalog = self._seal_catalog("second", items)
        self._put_vectors(catalog, items, draw(len(new), DIM, seed=1), new)
        if self._load("heads"):
            self._head()
        self._reduce()

    def _seal_catalog(self, name: str, items: pl.DataFrame) -> Ref:
        import polars as pl

        from retrieval_core.artifacts.catalog_rows import QUARANTINE_SCHEMA
        from retrieval_core.artifacts.manifests import Catalog
        from retrieval_core.artifacts.parts import put_parts, table_bytes

        tables = {"items.parquet": items, "quarantine.parquet": pl.DataFrame(schema=QUARANTINE_SCHEMA)}
        data = {file: table_bytes(table) for file, table in tables.items()}
        rows = {file: len(table) for file, table in tables.items()}
        parts = put_parts(self.store, f"{Catalog.folder}/{name}", data, rows)
        counts = {"rows": len(items), "ok": len(items), "quarantined": 0}
        catalog = Catalog(fingerprint=name, parts=parts, counts=counts).seal(self.store).ref
        self._save(catalog=catalog.model_dump())
        return catalog

    def _put_vectors(
        self, catalog: Ref, items: pl.DataFrame, vectors: np.ndarray[Any, Any], new: pl.DataFrame | None = None
    ) -> None:
        """Write the vectors of the `new` items, or of all, as parts, and seal the view of all items."""
        from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
        from retrieval_core.artifacts.manifests import VectorSet
        from retrieval_core.artifacts.parts import vectors_bytes
        from retrieval_core.artifacts.shards import shard_name
        from retrieval_core.artifacts.variants import Variant

        family = self._load("family")
        ids = (items if new is None else new)["content_id"].to_list()
        for start in range(0, len(ids), PART_ROWS):
            part = ids[start : start + PART_ROWS]
            data = vectors_bytes(part, vectors[start : start + PART_ROWS])
            put_growing_part(self.store, VectorSet.folder, family, shard_name(part), data, len(part))
        raw = seal_vectors(self.store, family, Variant(), DIM, catalog.name, items["content_id"])
        self._save(raw=raw.ref.model_dump(), published=raw.ref.model_dump())

    def _head(self) -> None:
        from retrieval_core.artifacts.manifests import Head, VectorSet
        from retrieval_core.artifacts.shards import seal_derived
        from retrieval_core.head.fit import boost_shard, fit_head, plan_boosting

        raw = VectorSet.open(self.store, self._ref("raw"))
        fitted = fit_head(self.store, self._ref("catalog"), raw, self.config.head)
        if fitted is None:
            raise RuntimeError("the drawn labels train no head")
        head = Head.open(self.store, fitted.ref)
        plan = plan_boosting(self.store, raw, head)
        for shard in plan.shards:
            boost_shard(self.store, shard, head)
        (boosted,) = seal_derived(self.store, plan)
        self._save(heads=[fitted.model_dump()], published=boosted.ref.model_dump())

    def _reduce(self) -> None:
        from retrieval_core.artifacts.manifests import Reducer, VectorSet
        from retrieval_core.artifacts.shards import seal_derived
        from retrieval_core.reduce.fit import fit_reducer, plan_reducing, reduce_shard

        vectors, config = VectorSet.open(self.store, self._ref("published")), self.config.reduce
        fitted = fit_reducer(self.store, self._ref("catalog"), vectors, config)
        reducer = Reducer.open(self.store, fitted.ref)
        plan = plan_reducing(self.store, vectors, reducer)
        for shard in plan.shards:
            reduce_shard(self.store, shard, reducer, config)
        reduced = [reduced.ref.model_dump() for reduced in seal_derived(self.store, plan)]
        self._save(reducer=fitted.model_dump(), reduced=reduced)

    def _index(self) -> None:
        from retrieval_core.artifacts.manifests import Ref, VectorSet
        from retrieval_core.index.versions import make_shard, plan_index, seal_index

        refs = [Ref.model_validate(ref) for ref in (self._load("published"), *self._load("reduced"))]
        vectors, *reduced = (VectorSet.open(self.store, ref) for ref in refs)
        plan = plan_index(self.store, self._ref("catalog"), vectors, reduced, self.config.index)
        for shard in plan.split():
            make_shard(self.store, shard)
        index = seal_index(self.store, plan, self.config.index)
        self._save(index=index.ref.model_dump(), plan=plan.model_dump())

    def _evaluate(self, in_shards: bool = False) -> None:
        from retrieval_core.artifacts import releases
        from retrieval_core.artifacts.manifests import Fitted, Ref
        from retrieval_core.evaluate.evaluation import evaluate_run
        from retrieval_core.evaluate.publish import publish_release
        from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
        from retrieval_core.index.versions import IndexPlan

        plan = IndexPlan.model_validate(self._load("plan"))
        reduced = [Ref.model_validate(ref) for ref in self._load("reduced")]
        facts = CatalogFacts(
            source="drawn", rows=plan.n_rows, added=plan.n_rows, changed=0, removed=0, unchanged=0,
            indexed=plan.n_rows, quarantined=0,
        )  # fmt: skip
        outputs = RunOutputs(
            source="drawn",
            catalog=plan.catalog,
            catalog_facts=facts,
            backbone=self._ref("backbone"),
            segmenter=None,
            detector=None,
            masks=None,
            classifier=None,
            classes=None,
            heads=tuple(Fitted.model_validate(head) for head in self._load("heads")),
            reducer=Fitted.model_validate(self._load("reducer")),
            variants=tuple(dict.fromkeys([self._ref("raw"), plan.vectors, *reduced])),
            vectors=plan.vectors,
            candidates=plan.candidates,
            index=self._ref("index"),
            n_shards_built=len(plan.missing),
            rejects=(),
            seconds={},
        )
        production = releases.read_release(self.store, releases.PRODUCTION)
        report = evaluate_run(self.settings, outputs, self.config, self._machines() if in_shards else None)
        publish_release(self.store, outputs, report, production.fingerprint if production else None, self.config)

    def _machines(self) -> Machines:
        """Make the shards of every exact search in this process, as a worker does; print the seconds of CPU of each."""
        from retrieval_core.evaluate.search_shards import Machines, SearchShard, search_shard

        def run(shards: Sequence[SearchShard]) -> None:
            started = time.process_time()
            for shard in shards:
                search_shard(self.store, shard)
            print(time.process_time() - started)

        return Machines(run, min_pairs=MIN_QUERIES * self.n_rows)


def _items(numbers: Any, picture: str) -> pl.DataFrame:
    """Return catalogue rows of these items, sorted by item id; five pictures a product."""
    import polars as pl

    from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id

    product = pl.col("number") // VIEWS
    colour = pl.struct(name=pl.lit("colour"), value=(product % N_COLOURS).cast(pl.String))
    items = pl.DataFrame({"number": numbers}, schema={"number": pl.Int64}).with_columns(
        item_id=pl.Series([_item_id(n) for n in numbers]),
        content_id=pl.Series([hashlib.md5(str(n).encode()).hexdigest() for n in numbers]),
        row_id=pl.Series([row_id(_item_id(n)) for n in numbers], dtype=pl.Int64),
        image_uri=pl.lit(picture),
        product_id=pl.format("product-{}", product),
        category=pl.format("category-{}", product % N_CATEGORIES),
        labels=pl.concat_list(*(pl.format("label-{}", (product * step) % N_LABELS) for step in (7, 13, 31))),
        attributes=pl.concat_list(colour),
        split=pl.when(pl.col("number") < N_QUERIES * VIEWS).then(pl.lit("query")).otherwise(pl.lit("train")),
        status=pl.lit("ok"),
        height=64,
        width=64,
        size_bytes=1_000,
    )
    empty = {name: pl.lit(None, kind) for name, kind in CATALOG_SCHEMA.items() if name not in items.columns}
    return items.with_columns(**empty).select(*CATALOG_SCHEMA).cast(pl.Schema(CATALOG_SCHEMA)).sort("item_id")


def _item_id(number: int) -> str:
    return f"sku-{number:08}"
