"""The commands that look after a store: `vitrine status`, `verify`, `vacuum`, `feedback`, `promote` and the like."""

from __future__ import annotations

import argparse
import getpass
import os
import time
from functools import partial

from deployments.cli.command import JSON, STORE, Commands, add_command, open_settings, print_answer
from deployments.cli.terminal import one_line
from retrieval_core.errors import BadConfig

N_PROMOTIONS = 3  # the last ones, printed by `vitrine status`; its JSON has all


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    for name, command, text in (
        ("status", _status, "print production, the releases and the last run"),
        ("rollback", _rollback, "point production at the previous release"),
    ):
        add_command(commands, name, command, text, JSON, STORE)
    verify = add_command(commands, "verify", _verify, "prove that production can be read and is whole", JSON, STORE)
    verify.add_argument("--all", action="store_true", help="read every object of the store and compare its checksum")
    text = "with --all, read at most so much a second; 0: as fast as possible"
    verify.add_argument("--max-rate", type=float, default=0.0, metavar="MB", help=text)
    text = "say what would be rewritten in a store that an older version wrote"
    migrate = add_command(commands, "migrate", _migrate, text, JSON, STORE)
    migrate.add_argument("--apply", action="store_true", help="rewrite it")
    vacuum = add_command(commands, "vacuum", _vacuum, "remove what no kept release needs", JSON, STORE)
    vacuum.add_argument("--keep", type=int, default=5, help="releases to keep of each alias's history")
    vacuum.add_argument("--older-than-days", type=float, default=7.0, help="keep younger releases")
    vacuum.add_argument("--safe-hours", type=float, default=24.0, help="keep whatever was written since")
    text = "wait so long for active runs to end; new runs wait meanwhile"
    vacuum.add_argument("--wait", type=float, default=0.0, metavar="MINUTES", help=text)
    vacuum.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    text = "turn what shoppers chose into golden queries with grades, which judge the releases of the next runs"
    feedback = add_command(commands, "feedback", _feedback, text, JSON, STORE)
    feedback.add_argument("--days", type=float, default=90.0, help="judge the feedback of so many days")
    text = "rebuild what `vitrine verify` finds damaged, or say why it cannot be rebuilt"
    repair = add_command(commands, "repair", _repair, text, JSON, STORE)
    repair.add_argument("--source", help="KIND:URI, to read a damaged catalogue again")
    text = "make a release production, also one that the gate held back"
    promote = add_command(commands, "promote", _promote, text, JSON, STORE)
    promote.add_argument("release", help="the release's name, or the start of it")
    promote.add_argument("--anyway", action="store_true", help="promote it even if the gate found a cause to hold it")
    text = "the reason, kept and shown by `vitrine status`; --anyway needs one"
    promote.add_argument("--why", default="", metavar="TEXT", help=text)


def _status(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.status import status

    document = status(open_settings(arguments).open_store())
    promotions = document.promotions[-N_PROMOTIONS:]
    lines = [
        f"production  {(document.production or 'none')[:12]}",
        *(
            f"anchor      {anchor.release[:12]}  since {anchor.since}: {anchor.why}"
            for anchor in [document.anchor]
            if anchor
        ),
        *(f"by hand     {promotion.release[:12]}  {promotion.as_sentence()}" for promotion in promotions),
        *(f"{row.created}  {row.release[:12]}  {row.gate:<9} {row.rows} rows" for row in document.releases),
    ]
    print_answer(arguments, document, lines)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts.shards import log_progress
    from retrieval_core.maintenance.verify import verify
    from retrieval_core.maintenance.verify_objects import verify_all

    store = open_settings(arguments).open_store()
    if arguments.all:
        document = verify_all(store, arguments.max_rate * 1e6, partial(log_progress, "bytes of the store"))
    else:
        document = verify(store)
    lines = [f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<14} {check.detail}" for check in document.checks]
    print_answer(arguments, document, lines)
    return 0 if document.ok else 1


def _migrate(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.migrate import migrate, plan_migration

    store = open_settings(arguments).open_store()
    plan = migrate(store) if arguments.apply else plan_migration(store)
    document = plan.model_dump(mode="json") | {"applied": arguments.apply}
    print_answer(arguments, document, [plan.as_sentence(arguments.apply)])
    return 0


def _vacuum(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from retrieval_core.maintenance.vacuum import Policy, Vacuumed, plan_vacuum, vacuum

    try:
        policy = Policy(keep=arguments.keep, older_than_days=arguments.older_than_days, safe_hours=arguments.safe_hours)
    except ValidationError as error:
        raise BadConfig(f"vacuum: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    store, now_s = open_settings(arguments).open_store(), time.time()
    if arguments.dry_run:
        plan, done = plan_vacuum(store, policy, now_s), Vacuumed(n_removed=0)
    else:
        plan, done = vacuum(store, policy, now_s, 60 * arguments.wait)
    document = plan.model_dump(mode="json", exclude={"seen"}) | done.model_dump() | {"dry_run": arguments.dry_run}
    lines = [
        f"kept     {len(plan.kept)} releases: {', '.join(name[:12] for name in plan.kept)}",
        f"planned  {len(plan.keys)} objects, {plan.n_bytes:,} bytes, of them {len(plan.removed)} releases",
        f"removed  {done.n_removed} objects" + " (a dry run)" * arguments.dry_run,
        *(f"whole    {folder}: a manifest that says what is needed there cannot be read" for folder in plan.whole),
        *(["         `vitrine repair`, then vacuum again"] if plan.whole else []),
        *([f"stopped  {done.stopped}"] if done.stopped else []),
    ]
    print_answer(arguments, document, lines)
    return 0


def _feedback(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from retrieval_core.feedback.grades import Evidence
    from retrieval_core.feedback.judgements import judge_feedback
    from retrieval_core.store.leases import shared_lease

    if not arguments.days > 0:
        raise BadConfig(f"--days is {arguments.days:g}; expected more than 0")
    store = open_settings(arguments).open_store()
    with shared_lease(store, "the judgement of feedback"):
        judged = judge_feedback(store, Evidence(days=arguments.days), datetime.now(UTC))
    how = (
        f"learned from {judged.eta_choices:,} choices" if judged.eta_choices else "assumed: too few choices to learn it"
    )
    lines = [
        f"feedback    {judged.n_searches:,} searches, {judged.n_events:,} events, {judged.n_uncounted:,} not counted",
        f"attention   falls with 1 / position^{judged.eta:.2f}, {how}",
        f"judgements  {judged.judgements[:12]}: {judged.n_golden:,} golden queries, {judged.n_training:,} to train on",
    ]
    print_answer(arguments, judged, lines)
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from retrieval_core.ingest.sources.registry import open_source
    from retrieval_core.maintenance.repair import repair

    if arguments.source:
        open_source(arguments.source)
    document = repair(open_settings(arguments).open_store(), arguments.source)
    lines = [f"{finding.action:<9} {finding.key}: {one_line(finding.detail)}" for finding in document.findings]
    print_answer(arguments, document, lines or ["nothing is damaged"])
    return 0 if document.ok else 1


def _promote(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts import releases
    from retrieval_core.maintenance.damage import promote_checked

    promotion = releases.Promotion.now(arguments.release, _user(), arguments.why)
    alias = promote_checked(open_settings(arguments).open_store(), promotion, arguments.anyway)
    print_answer(arguments, {"production": alias.release}, [f"production is {alias.release[:12]}"])
    return 0


def _user() -> str:
    """Return the name of the user, from LOGNAME, USER or the machine; their number if the machine knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _rollback(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.damage import roll_back_checked

    alias = roll_back_checked(open_settings(arguments).open_store())
    print_answer(arguments, {"production": alias.release}, [f"production is {alias.release[:12]}"])
    return 0
