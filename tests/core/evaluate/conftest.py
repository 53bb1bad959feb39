"""Pages as a reader meets them, indexes of a few rows, and runs without pictures."""

from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import MANIFEST, Fitted, IndexSet, MaskSet, Ref, Release, VectorSet
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.analysis.analyse import Analysis, analyse
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems
from retrieval_core.evaluate.measure.measure import Measured, measure
from retrieval_core.evaluate.measure.setup import SearchSetup, choose_protocol
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.index.build import build_shard
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import new_index, shard_of
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tests.core.sealed_runs import CONFIG, SealedRuns

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A parsed report: its tags with attributes, its visible words, and whether every element is closed in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def read_page():
    """Parses a page."""
    return Page


ATTRIBUTES = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))


@pytest.fixture
def catalog_items() -> Callable[..., pl.DataFrame]:
    """`catalog_items(n)` are n items with far-off row ids, the last fifth held out; columns can be given."""

    def make(n: int, **columns: list[str | None]) -> pl.DataFrame:
        row_ids = np.sort(np.random.default_rng(5).choice(2**62, n, replace=False))
        plain = {
            "item_id": [f"item-{i:05}" for i in range(n)],
            "content_id": [f"{i:032x}" for i in range(n)],
            "image_uri": ["gone.jpg"] * n,
            "product_id": [None] * n,
            "category": [None] * n,
            "split": ["query" if i >= n - n // 5 else None for i in range(n)],
        }
        frame = pl.DataFrame(plain | columns, schema=dict.fromkeys(plain, pl.String))
        labels = pl.Series("labels", [[]] * n, pl.List(pl.String))
        attributes = pl.Series("attributes", [[]] * n, ATTRIBUTES)
        return frame.with_columns(pl.Series("row_id", row_ids, pl.Int64), labels, attributes)

    return make


@pytest.fixture
def open_bench(tmp_path: Path) -> Callable[..., SearchSetup]:
    """A bench over (n, d) unit vectors of items, indexed in two shards by the first `candidate_dim` dimensions."""

    def make(
        items: pl.DataFrame,
        vectors: np.ndarray,
        key: str = "Flat",
        candidate_dim: int = 0,
        nprobe: int = 0,
        depth: int = 1,
    ) -> SearchSetup:
        candidates = np.ascontiguousarray(vectors[:, : candidate_dim or vectors.shape[1]])
        template = new_index(key, candidates.shape[1])
        if not template.is_trained:
            template.train(candidates)
        template_bytes = bytes(faiss.serialize_index(template))
        row_ids = items["row_id"].to_numpy()
        folders = [tmp_path / f"shard-{number}" for number in range(2)]
        for number, folder in enumerate(folders):
            rows = shard_of(row_ids, len(folders)) == number
            build_shard(template_bytes, row_ids[rows], candidates[rows], vectors[rows], folder)
        index = ShardedIndex.open(folders, vectors.shape[1], candidates.shape[1], nprobe)
        protocol = choose_protocol(items, EvaluateConfig(queries=100))
        return SearchSetup(items, protocol, vectors, candidates, index, depth)

    return make


@pytest.fixture
def draw_vectors() -> Callable[..., np.ndarray]:
    """`draw_vectors(n, dim)` are unit-length float32 vectors in loose clusters."""

    def draw(n: int, dim: int = 16) -> np.ndarray:
        rng = np.random.default_rng(3)
        centres = rng.standard_normal((20, dim))
        drawn = centres[rng.integers(0, 20, n)] + 0.6 * rng.standard_normal((n, dim))
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)

    return draw


@pytest.fixture
def index_items(tmp_path: Path) -> Callable[..., IndexedItems]:
    """`index_items(items, vectors, family)` is a release of these items in a flat index of two shards."""

    def make(items: pl.DataFrame, vectors: np.ndarray, family: str = "f") -> IndexedItems:
        made = tmp_path / f"release-{len(list(tmp_path.iterdir()))}"
        template = bytes(faiss.serialize_index(new_index("Flat", vectors.shape[1])))
        row_ids = items["row_id"].to_numpy()
        folders = [made / f"shard-{number}" for number in range(2)]
        for number, folder in enumerate(folders):
            rows = shard_of(row_ids, len(folders)) == number
            build_shard(template, row_ids[rows], vectors[rows], vectors[rows], folder)
        index = ShardedIndex.open(folders, vectors.shape[1], vectors.shape[1], 0)
        return IndexedItems(items, index, family)

    return make


@pytest.fixture
def outputs_of(local_store):
    """`outputs_of(release)` are the outputs of the run that made a release, from before the release was sealed."""

    def make(release: Release, **more) -> RunOutputs:
        n = release.counts["rows"]
        candidates = IndexSet.open(local_store, release.index).parents["candidates"]
        manifest = next(key for key in local_store.list("vectors/") if key.endswith(f"/{candidates}/{MANIFEST}"))
        values = {
            "source": "folder:x",
            "catalog": release.catalog,
            "catalog_facts": CatalogFacts(
                source="folder:x", rows=n, added=n, changed=0, removed=0, unchanged=0, indexed=n, quarantined=0
            ),
            "backbone": release.backbone,
            "segmenter": Fitted(ref=release.segmenter, trained=False) if release.segmenter else None,
            "detector": None,
            "masks": None,
            "classifier": None,
            "classes": None,
            "heads": tuple(Fitted(ref=ref, trained=False) for ref in release.heads),
            "reducer": Fitted(ref=release.reducer, trained=False),
            "variants": (release.vectors,),
            "vectors": release.vectors,
            "candidates": VectorSet.open(
                local_store, Ref(kind="VectorSet", key=manifest.removesuffix(f"/{MANIFEST}"))
            ).ref,
            "index": release.index,
            "n_shards_built": 2,
            "rejects": (),
            "seconds": {"ingest": 1.0, "embed": 30.0},
            "n_pictures": {"embed": 60},
        }
        return RunOutputs(**(values | more))

    return make


NUMBER = pl.int_range(pl.len())
LABELS = {
    "product_id": pl.format("p-{}", NUMBER // 3),
    "category": pl.when(NUMBER < 12).then(pl.lit("coat")).otherwise(pl.lit("dress")),
    "split": pl.when(NUMBER % 3 == 2).then(pl.lit("query")).otherwise(pl.lit("train")),
}


@pytest.fixture
def labelled_run(local_store, outputs_of):
    """`labelled_run(n)` are the outputs of a run over n items, with its masks and every variant; nothing is published.

    Every product has three pictures, of which the last is held out. Columns of the catalogue can be given.
    """

    def sealed(kind, catalog: Ref):
        keys = (key.removesuffix(f"/{MANIFEST}") for key in local_store.list(f"{kind.folder}/") if MANIFEST in key)
        artifacts = (kind.open(local_store, Ref(kind=kind.__name__, key=key)) for key in keys)
        return [artifact for artifact in artifacts if artifact.parents["catalog"] == catalog.name]

    def make(n: int = 24, **labels: pl.Expr) -> RunOutputs:
        runs = SealedRuns(local_store, labels=LABELS | labels)
        release = runs.seal([f"item-{number:02}" for number in range(n)], alias=releases.LATEST)
        variants = sorted(sealed(VectorSet, release.catalog), key=lambda vectors: -vectors.dim)
        (masks,) = sealed(MaskSet, release.catalog)
        return outputs_of(release, variants=tuple(vectors.ref for vectors in variants), masks=masks.ref)

    return make


class Analysed(NamedTuple):
    """What a run left behind by the time its report is written."""

    outputs: RunOutputs
    measured: Measured
    analysis: Analysis


@pytest.fixture
def analyse_run(local_store: Store, outputs_of) -> Callable[..., Analysed]:
    """`analyse_run(names, against)` seals a release of these items, and measures and analyses its run."""

    def run(names: Iterable[str], against: str | None = None) -> Analysed:
        outputs = outputs_of(SealedRuns(local_store).seal(names))
        measured = measure(local_store, outputs, CONFIG, Settings.load(store=local_store.url, threads=1))
        return Analysed(outputs, measured, analyse(local_store, outputs, measured, CONFIG, against))

    return run
