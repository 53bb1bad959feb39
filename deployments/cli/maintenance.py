"""The commands that look after a store: `vitrine status`, `verify`, `repair`, `vacuum`, `promote` and `rollback`."""

from __future__ import annotations

import argparse
import getpass
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from deployments.cli.command import Command, add_store, one_line, open_settings, print_answer
from deployments.cli.terminal import visible_lines
from retrieval_core.errors import BadConfig

N_PROMOTIONS = 3  # that `vitrine status` prints; its JSON has all


def add_keeping(add: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add each command by `add(name, command, text)`."""
    for name, command, text in (
        ("status", _status, "production, releases and the last run"),
        ("verify", _verify, "prove that production can be read and is whole"),
        ("rollback", _rollback, "point production at the release before"),
    ):
        add_store(add(name, command, text))
    vacuum = add("vacuum", _vacuum, "remove what no kept release needs")
    add_store(vacuum)
    vacuum.add_argument("--keep", type=int, default=5, help="releases to keep of each alias's history")
    vacuum.add_argument("--older-than-days", type=float, default=7.0, help="younger releases are kept")
    vacuum.add_argument("--safe-hours", type=float, default=24.0, help="whatever was written since then is kept")
    vacuum.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    repair = add("repair", _repair, "make again what `vitrine verify` finds damaged, or say what cannot be")
    add_store(repair)
    repair.add_argument("--source", help="KIND:URI, to read a damaged catalogue again")
    promote = add("promote", _promote, "make a release production: one that waits for it, or one the gate held back")
    add_store(promote)
    promote.add_argument("release", help="the release's name, or the start of it")
    promote.add_argument("--anyway", action="store_true", help="also where the gate held it back for a cause")
    promote.add_argument("--why", default="", metavar="TEXT", help="the reason, kept and shown; --anyway needs one")


def _status(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.status import status

    document = status(open_settings(arguments).open_store())
    lines = [f"production  {(document.production or 'none')[:12]}"]
    lines += [f"by hand     {said.release[:12]}  {said.as_sentence()}" for said in document.promotions[-N_PROMOTIONS:]]
    lines += [f"{row.created}  {row.release[:12]}  {row.gate:<9} {row.rows} rows" for row in document.releases]
    print_answer(arguments, document, visible_lines(lines))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.verify import verify

    document = verify(open_settings(arguments).open_store())
    lines = [f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<14} {check.detail}" for check in document.checks]
    print_answer(arguments, document, visible_lines(lines))
    return 0 if document.ok else 1


def _vacuum(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from retrieval_core.maintenance.vacuum import Policy, Vacuumed, apply, plan_vacuum

    try:
        policy = Policy(keep=arguments.keep, older_than_days=arguments.older_than_days, safe_hours=arguments.safe_hours)
    except ValidationError as error:
        raise BadConfig(f"vacuum: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    store = open_settings(arguments).open_store()
    plan = plan_vacuum(store, policy, time.time())
    done = Vacuumed(n_removed=0) if arguments.dry_run else apply(store, plan)
    document = plan.model_dump(mode="json", exclude={"seen"}) | done.model_dump() | {"dry_run": arguments.dry_run}
    lines = [
        f"kept     {len(plan.kept)} releases: {', '.join(name[:12] for name in plan.kept)}",
        f"planned  {len(plan.keys)} objects, {plan.n_bytes:,} bytes, of them {len(plan.removed)} releases",
        f"removed  {done.n_removed} objects" + " (a dry run)" * arguments.dry_run,
        *(f"whole    {folder}: a manifest that says what is needed there cannot be read" for folder in plan.whole),
        *(["         `vitrine repair`, then vacuum again"] if plan.whole else []),
        *([f"stopped  {done.stopped}"] if done.stopped else []),
    ]
    print_answer(arguments, document, visible_lines(lines))
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from retrieval_core.ingest.sources.registry import open_source
    from retrieval_core.maintenance.repair import repair

    if arguments.source:
        open_source(arguments.source)
    document = repair(open_settings(arguments).open_store(), arguments.source)
    lines = [f"{found.action:<9} {found.key}: {one_line(found.detail)}" for found in document.findings]
    print_answer(arguments, document, visible_lines(lines) or "nothing is damaged")
    return 0 if document.ok else 1


def _promote(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts import releases

    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = releases.Promotion(release=arguments.release, by=_user(), at=now, why=arguments.why)
    alias = releases.promote_by_hand(open_settings(arguments).open_store(), said, arguments.anyway)
    print_answer(arguments, {"production": alias.release}, f"production is {alias.release[:12]}")
    return 0


def _user() -> str:
    """Who is at the keyboard, as LOGNAME, USER or the machine knows them; a container may know a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _rollback(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts import releases

    alias = releases.rollback(open_settings(arguments).open_store())
    print_answer(arguments, {"production": alias.release}, f"production is {alias.release[:12]}")
    return 0
