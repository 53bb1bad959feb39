"""Pages as a reader meets them, and published indexes of a few rows."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest

from retrieval_core.config import EvaluateConfig
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems
from retrieval_core.evaluate.measure.protocol import choose_protocol
from retrieval_core.evaluate.measure.search_setup import SearchSetup
from retrieval_core.index.build import build_shard
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import new_index, shard_of

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
