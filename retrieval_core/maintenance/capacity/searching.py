"""Estimate what searching a catalogue of any size takes: memory, disk, time and cores."""

from __future__ import annotations

import math
from collections.abc import Iterable

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.recipes import Recipe, choose_recipe, choose_shards, scan_bytes
from retrieval_core.maintenance.capacity.runs import gigabytes

FULL_DIM, CANDIDATE_DIM = 512, 64  # of the vectors, and of those that a run usually finds candidates in
SCAN_BYTES_PER_S = 4e9  # a core reads so much of an index that is in memory; docs/search-index.md, single queries
EMBED_S = 0.032  # to embed the picture of a query, on a core; docs/first-results.md, ResNet-18
PROCESS_BYTES, ROW_BYTES = 300e6, 64  # of a search process, and of each row of the release that it holds
ITEM_BYTES = 200  # of a row in the mapped table of items: id, address, product, category, labels
BUSY = 0.5  # share of the time that a core may be busy, so that queries seldom wait


class Searching(Value):
    """What a machine that searches `n_releases` releases of a catalogue at once takes.

    Candidates should lie in memory (`memory_bytes`, with the process itself); full vectors and items are mapped from a
    local disk (`disk_bytes`), of which a query reads a few rows. `query_s` is one core's time for a query by item,
    without waiting for the disk. `n_cores` are needed for the queries of a second, half of whose time they are idle.
    `export_bytes` are sent to a database by a first `vitrine export`. Without a `recipe` nothing fits into the memory.
    """

    n_pictures: int
    n_shards: int
    recipe: Recipe | None
    memory_bytes: int = 0
    disk_bytes: int = 0
    query_s: float = 0.0
    n_cores: int = 0
    export_bytes: int


def estimate_searching(n_pictures: int, memory_gb: float, n_releases: int, queries_per_s: float) -> Searching:
    """Estimate searching with `memory_gb` on each machine; the config of a run names them as `index.memory_gb`.

    Of the queries of a second, each is by picture. Raises `BadConfig` where a number is too small.
    """
    if n_pictures < 0 or n_releases < 1 or memory_gb <= 0 or queries_per_s < 0:
        raise BadConfig(
            "expected 0 or more pictures and queries, at least 1 release, and some memory; got "
            f"{n_pictures} pictures, {queries_per_s:g} queries, {n_releases} releases, {memory_gb:g} GB"
        )
    own_bytes = PROCESS_BYTES + n_releases * ROW_BYTES * n_pictures
    config = IndexConfig(memory_gb=max(1e-9, (memory_gb * 1e9 - own_bytes) / 1e9 / n_releases))
    n_shards = choose_shards(n_pictures, config)
    export_bytes = n_pictures * (4 * FULL_DIM + ITEM_BYTES)
    try:
        recipe = choose_recipe(n_pictures, CANDIDATE_DIM, FULL_DIM, config)
    except BadConfig:
        return Searching(n_pictures=n_pictures, n_shards=n_shards, recipe=None, export_bytes=export_bytes)
    query_s = scan_bytes(recipe, n_pictures, CANDIDATE_DIM) / SCAN_BYTES_PER_S
    return Searching(
        n_pictures=n_pictures,
        n_shards=n_shards,
        recipe=recipe,
        memory_bytes=round(own_bytes + n_releases * recipe.index_bytes),
        disk_bytes=n_releases * (recipe.index_bytes + recipe.vector_bytes + ITEM_BYTES * n_pictures),
        query_s=query_s,
        n_cores=math.ceil(queries_per_s * (query_s + EMBED_S) / BUSY),
        export_bytes=export_bytes,
    )


def searching_table(rows: Iterable[Searching]) -> str:
    """Return a Markdown table with a row per catalogue."""
    lines = [
        "| pictures | index | shards | memory | local disk | a query by item, ms | cores | first export |",
        "|" + "---:|" * 8,
    ]
    for row in rows:
        cells = ["does not fit", f"{row.n_shards:,}", "", "", "", ""]
        if row.recipe:
            cells[0] = row.recipe.key
            cells[2:] = [gigabytes(row.memory_bytes), gigabytes(row.disk_bytes)]
            cells += [f"{1000 * row.query_s:,.1f}", f"{row.n_cores:,}"]
        lines.append(f"| {' | '.join([f'{row.n_pictures:,}', *cells, gigabytes(row.export_bytes)])} |")
    return "\n".join(lines)
