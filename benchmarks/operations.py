"""What runs cost besides their networks: six figures, most with an aim.

    python -m benchmarks.operations [FIGURE ...] [--items N] [--ccp FOLDER] [--json FILE]

- update: some items of a table change: seconds from the start of a process that starts Prefect with its server, until a
  search finds the items;
- unchanged: `vitrine run` when nothing has changed since the previous run;
- diff: the ingest of a table of which 1% changed: read, compared with the last snapshot, sealed;
- overhead: the share of a first run, from the command to its end, that is spent outside the functions of its tasks;
- history: what 1,000 nightlies without a change, and as many runs of `watch`, add to Prefect's database (SQLite);
- updates: sealing the vectors after the last of many updates, each of 100 items (`--items` says how many items in all).

Each uses two cores and a drawn catalogue, of the size that its aim is stated for unless `--items` gives another; the
aim of `overhead` is for the CCP photos, which `--ccp` names. Networks have random weights. Prefect's embedded server is
a process of its own and is measured separately.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.drawn_catalogue import DrawnCatalogue, item_id, seal_as_seen
from benchmarks.measuring.process_usage import Usage, run_measured
from benchmarks.synthetic_vectors import draw

N_UPDATED = 100
CHANGED = 0.01  # share of the diffed rows that are added, and as many changed and removed
QUICK = ("embed.backbone=resnet18", "embed.weights=random:0", "head.max_epochs=2", "gate.mode=warn")
TINY = (*QUICK, "embed.size_px=32")
ENVIRONMENT = {
    "PREFECT_API_URL": "",  # so that the server is embedded
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
SIZES = {"update": 2_000, "unchanged": 100_000, "diff": 1_000_000, "overhead": 1_550, "updates": 80_000, "history": 300}
N_RUNS, WRITTEN_S = 10, 10


class Figure(NamedTuple):
    """A measured value, the largest value aimed for (None if there is no aim for this catalogue), and details."""

    name: str
    measured: float
    aim: float | None
    unit: str
    detail: str


class Bench(NamedTuple):
    """A folder to work in, the size of the catalogue, and the folder of the CCP photos if it was given."""

    folder: Path
    n_items: int
    ccp: Path | None

    @property
    def catalogue(self) -> DrawnCatalogue:
        return DrawnCatalogue(self.folder / "shop")

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def run(self, source: str, overrides: Sequence[str]) -> tuple[Usage, dict[str, Any]]:
        """Run `vitrine run`; return its usage and its document."""
        return self.execute([str(Path(sys.executable).with_name("vitrine")), *self.run_words(source, overrides)])

    def measured(self, *words: str) -> tuple[Usage, dict[str, Any]]:
        """Run a command of `benchmarks.measuring.measured_commands`; return its usage and its document."""
        return self.execute([sys.executable, "-m", "benchmarks.measuring.measured_commands", *words])

    def run_words(self, source: str, overrides: Sequence[str]) -> list[str]:
        """Return the arguments of `vitrine` for a run."""
        sets = [word for override in overrides for word in ("--set", override)]
        return ["run", "--json", "--source", source, "--store", self.store, *sets]

    @contextmanager
    def prefect_server(self) -> Iterator[str]:
        """Run a Prefect server with its database in this folder; yield the URL of its API."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        command = [sys.executable, "-m", "prefect", "server", "start", f"--port={port}"]
        url = f"http://127.0.0.1:{port}/api"
        environment = os.environ | ENVIRONMENT | {"PREFECT_HOME": str(self.folder / "prefect")}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
            try:
                while True:
                    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                        break
                    time.sleep(0.2)
                yield url
            finally:
                server.terminate()

    def execute(self, command: Sequence[str], environment: Mapping[str, str] = {}) -> tuple[Usage, dict[str, Any]]:
        """Run a command with Prefect's files in this folder; return its usage and the document that it prints."""
        usage = run_measured(command, {**ENVIRONMENT, "PREFECT_HOME": str(self.folder / "prefect"), **environment})
        return usage, json.loads(usage.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(SIZES)}; default: all")
    parser.add_argument(
        "--items", type=int, default=0, help="items of the catalogue; default: as many as the aim is stated for"
    )
    parser.add_argument("--ccp", type=Path, help="folder of the CCP photos, for the figure overhead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - set(SIZES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    results: list[Figure] = []
    for name in arguments.figures or SIZES:
        with TemporaryDirectory(prefix="vitrine-bench-") as folder:
            results += FIGURES[name](Bench(Path(folder), arguments.items or SIZES[name], arguments.ccp))
    _print(results)
    if arguments.json:
        arguments.json.write_text(json.dumps([f._asdict() for f in results], indent=1) + "\n", encoding="utf-8")


def _update(bench: Bench) -> Iterator[Figure]:
    catalogue, n = bench.catalogue, min(N_UPDATED, bench.n_items // 2)
    catalogue.draw(range(bench.n_items))
    catalogue.write_table(range(bench.n_items))
    bench.run(catalogue.source, QUICK)
    changed, removed = range(n // 4), range(n // 4, n // 2)
    added = range(bench.n_items, bench.n_items + n - len(changed) - len(removed))
    catalogue.draw(changed, edition=1)
    catalogue.draw(added)
    catalogue.write_table([*changed, *range(removed.stop, added.stop)])
    change = {"added": added, "changed": changed, "removed": removed}
    names = {kind: [item_id(number) for number in numbers] for kind, numbers in change.items()}
    pictures = {item_id(number): str(catalogue.path(number)) for number in (*changed, *added)}
    started = time.time()
    usage, times = bench.measured("update", catalogue.source, bench.store, json.dumps([names, pictures]), *QUICK)
    detail = f"in {bench.n_items:,}; {times['began'] - started:.1f} s until the flow began; {_usage_text(usage)}"
    yield Figure(f"{n} items updated, until they are found", times["found"] - started, 60, "s", detail)


def _unchanged(bench: Bench) -> Iterator[Figure]:
    catalogue = bench.catalogue
    catalogue.draw(range(bench.n_items))
    catalogue.write_table(range(bench.n_items))
    first, _ = bench.run(catalogue.source, TINY)
    second, run = bench.run(catalogue.source, TINY)
    if run["embedded"] or run["catalog"]["unchanged"] != bench.n_items:
        raise RuntimeError(f"the second run found changes: {run['catalog']}, {run['embedded']} embedded")
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["seconds"].items())
    name = f"nothing changed in {bench.n_items:,} items"
    yield Figure(name, second.wall_s, 120, "s", f"seconds a stage: {stages}; the first run {first.wall_s:.0f} s")
    yield Figure(f"{name}: memory", second.peak_mb / 1e3, 1, "GB", _usage_text(second))


def _diff(bench: Bench) -> Iterator[Figure]:
    catalogue, n_changed = bench.catalogue, round(CHANGED * bench.n_items)
    catalogue.draw_one_folder(bench.n_items + n_changed)
    catalogue.write_table(range(bench.n_items))
    seal_as_seen(catalogue, bench.store)
    catalogue.write_table(range(n_changed, bench.n_items + n_changed), restyled=range(n_changed, 2 * n_changed))
    usage, ingest = bench.measured("ingest", catalogue.source, bench.store)
    if (ingest["added"], ingest["changed"], ingest["removed"]) != (n_changed,) * 3:
        raise RuntimeError(f"expected {n_changed} items each to be added, changed and removed, but saw {ingest}")
    name = f"{bench.n_items:,} rows diffed"
    detail = f"from the table's bytes to the sealed catalogue; {_usage_text(usage)}"
    yield Figure(name, ingest["seconds"], 30, "s", detail)
    yield Figure(f"{name}: memory", usage.peak_mb / 1e3, 2, "GB", f"{ingest['read']} new pictures read")


def _overhead(bench: Bench) -> Iterator[Figure]:
    if bench.ccp:
        words = bench.run_words(f"ccp:{bench.ccp}", QUICK[:1])
    else:
        bench.catalogue.draw(range(bench.n_items))
        bench.catalogue.write_table(range(bench.n_items))
        words = bench.run_words(bench.catalogue.source, QUICK)
    started = time.time()
    usage, tasks = bench.measured("timed", *words)
    aim = 5.0 if bench.ccp else None
    outside_s = usage.wall_s - tasks["inside_s"]
    before_s, after_s = tasks["first"] - started, started + usage.wall_s - tasks["last"]
    between_s = outside_s - before_s - after_s
    detail = (
        f"{outside_s:.1f} s of {usage.wall_s:.0f}: {before_s:.1f} before the first task, {after_s:.1f} after the last, "
        f"{between_s:.1f} between {tasks['n_tasks']} tasks; {_usage_text(usage)}"
    )
    catalogue = "of the CCP photos" if bench.ccp else f"of {bench.n_items:,} drawn items"
    yield Figure(f"a first run {catalogue}, outside its tasks", 100 * outside_s / usage.wall_s, aim, "%", detail)


def _updates(bench: Bench) -> Iterator[Figure]:
    from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
    from retrieval_core.artifacts.parts import vectors_bytes
    from retrieval_core.artifacts.variants import Variant
    from retrieval_core.store.uris import open_store

    store = open_store(bench.store)
    for start in range(0, bench.n_items, N_UPDATED):
        ids = [str(number) for number in range(start, start + N_UPDATED)]
        data = vectors_bytes(ids, draw(N_UPDATED, 512, seed=start))
        for family in ("sealed", "piled"):
            put_growing_part(store, "vectors", family, f"u{start}", data, N_UPDATED)
        if start + N_UPDATED < bench.n_items:
            seal_vectors(store, "sealed", Variant(), 512, str(start), map(str, range(start + N_UPDATED)))
    n_updates = bench.n_items // N_UPDATED
    usage, last = bench.measured("seal", bench.store, "sealed", str(bench.n_items))
    _, piled = bench.measured("seal", bench.store, "piled", str(bench.n_items))
    detail = (
        f"{last['cpu_s']:.2f} s of CPU; {last['parts']} parts of {last['rows']:,} rows; merging {n_updates} parts that "
        f"were never merged takes {piled['seconds']:.1f} s once, {piled['cpu_s']:.1f} s of CPU; {_usage_text(usage)}"
    )
    yield Figure(f"vectors sealed after {n_updates} updates", last["seconds"], 0.5, "s", detail)


def _history(bench: Bench) -> Iterator[Figure]:
    bench.catalogue.draw(range(bench.n_items))
    bench.catalogue.write_table(range(bench.n_items))
    nightly = [str(Path(sys.executable).with_name("vitrine")), *bench.run_words(bench.catalogue.source, TINY)]
    call = f"watch(Settings(store={bench.store!r}))"
    script = f"from flows.maintenance import watch; from retrieval_core.settings import Settings; {call}; print('null')"
    with bench.prefect_server() as url:
        environment = {"PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "INFO"}
        for name, command in {"nightlies": nightly, "runs of watch": [sys.executable, "-c", script]}.items():
            bench.execute(command, environment)
            before = _table_bytes(bench)
            for _ in range(N_RUNS):
                bench.execute(command, environment)
            grown = {table: (size - before.get(table, 0)) / N_RUNS for table, size in _table_bytes(bench).items()}
            for kind, of_events in (("", False), (": events", True)):
                tables = {table: size for table, size in grown.items() if table.startswith("event") == of_events}
                largest = sorted(tables, key=lambda table: -tables[table])[:5]
                detail = "kB of each: " + ", ".join(f"{table} {tables[table] / 1e3:.1f}" for table in largest)
                yield Figure(f"1,000 {name}{kind}", sum(tables.values()) / 1e3, None, "MB", detail)


def _table_bytes(bench: Bench) -> dict[str, int]:
    """Return the bytes of each table of Prefect's database with its indexes, once all batches are written."""
    time.sleep(WRITTEN_S)
    with closing(sqlite3.connect(bench.folder / "prefect" / "prefect.db")) as connection:
        return dict(
            connection.execute(
                "select m.tbl_name, sum(s.pgsize) from dbstat s join sqlite_master m on m.name = s.name group by 1"
            )
        )


FIGURES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "update": _update, "unchanged": _unchanged, "diff": _diff, "overhead": _overhead,
    "updates": _updates, "history": _history,
}  # fmt: skip


def _usage_text(usage: Usage) -> str:
    return (
        f"wall {usage.wall_s:.1f} s, CPU {usage.cpu_s:.1f} s with the server's, {usage.peak_mb:,.0f} MB at most "
        f"and {usage.helpers_mb:,.0f} MB in Prefect's server"
    )


def _print(figures: Sequence[Figure]) -> None:
    print(f"| {'':52} | {'measured':>9} | {'aim':>7} | met |\n|{'-' * 54}|{'-' * 10}:|{'-' * 8}:|-----|")
    for figure in figures:
        aim = "" if figure.aim is None else f"{figure.aim:g} {figure.unit}"
        met = "" if figure.aim is None else "yes" if figure.measured <= figure.aim else "no"
        print(f"| {figure.name:52} | {f'{figure.measured:.3g} {figure.unit}':>9} | {aim:>7} | {met:3} |")
    for figure in figures:
        print(f"{figure.name}: {figure.detail}")


if __name__ == "__main__":
    main()
