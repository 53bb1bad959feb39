"""What nights cost beside the networks: the four figures promised to who runs them.

    python -m benchmarks.operations [update] [night] [diff] [overhead] [--items N] [--ccp FOLDER] [--json FILE]

- update: some items of a table change: seconds from the start of a process that starts Prefect, its server too, until
  it has searched and found them;
- night: `vitrine run` where nothing changed since the night before;
- diff: the ingest of a table of which 1% changed: read, compared with what every picture was last seen as, sealed;
- overhead: the share of a first night, from the command to its end, that is spent in no task's own function.

Each runs on two cores and on a drawn catalogue, of the promised size unless `--items` says another; `overhead` is
promised for the CCP photos, which `--ccp` names. Networks have random weights. Prefect's embedded server is a process
of its own, told apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.shop import Shop, item_id, see
from benchmarks.watched import Watched, watch

N_UPDATED = 100
CHANGED = 0.01  # of the rows that are diffed: as many come as go, as many say something else
QUICK = ("embed.weights=random:0", "head.max_epochs=2", "gate.mode=warn")
TINY = (*QUICK, "embed.size_px=32")
ENVIRONMENT = {
    "PREFECT_API_URL": "",  # so that the server is embedded
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}
SIZES = {"update": 2_000, "night": 100_000, "diff": 1_000_000, "overhead": 1_550}


class Figure(NamedTuple):
    """What was measured, what is promised at most (None: nothing, of this catalogue), and what to know about it."""

    name: str
    measured: float
    aim: float | None
    unit: str
    detail: str


class SearchSetup(NamedTuple):
    """A folder to work in, the size of the catalogue, and where the CCP photos lie if they are there."""

    folder: Path
    n_items: int
    ccp: Path | None

    @property
    def shop(self) -> Shop:
        return Shop(self.folder / "shop")

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def run(self, source: str, overrides: Sequence[str]) -> tuple[Watched, dict[str, Any]]:
        """`vitrine run` and its document."""
        return self._watch([str(Path(sys.executable).with_name("vitrine")), *self.night(source, overrides)])

    def ask(self, *words: str) -> tuple[Watched, dict[str, Any]]:
        """A process of `benchmarks.asked` and its document."""
        return self._watch([sys.executable, "-m", "benchmarks.asked", *words])

    def night(self, source: str, overrides: Sequence[str]) -> list[str]:
        """The words behind `vitrine`."""
        sets = [word for override in overrides for word in ("--set", override)]
        return ["run", "--json", "--source", source, "--store", self.store, *sets]

    def _watch(self, command: Sequence[str]) -> tuple[Watched, dict[str, Any]]:
        done = watch(command, ENVIRONMENT | {"PREFECT_HOME": str(self.folder / "prefect")})
        return done, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(SIZES)}; default: all")
    parser.add_argument("--items", type=int, default=0, help="items of the catalogue; default: as many as promised")
    parser.add_argument("--ccp", type=Path, help="folder of the CCP photos, for the figure overhead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - set(SIZES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    results: list[Figure] = []
    for name in arguments.figures or SIZES:
        with TemporaryDirectory(prefix="vitrine-bench-") as folder:
            results += FIGURES[name](SearchSetup(Path(folder), arguments.items or SIZES[name], arguments.ccp))
    _print(results)
    if arguments.json:
        arguments.json.write_text(json.dumps([f._asdict() for f in results], indent=1) + "\n", encoding="utf-8")


def _update(bench: SearchSetup) -> Iterator[Figure]:
    shop, n = bench.shop, min(N_UPDATED, bench.n_items // 2)
    shop.draw(range(bench.n_items))
    shop.list(range(bench.n_items))
    bench.run(shop.source, QUICK)
    changed, removed = range(n // 4), range(n // 4, n // 2)
    added = range(bench.n_items, bench.n_items + n - len(changed) - len(removed))
    shop.draw(changed, edition=1)
    shop.draw(added)
    shop.list([*changed, *range(removed.stop, added.stop)])
    change = {"added": added, "changed": changed, "removed": removed}
    names = {word: [item_id(number) for number in numbers] for word, numbers in change.items()}
    pictures = {item_id(number): str(shop.path(number)) for number in (*changed, *added)}
    started = time.time()
    done, told = bench.ask("update", shop.source, bench.store, json.dumps([names, pictures]), *QUICK)
    detail = f"in {bench.n_items:,}; {told['began'] - started:.1f} s until the flow began; {_told(done)}"
    yield Figure(f"{n} items updated, until they are found", told["found"] - started, 60, "s", detail)


def _night(bench: SearchSetup) -> Iterator[Figure]:
    shop = bench.shop
    shop.draw(range(bench.n_items))
    shop.list(range(bench.n_items))
    first, _ = bench.run(shop.source, TINY)
    night, told = bench.run(shop.source, TINY)
    if told["embedded"] or told["catalog"]["unchanged"] != bench.n_items:
        raise RuntimeError(f"the second night found changes: {told['catalog']}, {told['embedded']} embedded")
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in told["seconds"].items())
    name = f"nothing changed in {bench.n_items:,} items"
    yield Figure(name, night.wall_s, 120, "s", f"seconds a stage: {stages}; the first night {first.wall_s:.0f} s")
    yield Figure(f"{name}: memory", night.peak_mb / 1e3, 1, "GB", _told(night))


def _diff(bench: SearchSetup) -> Iterator[Figure]:
    shop, n_changed = bench.shop, round(CHANGED * bench.n_items)
    shop.pretend(bench.n_items + n_changed)
    shop.list(range(bench.n_items))
    see(shop, bench.store)
    shop.list(range(n_changed, bench.n_items + n_changed), restyled=range(n_changed, 2 * n_changed))
    done, told = bench.ask("ingest", shop.source, bench.store)
    if (told["added"], told["changed"], told["removed"]) != (n_changed,) * 3:
        raise RuntimeError(f"{n_changed} items each were added, changed and removed, and these were found: {told}")
    name = f"{bench.n_items:,} rows diffed"
    yield Figure(name, told["seconds"], 30, "s", f"from the table's bytes to the sealed catalogue; {_told(done)}")
    yield Figure(f"{name}: memory", done.peak_mb / 1e3, 2, "GB", f"{told['read']} new pictures read")


def _overhead(bench: SearchSetup) -> Iterator[Figure]:
    if bench.ccp:
        night = bench.night(f"ccp:{bench.ccp}", QUICK[:1])
    else:
        bench.shop.draw(range(bench.n_items))
        bench.shop.list(range(bench.n_items))
        night = bench.night(bench.shop.source, QUICK)
    started = time.time()
    done, told = bench.ask("timed", *night)
    aim = 5.0 if bench.ccp else None
    outside_s = done.wall_s - told["inside_s"]
    before_s, after_s = told["first"] - started, started + done.wall_s - told["last"]
    detail = (
        f"{outside_s:.1f} s of {done.wall_s:.0f}: {before_s:.1f} before the first task, {after_s:.1f} after the last"
    )
    detail += f", {outside_s - before_s - after_s:.1f} between {told['n_tasks']} tasks; {_told(done)}"
    what = "of the CCP photos" if bench.ccp else f"of {bench.n_items:,} drawn items"
    yield Figure(f"a first night {what}, outside its tasks", 100 * outside_s / done.wall_s, aim, "%", detail)


FIGURES: dict[str, Callable[[SearchSetup], Iterator[Figure]]] = {
    "update": _update, "night": _night, "diff": _diff, "overhead": _overhead,
}  # fmt: skip


def _told(done: Watched) -> str:
    return (
        f"wall {done.wall_s:.1f} s, CPU {done.cpu_s:.1f} s with the server's, {done.peak_mb:,.0f} MB at most "
        f"and {done.helpers_mb:,.0f} MB in Prefect's server"
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
