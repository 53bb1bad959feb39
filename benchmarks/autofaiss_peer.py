"""autofaiss for `benchmarks.index`, in an interpreter of its own because it needs older libraries.

    .venv-autofaiss/bin/python benchmarks/autofaiss_peer.py FOLDER

Reads one command a line, answers each with one line of JSON, and ends with its input. FOLDER holds
`embeddings/vectors.npy`, (n, d) float32, and `queries.npy`, (q, d) float32; hits are written there as `hits.npy`.

    build GB     choose, build, tune and write an index of at most this memory: {seconds, key, param}
    open         read the index back: {bytes}
    param TEXT   use these parameters for the searches that follow
    find         write every query's 10 nearest to hits.npy
    batch        search all queries at once
    single N     search the first N, one after the other
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from autofaiss import build_index
from autofaiss.external import optimize
from autofaiss.indices import index_factory

K = 10


class Peer:
    """An index of autofaiss in a folder, and the queries to search it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "autofaiss.index"
        self.queries = np.load(folder / "queries.npy")
        self.index: Any = None

    def build(self, memory_gb: str) -> dict[str, Any]:
        """Let autofaiss choose key and parameters within the memory; building may use a quarter more."""
        start = time.perf_counter()
        _, info = build_index(
            str(self.folder / "embeddings"),
            index_path=str(self.path),
            index_infos_path=str(self.folder / "autofaiss.json"),
            max_index_memory_usage=f"{memory_gb}GB",
            current_memory_available=f"{float(memory_gb) * 1.25 + 1:g}GB",
            metric_type="ip",
            verbose=40,  # errors only
        )
        if not info:
            raise RuntimeError(f"autofaiss builds no index within {memory_gb} GB")
        return {"seconds": time.perf_counter() - start, "key": info["index_key"], "param": info["index_param"]}

    def open(self) -> dict[str, Any]:
        self.index = faiss.read_index(str(self.path))
        return {"bytes": self.path.stat().st_size}

    def param(self, text: str) -> dict[str, Any]:
        space: Any = faiss.ParameterSpace()
        space.set_index_parameters(self.index, text)
        return {}

    def find(self) -> dict[str, Any]:
        np.save(self.folder / "hits.npy", self.index.search(self.queries, K)[1])
        return {}

    def batch(self) -> dict[str, Any]:
        self.index.search(self.queries, K)
        return {}

    def single(self, n: str) -> dict[str, Any]:
        for row in range(int(n)):
            self.index.search(self.queries[row : row + 1], K)
        return {}


def plain_numbers(metrics: Any) -> Any:
    """Make the function `metrics` return Python numbers: autofaiss fails to write a float32 as JSON."""

    def measure(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in metrics(*args, **kwargs).items()}

    return measure


class NamedOpqMatrix(faiss.OPQMatrix):
    """Accepts M and d2 by name, as autofaiss passes them and newer versions of faiss refuse."""

    def __init__(self, d: int, M: int = 1, d2: int = -1) -> None:  # noqa: N803 (faiss's name)
        super().__init__(d, M, d2)


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the libraries print to stdout, which must hold answers only
    optimize.compute_fast_metrics = plain_numbers(optimize.compute_fast_metrics)
    index_factory.faiss.OPQMatrix = NamedOpqMatrix
    peer = Peer(Path(sys.argv[1]))
    for line in sys.stdin:
        command, *words = line.split(maxsplit=1)
        print(json.dumps(getattr(peer, command)(*(word.strip() for word in words))), file=replies)


if __name__ == "__main__":
    main()
