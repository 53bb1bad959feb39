"""The sharded index compared with plain faiss in one piece, autofaiss's own choice, and exact search.

    python -m benchmarks.index [--rows 200000] [--dim 128] [--rounds 5] [--peer PYTHON] [--json FILE]

A build goes from full vectors to files that hold the full vectors too, PCA included. Plain faiss gets the same sample,
seed and key, `[PCA..,]KEY,RFlat`, and is built with faiss's own number of k-means iterations and with ours. autofaiss
gets the same memory and runs in an interpreter of its own (`make .venv-autofaiss`), without which it is left out.
Queries are vectors that no index holds. Figures are medians over rounds; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import faiss
import numpy as np

from benchmarks.measuring.interleaved_timing import Contender, interleaved, print_race, race, ratio
from benchmarks.measuring.process_usage import PeakMemory, resident_mb
from benchmarks.synthetic_vectors import draw, draw_row_ids, draw_tune_queries, recall, train_positions
from retrieval_core.arrays import Float32, Int64
from retrieval_core.config.stages import IndexConfig, ReduceConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import TRAIN_ITERATIONS, Recipe, choose_recipe, choose_shards, shard_of
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from retrieval_core.index.tune import TuneResult, choose_candidate_dim, tune_search
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.reduce.pca import Pca, apply_pca, fit_pca

K = 10
N_SINGLE = 50  # queries asked one by one
N_SAMPLED = 200_000  # rows that decide in how many dimensions candidates are found
PEER = Path(".venv-autofaiss/bin/python")
GRAPH_WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # efSearch to try if autofaiss chose a graph
BLOCK_ROWS = 8_192  # reduced at a time
VECTORS, QUERIES = Path("embeddings", "vectors.npy"), Path("queries.npy")  # where the peer looks for them

Search = Callable[[Float32], Int64]


class Data(NamedTuple):
    """What all contenders index, and our recipe for it."""

    vectors: Float32  # (n, dim)
    queries: Float32  # (q, dim)
    row_ids: Int64  # (n,)
    config: IndexConfig
    recipe: Recipe
    candidate_dim: int

    @property
    def sample(self) -> Float32:
        return self.vectors[train_positions(len(self.vectors), self.recipe, self.config.seed)]


class Ours:
    """The index as Vitrine builds it, in `folder`."""

    def __init__(self, data: Data, folder: Path, pca: Pca | None = None) -> None:
        self.data, self.pca = data, pca
        self.folders = [folder / f"shard-{n}" for n in range(choose_shards(len(data.row_ids), data.config))]

    def build(self) -> None:
        data = self.data
        template = self._train(data.sample)
        by_id = np.argsort(data.row_ids)
        shard = shard_of(data.row_ids[by_id], len(self.folders))
        for number, path in enumerate(self.folders):
            rows = by_id[shard == number]
            full = data.vectors[rows]
            build_shard(template, data.row_ids[rows], self.reduced(full), full, path)

    def _train(self, sample: Float32) -> bytes:
        if self.data.candidate_dim < self.data.vectors.shape[1]:
            self.pca = fit_pca([sample], self.data.candidate_dim)
        return train_template(self.reduced(sample), self.data.recipe, self.data.config.seed)

    def reduced(self, vectors: Float32) -> Float32:
        """Return the reduced vectors of these rows, computed in blocks as a nightly run does part by part."""
        if self.pca is None:
            return vectors
        candidates = np.empty((len(vectors), self.data.candidate_dim), np.float32)
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            candidates[block] = apply_pca(self.pca, vectors[block], self.data.candidate_dim)
        return candidates

    def open(self) -> ShardedIndex:
        return ShardedIndex.open(self.folders, self.data.vectors.shape[1], self.data.candidate_dim, 0)

    def search(self, index: ShardedIndex, nprobe: int, depth: int, queries: Float32) -> Int64:
        return index.search(queries, self.reduced(queries), K, depth, nprobe=nprobe)[1]


class Plain:
    """One faiss index of the same key and training, which reranks with its own copy of the full vectors."""

    def __init__(self, data: Data, path: Path, iterations: int = 0) -> None:
        """`iterations` are those of k-means, 0 for faiss's default."""
        self.data, self.path, self.iterations = data, path, iterations
        reduces = data.candidate_dim < data.vectors.shape[1]
        self.key = f"PCA{data.candidate_dim}," * reduces + f"{data.recipe.key},RFlat"

    def build(self) -> None:
        index = faiss.index_factory(self.data.vectors.shape[1], self.key, faiss.METRIC_INNER_PRODUCT)
        if self.data.recipe.nprobe:
            training = faiss.extract_index_ivf(index).cp
            training.niter, training.seed = self.iterations or training.niter, self.data.config.seed
        index.train(self.data.sample)
        index.add(self.data.vectors)
        faiss.write_index(index, str(self.path))

    def open(self, tuned: TuneResult) -> Search:
        index: Any = faiss.read_index(str(self.path))
        index.k_factor = tuned.rerank_depth
        if tuned.nprobe:
            faiss.extract_index_ivf(index).nprobe = tuned.nprobe
        return lambda queries: self.data.row_ids[index.search(queries, K)[1]]


class Peer:
    """autofaiss, in an interpreter of its own; `folder` holds the vectors and queries."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        command = [str(python), str(Path(__file__).with_name("autofaiss_peer.py")), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str) -> dict[str, Any]:
        """Run a command of `autofaiss_peer` and return its answer. Raises `RuntimeError` if it ends instead."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("autofaiss was started without pipes")
        print(command, file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError(f"autofaiss ended while it ran {command}; see its messages above")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def contender(self, param: str, truth: Int64) -> Contender:
        """Return autofaiss with these search parameters; `truth` holds (q, k) positions of rows."""

        def run(command: str) -> None:
            self.ask(f"param {param}")
            self.ask(command)

        run("find")
        hits = np.load(self.folder / "hits.npy")
        return Contender(partial(run, "batch"), partial(run, f"single {N_SINGLE}"), recall(hits, truth))


def main() -> None:
    arguments = _parse_arguments()
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = _make_data(arguments, folder)
        peer = Peer(arguments.peer, folder) if arguments.peer.exists() else None
        if peer is None:
            print(f"{arguments.peer} does not exist (make .venv-autofaiss): autofaiss is left out")
        result = _measure(data, folder, peer, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--shards", type=int, default=0, help="0 chooses by the number of rows")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--memory-gb", type=float, default=4, help="what each index may take")
    parser.add_argument("--rounds", type=int, default=5, help="of searches")
    parser.add_argument("--builds", type=int, default=2, help="rounds of builds; autofaiss builds once")
    parser.add_argument("--peer", type=Path, default=PEER, metavar="PYTHON", help="an interpreter that has autofaiss")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args()


def _make_data(arguments: argparse.Namespace, folder: Path) -> Data:
    """Draw the data, and write it for autofaiss and for the processes whose memory is measured."""
    all_vectors = draw(arguments.rows + arguments.queries, arguments.dim)
    vectors, queries = all_vectors[: arguments.rows], all_vectors[arguments.rows :]
    (folder / VECTORS).parent.mkdir()
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    config = IndexConfig(shards=arguments.shards, recipe=arguments.recipe, memory_gb=arguments.memory_gb)
    start = time.perf_counter()
    offered = _sample_by_dim(vectors, config)
    dim = choose_candidate_dim(offered, np.arange(len(offered[vectors.shape[1]])), len(vectors), config)
    print(f"{arguments.rows:,} x {arguments.dim}, {os.cpu_count()} cores; candidates in {dim} dimensions ", end="")
    print(f"(chosen in {time.perf_counter() - start:.1f} s)")
    recipe = choose_recipe(len(vectors), dim, arguments.dim, config)
    print(f"{recipe.key}: {recipe.why}")
    return Data(vectors, queries, draw_row_ids(len(vectors)), config, recipe, dim)


def _sample_by_dim(vectors: Float32, config: IndexConfig) -> dict[int, Float32]:
    """Return a sample of the vectors in every width that a nightly run would offer."""
    full = vectors[np.sort(np.random.default_rng(config.seed).permutation(len(vectors))[:N_SAMPLED])]
    narrower = [dim for dim in ReduceConfig().dims if dim < full.shape[1]]
    if not narrower:
        return {full.shape[1]: full}
    pca = fit_pca([full[: ReduceConfig().sample_rows]], max(narrower))
    return {full.shape[1]: full} | {dim: apply_pca(pca, full, dim) for dim in narrower}


def _measure(data: Data, folder: Path, peer: Peer | None, arguments: argparse.Namespace) -> dict[str, Any]:
    built = folder / "built"
    ours, plain = Ours(data, built), Plain(data, built / "plain.faiss")
    builds = _measure_builds(ours, plain, peer, arguments)
    start = time.perf_counter()
    index = ours.open()
    tuned = tune_search(index, draw_tune_queries(index, data.row_ids, data.config, ours.reduced), data.config)
    tuning_s = time.perf_counter() - start
    print(f"tuning: {tuning_s:.1f} s, its queries' true neighbours included")
    memory = _measure_memory(ours, folder, tuned)
    truth = exact_topk(data.queries, data.vectors, K)[1]
    contenders = _contenders(ours, plain, tuned, truth)
    contenders |= _peer_contenders(peer, builds["param"], data, truth) if peer else {}
    run = race(contenders, len(data.queries), N_SINGLE, arguments.rounds)
    search = print_race(run, "exact")
    for name in contenders:
        if name.startswith("autofaiss"):
            faster = ratio(run.batch_s, name, "ours"), ratio(run.single_s, name, "ours")
            print(
                f"ours is {faster[0]:.2f} times as fast as {name} in batch (aim: 2), {faster[1]:.2f} times one by one"
            )
    print(f"ours is {ratio(run.single_s, 'exact', 'ours'):.1f} times as fast as exact search one by one (aim: 20)")
    points = {"exact": contenders["exact"]} | _curve(ours, tuned, truth)
    curve = print_race(race(points, len(data.queries), N_SINGLE, arguments.rounds), "exact")
    sizes = {"rows": len(data.vectors), "dim": data.vectors.shape[1], "candidate_dim": data.candidate_dim}
    ours_figures = {"recipe": data.recipe.model_dump(), "builds": builds, "tuning_s": tuning_s, "memory": memory}
    return {**sizes, "cores": os.cpu_count(), **ours_figures, "search": search, "curve": curve}


def _measure_builds(ours: Ours, plain: Plain, peer: Peer | None, arguments: argparse.Namespace) -> dict[str, Any]:
    same = Plain(plain.data, plain.path.with_name("same.faiss"), TRAIN_ITERATIONS)
    builds = {"ours": ours.build, "plain": plain.build, "plain_same": same.build}
    seconds: dict[str, list[float]] = {name: [] for name in builds}
    for _ in range(arguments.builds):
        shutil.rmtree(plain.path.parent, ignore_errors=True)
        plain.path.parent.mkdir()
        for name, build in builds.items():
            os.sync()  # the previous build may have left data to write
            seconds[name] += interleaved({name: build}, 1)[name]
    same.path.unlink()
    taken = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    of_plain = {f"ours_of_{name}": ratio(seconds, "ours", name) for name in ("plain", "plain_same")}
    print(f"build: ours {taken['ours_s']:.1f} s, plain {taken['plain_s']:.1f} s ({plain.key}), ", end="")
    print(f"with our {TRAIN_ITERATIONS} iterations {taken['plain_same_s']:.1f} s: ", end="")
    print(f"{of_plain['ours_of_plain']:.2f} and {of_plain['ours_of_plain_same']:.2f} of it (aim: at most 1.1)")
    if peer is None:
        return taken | of_plain
    chosen = peer.ask(f"build {arguments.memory_gb:g}")
    print(f"       autofaiss {chosen['seconds']:.1f} s ({chosen['key']}, {chosen['param']}): ", end="")
    print(f"{chosen['seconds'] / taken['ours_s']:.1f} times ours (aim: at least 5)")
    return taken | of_plain | {"autofaiss_s": chosen["seconds"], **chosen}


def _contenders(ours: Ours, plain: Plain, tuned: TuneResult, truth: Int64) -> dict[str, Contender]:
    data = ours.data
    # From 20 queries on exact search takes matrix products; by its own rule faiss would not for 500 of 128 dimensions.
    faiss.cvar.distance_compute_blas_threshold = 20 * data.vectors.shape[1]
    exact = faiss.IndexFlatIP(data.vectors.shape[1])  # not exact_topk, which checks the whole gallery each time
    exact.add(data.vectors)
    searches: dict[str, Search] = {
        "ours": partial(ours.search, ours.open(), tuned.nprobe, tuned.rerank_depth),
        "plain": plain.open(tuned),
        "exact": lambda queries: data.row_ids[exact.search(queries, K)[1]],
    }
    return {name: _contender(search, data, truth) for name, search in searches.items()}


def _contender(search: Search, data: Data, truth: Int64) -> Contender:
    def one_by_one() -> None:
        for row in range(N_SINGLE):
            search(data.queries[row : row + 1])

    return Contender(partial(search, data.queries), one_by_one, recall(search(data.queries), data.row_ids[truth]))


def _peer_contenders(peer: Peer, param: str, data: Data, truth: Int64) -> dict[str, Contender]:
    """Return autofaiss with its own parameters and, for a graph, with the least efSearch that reaches the target."""
    print(f"autofaiss holds {peer.ask('open')['bytes'] / 1e6:,.0f} MB in memory")
    contenders = {f"autofaiss {param}": peer.contender(param, truth)}
    for width in GRAPH_WIDTHS if "efSearch" in param else ():
        contender = peer.contender(f"efSearch={width}", truth)
        if contender.recall >= data.config.recall_target:
            return contenders | {f"autofaiss efSearch={width}": contender}
    return contenders


def _curve(ours: Ours, tuned: TuneResult, truth: Int64) -> dict[str, Contender]:
    """Return the settings on the curve of tuning: those that no cheaper setting beat."""
    index = ours.open()
    return {
        f"nprobe {point.nprobe}, depth {point.rerank_depth}": _contender(
            partial(ours.search, index, point.nprobe, point.rerank_depth), ours.data, truth
        )
        for point in tuned.curve
    }


def _measure_memory(ours: Ours, folder: Path, tuned: TuneResult) -> dict[str, float]:
    """Return the MB that building and searching take, each in a fresh process that maps the vectors from a file."""
    recipe = ours.data.recipe
    light = ours.data._replace(vectors=ours.data.vectors[:0])
    memory: dict[str, float] = {}
    for measure in (_built_mb, _searched_mb):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            memory |= pool.submit(measure, Ours(light, ours.folders[0].parent, ours.pca), folder, tuned).result()
    for name in (INDEX_FILE, VECTORS_FILE):
        memory[name] = sum((shard / name).stat().st_size for shard in ours.folders) / 1e6
    print(f"MB on disk: index {memory[INDEX_FILE]:,.1f} (promised {recipe.index_bytes / 1e6:,.1f}), ", end="")
    print(f"full vectors {memory[VECTORS_FILE]:,.1f} (promised {recipe.vector_bytes / 1e6:,.1f})")
    print(f"MB of memory: building {memory['build']:,.0f}; searching {memory['search']:,.0f}, ", end="")
    print(
        f"and {memory['search_index']:,.0f} of mapped index (promised {recipe.memory_bytes / 1e6:,.0f} together), ",
        end="",
    )
    print(f"and {memory['search_vectors']:,.0f} of mapped full vectors")
    return memory


def _built_mb(ours: Ours, folder: Path, _: TuneResult) -> dict[str, float]:
    data = ours.data._replace(vectors=np.load(folder / VECTORS, mmap_mode="r"))
    with PeakMemory() as peak:
        Ours(data, folder / "again").build()
    return {"build": peak.growth_mb}


def _searched_mb(ours: Ours, folder: Path, tuned: TuneResult) -> dict[str, float]:
    before = resident_mb()
    index = ours.open()
    queries = ours.data.queries
    for some_queries in (queries, *(queries[row : row + 1] for row in range(N_SINGLE))):
        ours.search(index, tuned.nprobe, tuned.rerank_depth, some_queries)
    after = resident_mb()
    mapped = {"search_index": after.get(INDEX_FILE, 0.0), "search_vectors": after.get(VECTORS_FILE, 0.0)}
    return {"search": after["own"] - before["own"], **mapped}


if __name__ == "__main__":
    main()
