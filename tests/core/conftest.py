"""A small release made without a flow (drawn pictures, a backbone fitted on them, two shards), and a web server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id
from retrieval_core.artifacts.manifests import (
    Backbone,
    Catalog,
    ClassSet,
    IndexSet,
    Part,
    Ref,
    Release,
    Report,
    content_id,
)
from retrieval_core.artifacts.parts import classes_bytes, put_part, put_parts, table_bytes
from retrieval_core.config.stages import EmbedConfig, NightlyConfig
from retrieval_core.embed.backbones import backbone_preprocess, load_backbone, save_backbone
from retrieval_core.embed.engine import open_engine
from retrieval_core.images import decode, fit, thumbnail
from retrieval_core.index.build import build_shard
from retrieval_core.index.recipes import new_index, shard_of
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

PRODUCTS = 12
VIEWS = 3  # the second shows nearly the pixels of the first, the third is another picture
COLOURS = ("red", "blue", "green")
EMBED = EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16)
NOWHERE = Ref(kind="VectorSet", key="vectors/none/none")
SHARDS = 2


class Shop:
    """Pictures in a folder, and a store to publish any of them in."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder, self._backbone_folder = folder, backbone
        self.settings = Settings.load(store=str(folder / "store"), threads=1, device="cpu")
        self.store: Store = self.settings.open_store()
        self._engine = open_engine(backbone, "cpu", 1)
        self.vectors = self._embed()

    @property
    def items(self) -> pl.DataFrame:
        """Every item in the form of a catalogue: `item-P-V` is view V of product P."""
        rows = [self._item(product, view) for product in range(PRODUCTS) for view in range(VIEWS)]
        return pl.DataFrame(rows, schema=CATALOG_SCHEMA)

    def picture(self, item_id: str) -> Path:
        return self.folder / f"{item_id}.jpg"

    def publish(
        self,
        name: str = "r1",
        products: Sequence[int] = range(PRODUCTS),
        alias: str = "production",
        classes: bool = False,
    ) -> Release:
        """Seal a release of these products and point the alias at it; its `classes` come without a classifier."""
        wanted = [f"item-{product}-{view}" for product in products for view in range(VIEWS)]
        items = self.items.filter(pl.col("item_id").is_in(wanted))
        catalog = self._seal_catalog(name, items)
        release = Release(
            fingerprint=name,
            config=NightlyConfig(embed=EMBED).model_dump(mode="json"),
            catalog=catalog.ref,
            backbone=self._seal_backbone(),
            classes=self._seal_classes(name, items) if classes else None,
            vectors=NOWHERE,
            index=self._seal_index(name, items),
            report=self._seal_report(name),
            variant="raw",
            gate="published",
            counts={"rows": len(items)},
        ).seal(self.store)
        releases.point_alias(self.store, alias, name)
        return release

    def open(self, name: str = "production") -> OpenRelease:
        return open_release(self.store, name, self.settings)

    def _item(self, product: int, view: int) -> dict[str, object]:
        path = self.picture(f"item-{product}-{view}")
        colour = COLOURS[product % len(COLOURS)]
        return {
            "item_id": path.stem,
            "image_uri": str(path),
            "product_id": f"p{product}" if product else None,
            "category": "dress" if product % 2 else "coat",
            "split": "train",
            "labels": [colour, "new"] if product < 4 else [],
            "attributes": [{"name": "colour", "value": colour}, {"name": "year", "value": str(2000 + product)}],
            "row_id": row_id(path.stem),
            "content_id": content_id(path.read_bytes()),
            "status": "ok",
        }

    def _embed(self) -> dict[str, Float32]:
        paths = sorted(self.folder.glob("item-*.jpg"))
        pixels = np.stack([fit(decode(path.read_bytes()), self._engine.preprocess) for path in paths])
        return dict(zip([path.stem for path in paths], self._engine.embed(pixels), strict=True))

    def _seal_catalog(self, name: str, items: pl.DataFrame) -> Catalog:
        part = put_part(self.store, f"{Catalog.folder}/{name}/items.parquet", table_bytes(items), len(items))
        return Catalog(fingerprint=name, parts=(part,)).seal(self.store)

    def _seal_backbone(self) -> Ref:
        key = f"{Backbone.folder}/pixels"
        files = sorted(self._backbone_folder.iterdir())
        parts = put_parts(self.store, key, {file.name: file for file in files})
        sealed = Backbone(fingerprint="pixels", parts=parts, card="pca_pixels", dim=self._engine.dim, size_px=16)
        return sealed.seal(self.store).ref

    def _seal_classes(self, name: str, items: pl.DataFrame) -> Ref:
        """Class 0 of the even products, class 1 of the odd ones."""
        classes = np.full((len(items), 5), -1, np.int32)
        classes[:, 0] = items["category"] == "dress"
        data = classes_bytes(items["content_id"].to_list(), classes, np.ones((len(items), 5), np.float32))
        part = put_part(self.store, f"{ClassSet.folder}/f/parts/{name}.parquet", data, len(items))
        return ClassSet(fingerprint=name, family="f", parts=(part,)).seal(self.store).ref

    def _seal_report(self, name: str) -> Ref:
        key = f"{Report.folder}/{name}/report.html"
        part = put_part(self.store, key, f"<p>the report of {name}</p>".encode(), 0)
        report = Report(fingerprint=name, parts=(part,), gate="published", gate_reason="First release.")
        return report.seal(self.store).ref

    def _seal_index(self, name: str, items: pl.DataFrame) -> Ref:
        shard = shard_of(items["row_id"].to_numpy(), SHARDS)
        parts = [
            part for number in range(SHARDS) for part in self._put_shard(f"{name}-{number}", items, shard == number)
        ]
        dim = self._engine.dim
        index = IndexSet(
            fingerprint=name,
            parts=tuple(parts),
            recipe="Flat",
            dim=dim,
            candidate_dim=dim,
            rerank_depth=5,
            template="t",
            family="f",
        )
        return index.seal(self.store).ref

    def _put_shard(self, name: str, items: pl.DataFrame, here: np.ndarray) -> tuple[Part, ...]:
        import faiss

        rows = items.filter(pl.Series(here))
        vectors = np.array([self.vectors[item_id] for item_id in rows["item_id"]], np.float32).reshape(
            -1, self._engine.dim
        )
        template = bytes(faiss.serialize_index(new_index("Flat", self._engine.dim)))
        with tempfile.TemporaryDirectory() as folder:
            build_shard(template, rows["row_id"].to_numpy(), vectors, vectors, Path(folder))
            files = {file: Path(folder) / file for file in (INDEX_FILE, VECTORS_FILE)}
            return put_parts(self.store, f"indexes/shards/{name}", files)


@pytest.fixture(scope="session")
def pixels_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a backbone fitted on the pixels of the shops' pictures."""
    how = backbone_preprocess(EMBED)
    pixels = np.stack([fit(_draw(product, view), how) for product in range(PRODUCTS) for view in range(VIEWS)])
    folder = tmp_path_factory.mktemp("pixels")
    save_backbone(load_backbone(EMBED, lambda: pixels), folder)
    return folder


@pytest.fixture(scope="session")
def new_shop(pixels_backbone: Path) -> Callable[[Path], Shop]:
    """`new_shop(folder)` draws the pictures into it; its store is empty."""

    def new(folder: Path) -> Shop:
        for product in range(PRODUCTS):
            for view in range(VIEWS):
                (folder / f"item-{product}-{view}.jpg").write_bytes(thumbnail(_draw(product, view), 64))
        return Shop(folder, pixels_backbone)

    return new


def _draw(product: int, view: int) -> np.ndarray:
    rng = np.random.default_rng([product, view == 2])
    coarse = rng.integers(0, 250, (4, 4, 3)) + (1 if view == 1 else 0)
    return coarse.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
