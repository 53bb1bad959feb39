"""Commands that `benchmarks.operations` measures, each in a process of its own; each prints one JSON document.

timed run …                           `vitrine run …`, and when the functions of its tasks ran
update SOURCE STORE JSON OVERRIDE…    a catalogue update: when the flow began, and when every new picture was found
ingest SOURCE STORE                   the task that ingests, without Prefect
seal STORE FAMILY N                   a view of N drawn vectors of a family: how long it took, and how many parts it has
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

Span = tuple[float, float]  # begin and end, in seconds since the epoch


def main() -> None:
    name, *words = sys.argv[1:]
    print(json.dumps(COMMANDS[name](*words)))


def _timed(*words: str) -> dict[str, Any]:
    from prefect import Task

    import flows.nightly  # noqa: F401  # imports every task of a run
    from deployments.cli.main import main as vitrine

    spans: list[Span] = []
    modules = [module for name, module in sys.modules.items() if name.startswith("tasks.")]
    tasks = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Task)}
    for task in tasks.values():
        task.fn = _with_span(task.fn, spans)
    with redirect_stdout(sys.stderr):
        if code := vitrine(words):
            raise SystemExit(code)
    ordered = sorted(spans)
    return {
        "inside_s": sum(end - start for start, end in ordered),
        "first": ordered[0][0],
        "last": max(end for _, end in ordered),
        "n_tasks": len(ordered),
    }


def _with_span(function: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    """Make a function append the time that each call takes to `spans`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append((start, time.time()))

    return wrapped


def _update(source: str, store: str, names_and_pictures: str, *overrides: str) -> dict[str, Any]:
    from deployments.cli.prefect_server import start_prefect
    from flows.catalog_update import catalog_update
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.search.release import open_release
    from retrieval_core.settings import Settings

    names, pictures = json.loads(names_and_pictures)
    settings = Settings.load(store=store)
    start_prefect(settings, is_verbose=False)
    began = time.time()
    summary = catalog_update(source, settings, NightlyConfig.load(None, list(overrides)), **names)
    release = open_release(settings.open_store())
    missed = [item for item, picture in pictures.items() if release.search(picture, k=1)[0].item_id != item]
    found = time.time()
    if missed or summary.gate != "published" or summary.catalog.removed != len(names["removed"]):
        raise RuntimeError(f"{len(missed)} of {len(pictures)} items not found, {summary.gate}, {summary.catalog}")
    return {"began": began, "found": found}


def _ingest(source: str, store: str) -> dict[str, Any]:
    from prefect.logging import disable_run_logger

    from retrieval_core.config.stages import IngestConfig
    from retrieval_core.ingest.catalog import plan_source, seal_ingest
    from retrieval_core.ingest.shards import read_shard
    from retrieval_core.settings import Settings

    settings = Settings.load(store=store)
    started, cpu_started = time.perf_counter(), time.process_time()
    with disable_run_logger():
        plan = plan_source(settings.open_store(), source, IngestConfig())
        for shard in plan.split():
            read_shard(settings, shard, IngestConfig())
        outcome = seal_ingest(settings.open_store(), plan, IngestConfig(), plan.fetched)
    figures = {
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu_started,
        "read": outcome.n_read,
    }
    return figures | {name: getattr(outcome.diff, name) for name in ("added", "changed", "removed", "unchanged")}


def _seal(store: str, family: str, n_rows: str) -> dict[str, Any]:
    from retrieval_core.artifacts.growing_sets import seal_vectors
    from retrieval_core.artifacts.variants import Variant
    from retrieval_core.store.uris import open_store

    wanted = map(str, range(int(n_rows)))
    started, cpu_started = time.perf_counter(), time.process_time()
    view = seal_vectors(open_store(store), family, Variant(), 512, n_rows, wanted)
    figures = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}
    return figures | {"parts": len(view.parts), "rows": view.counts["rows"]}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "timed": _timed, "update": _update, "ingest": _ingest, "seal": _seal,
}  # fmt: skip

if __name__ == "__main__":
    main()
