"""A store between runs: another release as production, proofs, the removal of what nothing needs, and its health."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefect.logging import get_run_logger

from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.releases import Promotion
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.errors import VitrineError
from retrieval_core.feedback.grades import Evidence
from retrieval_core.feedback.judgements import JudgedFeedback, judge_feedback
from retrieval_core.maintenance.damage import promote_checked, roll_back_checked
from retrieval_core.maintenance.health import HealthWarning, Limits, find_warnings, measure_health, watched_folders
from retrieval_core.maintenance.vacuum import Policy, Vacuumed, plan_vacuum, vacuum
from retrieval_core.maintenance.verify import Verification
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.settings import Settings
from tasks.certificates import certificate_warnings
from tasks.stage import stage


class Swept(Value):
    """What a vacuum planned and did; `kept` and `removed` are releases, `whole` folders that stay whole."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    whole: tuple[str, ...]
    n_planned: int
    n_planned_bytes: int
    n_removed: int
    stopped: str


@stage("promote")
def promote_release(settings: Settings, release: str, by: str, why: str, anyway: bool) -> str:
    """Make a release production and return its fingerprint."""
    return promote_checked(settings.open_store(), Promotion.now(release, by, why), anyway).release


@stage("roll back")
def roll_back_release(settings: Settings) -> str:
    """Point production at the release before it and return that one's fingerprint."""
    return roll_back_checked(settings.open_store()).release


@stage("judge feedback")
def judge_store_feedback(settings: Settings, evidence: Evidence) -> JudgedFeedback:
    """Turn the log of feedback into judgements, which the next run measures with."""
    return judge_feedback(settings.open_store(), evidence, datetime.now(UTC))


@stage("verify")
def verify_store(settings: Settings, bytes_per_s: float) -> Verification:
    """Check every object of the store."""
    return verify_all(settings.open_store(), bytes_per_s, partial(log_progress, "bytes of the store"))


@stage("vacuum")
def vacuum_store(settings: Settings, policy: Policy, dry_run: bool, wait_s: float) -> Swept:
    """Remove what no kept release needs, or only plan it; active runs may take `wait_s` to end."""
    store, now_s = settings.open_store(), time.time()
    if dry_run:
        plan, done = plan_vacuum(store, policy, now_s), Vacuumed(n_removed=0)
    else:
        plan, done = vacuum(store, policy, now_s, wait_s)
    get_run_logger().info("%d objects of %d bytes are needed by nothing that is kept", len(plan.keys), plan.n_bytes)
    return Swept(
        kept=plan.kept,
        removed=plan.removed,
        whole=plan.whole,
        n_planned=len(plan.keys),
        n_planned_bytes=plan.n_bytes,
        n_removed=done.n_removed,
        stopped=done.stopped,
    )


@stage("watch")
def watch_store(
    settings: Settings, limits: Limits, folders: Sequence[str], urls: Sequence[str]
) -> tuple[HealthWarning, ...]:
    """Return what will need attention: production's age, quarantine, disks, and certificates of https addresses.

    A store that cannot be read is a warning, too.
    """
    store = settings.open_store()
    try:
        health = measure_health(store, (*watched_folders(store, settings), *map(Path, folders)))
        warnings = find_warnings(health, limits, time.time())
    except VitrineError as error:
        warnings = [
            HealthWarning(kind="store", subject=type(error).__name__, reason=f"The store cannot be read: {error}.")
        ]
    return (*warnings, *certificate_warnings(urls, limits.certificate_days))
