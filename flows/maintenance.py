"""What people and schedules do to a store between runs: promote, roll back, verify, watch, vacuum."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows.run import RUNNER, interruptible_run
from flows.summary import as_table
from flows.ui_artifacts import emit_warning, show_table
from retrieval_core.errors import BadConfig, ShardCorrupt
from retrieval_core.maintenance.health import HealthWarning, Limits
from retrieval_core.maintenance.vacuum import Policy
from retrieval_core.maintenance.verify import Verification
from retrieval_core.settings import Settings
from tasks.maintenance import Swept, promote_release, roll_back_release, vacuum_store, verify_store, watch_store

LIMITS = Limits()
POLICY = Policy()
N_NAMED = 3  # damaged objects in the message of a run; its table has all


@flow(name="promote", task_runner=RUNNER, validate_parameters=True)
def promote(settings: Settings, release: str, by: str, why: str = "", anyway: bool = False) -> str:
    """Make a release production, also one that the gate held back, and return its fingerprint.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
        release: the release's fingerprint, or the start of it, as the summary of its run shows it.
        by: who decides; kept with the reason beside the release.
        why: the reason; needed for a release that the gate held back.
        anyway: promote it even if the gate found a cause to hold it.
    """
    if not (release.strip() and by.strip()):
        raise BadConfig("release and by are empty; name the release and who promotes it")
    production = promote_release(settings, release.strip(), by.strip(), why, anyway)
    show_table(
        "promote-summary", as_table(("", ""), [("production", production), ("by", by), ("why", why)]), "Promoted"
    )
    return production


@flow(name="rollback", task_runner=RUNNER, validate_parameters=True)
def rollback(settings: Settings) -> str:
    """Point production at the release before it and return its fingerprint; the next run does not publish it again.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
    """
    production = roll_back_release(settings)
    show_table("rollback-summary", as_table(("", ""), [("production", production)]), "Rolled back")
    return production


@flow(name="verify", task_runner=RUNNER, validate_parameters=True)
def verify(settings: Settings, max_mb_per_s: float = 50.0) -> Verification:
    """Prove that production is intact and that every object of the store is what was written; fail if one is not.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
        max_mb_per_s: read at most so many MB in a second; 0 is as fast as possible.
    """
    with interruptible_run():
        verification = verify_store(settings, max_mb_per_s * 1e6)
    rows = [("ok" if check.ok else "DAMAGED", check.name, check.detail) for check in verification.checks]
    show_table("verify-summary", as_table(("", "what", "detail"), rows), "What was proved")
    damaged = [f"{check.name}: {check.detail}" for check in verification.checks if not check.ok]
    if damaged:
        raise ShardCorrupt(
            f"{len(damaged)} of {len(rows)} checks found damage: {'; '.join(damaged[:N_NAMED])}. Run `vitrine repair`, "
            "then verify again"
        )
    return verification


@flow(name="vacuum", task_runner=RUNNER, validate_parameters=True)
def vacuum(settings: Settings, policy: Policy = POLICY, dry_run: bool = True, wait_minutes: float = 0.0) -> Swept:
    """Remove what no kept release needs.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
        policy: which releases to keep, and for how long to leave objects that were written recently.
        dry_run: only report what would be removed.
        wait_minutes: how long to wait for active runs to end; new runs wait meanwhile.
    """
    with interruptible_run():
        swept = vacuum_store(settings, policy, dry_run, 60 * wait_minutes)
    rows = [(name, ", ".join(value) if isinstance(value, tuple) else str(value)) for name, value in swept]
    show_table("vacuum-summary", as_table(("", ""), rows), "What was removed, or would be")
    return swept


@flow(name="watch", task_runner=RUNNER, validate_parameters=True)
def watch(
    settings: Settings, limits: Limits = LIMITS, folders: tuple[str, ...] = (), urls: tuple[str, ...] = ()
) -> tuple[HealthWarning, ...]:
    """Look for what will need attention before it stops a run, and emit an event for each; silent if there is nothing.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
        limits: from where on something is worth a warning.
        folders: more folders whose disks are watched, beside the store's own or its cache's.
        urls: https addresses whose certificates are watched; empty is the one of `VITRINE_REPORT_URL`.
    """
    shown = settings.report_url
    urls = urls or ((shown,) if shown.startswith("https://") else ())
    warnings = watch_store(settings, limits, folders, urls)
    for warning in warnings:
        get_run_logger().warning(warning.reason)
        emit_warning(warning)
    return warnings
