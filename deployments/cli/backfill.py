"""`vitrine backfill`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

THROUGH = ("mask", "embed", "release")
TEXT = "fill in a representation beside the live one, and make a release that waits to be promoted"
ENDING = (
    "A backfill that was stopped is gone on with by the same command. Exit code 0 where it did what was asked, also "
    "though its release waits: `vitrine promote RELEASE` publishes it. Of a part of the catalogue no release is made."
)


def add_backfill(
    sub: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], add_store: Callable[..., None]
) -> None:
    """Give `vitrine backfill` its arguments."""
    sub.set_defaults(command=command)
    sub.epilog = ENDING
    sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    add_store(sub)
    sub.add_argument("--source", help="KIND:URI, for example folder:photos or table:items.csv")
    sub.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="set one config value")
    sub.add_argument("--where", default="", metavar="FILTER", help="only these items, for example 'category=dress'")
    sub.add_argument("--item", action="append", default=[], metavar="ID", help="only this item; may be repeated")
    for name, end in (("since", "from this date on"), ("until", "up to and with this date")):
        text = f"only items that came or changed in a catalogue sealed {end}, for example 2026-03-01"
        sub.add_argument(f"--{name}", default="", metavar="DATE", help=text)
    sub.add_argument("--through", choices=THROUGH, default="release", help="the stage to end with; default: release")
    text = "pause between shards so as to do no more than N a second; default: no limit"
    sub.add_argument("--pictures-per-second", type=float, default=0.0, metavar="N", help=text)


def as_text(done: dict[str, Any]) -> str:
    """What a backfill did, line by line."""
    return "\n".join(
        [
            f"items      {done['items']} of {done['rows']}, through {done['through']}",
            f"work       {done['masked']} masked, {done['embedded']} embedded",
            "seconds    " + ", ".join(f"{stage} {value:.1f}" for stage, value in done["seconds"].items()),
            f"outcome    {done['outcome']}",
            *([f"report     {done['release']['report']}"] if done["release"] else []),
        ]
    )
