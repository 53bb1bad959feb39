"""What people and schedules do to a store between runs: promote, roll back, verify, judge feedback, watch, vacuum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.run import RUNNER, holds_lease, interruptible_run
from flows.summary import as_table
from flows.ui_artifacts import emit_warning, show_table
from retrieval_core.errors import BadConfig, ShardCorrupt
from retrieval_core.feedback.grades import Evidence
from retrieval_core.feedback.judgements import JudgedFeedback
from retrieval_core.maintenance.health import HealthWarning, Limits
from retrieval_core.maintenance.vacuum import Policy
from retrieval_core.maintenance.verify import Verification
from retrieval_core.settings import Settings
from tasks.maintenance import (
    Swept,
    judge_store_feedback,
    promote_release,
    roll_back_release,
    vacuum_store,
    verify_store,
    watch_store,
)

LIMITS = Limits()
POLICY = Policy()
EVIDENCE = Evidence()
SCHEDULED_TAG = "auto-scheduled"
UNTOLD_S = (1_200.0, 43_200.0)  # ago: Prefect may take 15 minutes after a restart; each is found once in 12 hours
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


@flow(name="feedback", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def feedback(settings: Settings, evidence: Evidence = EVIDENCE) -> JudgedFeedback:
    """Turn what shoppers chose into golden queries with grades, which judge the releases of the next runs.

    Args:
        settings: where the store is; an empty field is as the worker's environment says.
        evidence: how much feedback a judgement needs.
    """
    judged = judge_store_feedback(settings, evidence)
    rows = [(name, str(value)) for name, value in judged]
    show_table("feedback-summary", as_table(("", ""), rows), "What shoppers chose, and what it gave")
    return judged


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
    if flow_run.id:
        with get_client(sync_client=True) as client:
            warnings += tuple(find_untold_runs(client, flow_run.tags, datetime.now(UTC)))
    for warning in warnings:
        get_run_logger().warning(warning.reason)
        emit_warning(warning)
    return warnings


def find_untold_runs(client: SyncPrefectClient, tags: Sequence[str], now: datetime) -> Iterator[HealthWarning]:
    """Yield a warning for each run with these tags that failed or crashed without setting an automation off.

    The tag that Prefect gives to scheduled runs does not count.
    Prefect's server keeps events in memory until its automations have seen them, so a restart loses the last ones.
    """
    end_time = FlowRunFilterEndTime(
        after_=now - timedelta(seconds=UNTOLD_S[1]), before_=now - timedelta(seconds=UNTOLD_S[0])
    )
    has_failed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED]))
    ended = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag for tag in tags if tag != SCHEDULED_TAG]), state=has_failed, end_time=end_time
    )
    for run in client.read_flow_runs(flow_run_filter=ended):
        if run.state is None:
            continue
        actions = {"related": {"id": [f"prefect.event.{run.state.id}"]}}  # a state and its event have the same id
        if not client.request("POST", "/events/filter", json={"filter": actions, "limit": 1}).json()["events"]:
            reason = (
                f"Run {run.name} has {run.state.type.value.lower()}, and its notification was lost: {run.state.message}"
            )
            yield HealthWarning(kind="run", subject=str(run.id), reason=reason)
