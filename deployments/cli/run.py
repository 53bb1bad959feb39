"""The commands that run the pipeline or say what it would do: `vitrine demo`, `run`, `plan` and `backfill`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.cli.command import (
    JSON,
    STORE,
    VERBOSE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.prefect_server import start_prefect

if TYPE_CHECKING:
    from flows.backfill import BackfillSummary
    from flows.summary import RunSummary
    from retrieval_core.settings import Settings

EXIT_HELD = 3
THROUGH = ("mask", "embed", "release")
BACKFILL_EPILOG = (
    "Run the same command again to resume a backfill that was stopped. A backfill of all items makes a release that "
    "waits for `vitrine promote RELEASE`, with exit code 0. A backfill of some items makes no release."
)
DEMO_PRODUCTS, DEMO_VIEWS = 260, 4
# The weights of this backbone are installed, so that no hub is needed; the size and epochs of the U-Net keep it short.
DEMO_CONFIG = ["embed.backbone=efficientnet_lite0", "mask.size_px=64", "mask.max_epochs=1"]


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    text = "draw a sample catalogue, run every stage on it and print where the report is"
    demo = add_command(commands, "demo", _demo, text, JSON, VERBOSE)
    demo.add_argument("--dir", type=Path, default=Path("vitrine-demo"), help="folder for catalogue and store")
    demo.add_argument("--products", type=int, default=DEMO_PRODUCTS, help="products to draw, four pictures each")
    text = "run the pipeline, from ingest to publish; exit code 3 if the gate holds the release back"
    add_command(commands, "run", _run, text, JSON, VERBOSE, STORE, source_options())
    text = "say what a run would do and cost; writes nothing"
    add_command(commands, "plan", _plan, text, JSON, STORE, source_options())
    text = "make another representation beside the live one, and a release of it that waits to be promoted"
    _add_backfill_options(add_command(commands, "backfill", _backfill, text, JSON, VERBOSE, STORE, source_options()))


def _add_backfill_options(backfill: argparse.ArgumentParser) -> None:
    backfill.epilog = BACKFILL_EPILOG
    backfill.add_argument("--where", default="", metavar="FILTER", help="only these items, for example category=dress")
    backfill.add_argument("--item", action="append", default=[], metavar="ID", help="only this item; may be repeated")
    for name, end in (("since", "on this date or later"), ("until", "on this date or earlier")):
        text = f"only items that were new or changed in a catalogue sealed {end}, for example 2026-03-01"
        backfill.add_argument(f"--{name}", default="", metavar="DATE", help=text)
    text = "the last stage to run; default: release"
    backfill.add_argument("--through", choices=THROUGH, default="release", help=text)
    text = "pause between shards to do at most N a second; default: no limit"
    backfill.add_argument("--pictures-per-second", type=float, default=0.0, metavar="N", help=text)


def _run(arguments: argparse.Namespace) -> int:
    return _run_nightly(arguments, named_source(arguments), open_settings(arguments), arguments.set)


def _demo(arguments: argparse.Namespace) -> int:
    from retrieval_core.settings import Settings

    catalog, store = arguments.dir / "catalog", arguments.dir / "store"
    source = f"synthetic:{catalog}?products={arguments.products}&views={DEMO_VIEWS}"
    code = _run_nightly(arguments, source, Settings.load(store=str(store)), DEMO_CONFIG)
    if not arguments.json:
        query = min((catalog / "images").iterdir())
        print(f"\nsearch it  {sys.argv[0]} search --store {store} --image {query} -k 5")
    return code


def _run_nightly(arguments: argparse.Namespace, source: str, settings: Settings, overrides: list[str]) -> int:
    from flows.nightly import nightly
    from flows.preflight import checked_ahead
    from retrieval_core.config.stages import NightlyConfig
    from tasks.preflight import check_before_run

    config = NightlyConfig.load(getattr(arguments, "config", None), overrides)
    with checked_ahead(check_before_run, settings, source, config):
        start_prefect(settings, arguments.verbose)
        summary = nightly(source, settings, config)
    print_answer(arguments, summary, _run_lines(summary))
    return 0 if summary.gate == "published" else EXIT_HELD


def _run_lines(run: RunSummary) -> list[str]:
    """Return the first screen of the report, and where to go on from there: at most ten lines."""
    seconds = run.seconds.get("total", 0.0)
    return [
        *run.screen.as_lines(),
        f"release {run.release[:12]} in {seconds:.1f} s",
        f"report  {run.link or run.report}",
    ]


def _plan(arguments: argparse.Namespace) -> int:
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.maintenance.plan import forecast

    settings = open_settings(arguments)
    config = NightlyConfig.load(arguments.config, arguments.set)
    document = forecast(named_source(arguments), settings.open_store(), config)
    print_answer(arguments, document, document.as_text().split("\n"))
    return 0


def _backfill(arguments: argparse.Namespace) -> int:
    from flows.backfill import backfill
    from flows.preflight import checked_ahead
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.ingest.selection import ItemSelection
    from tasks.preflight import check_before_run

    choice: dict[str, Any] = {
        "where": arguments.where,
        "item_ids": tuple(arguments.item),
        "since": arguments.since,
        "until": arguments.until,
    }
    config = NightlyConfig.load(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    ItemSelection(**choice).period()
    through = arguments.through
    with checked_ahead(check_before_run, settings, source, config, is_evaluated=through == "release"):
        start_prefect(settings, arguments.verbose)
        summary = backfill(
            source, settings, config, **choice, through=through, pictures_per_second=arguments.pictures_per_second
        )
    print_answer(arguments, summary, _backfill_lines(summary))
    return 0


def _backfill_lines(backfill: BackfillSummary) -> list[str]:
    return [
        f"items      {backfill.items} of {backfill.rows}, through {backfill.through}",
        f"work       {backfill.masked} masked, {backfill.embedded} embedded",
        "seconds    " + ", ".join(f"{stage} {value:.1f}" for stage, value in backfill.seconds.items()),
        f"outcome    {backfill.outcome}",
        *([f"report     {backfill.release.report}"] if backfill.release else []),
    ]
