"""Remove from the store what no kept release needs."""

from __future__ import annotations

from prefect import flow

from flows.run import RUNNER
from flows.summary import as_table
from flows.ui_artifacts import show_table
from retrieval_core.maintenance.vacuum import Policy
from retrieval_core.settings import Settings
from tasks.vacuum import Swept, vacuum_store

POLICY = Policy()


@flow(name="vacuum", task_runner=RUNNER, validate_parameters=True)
def vacuum(settings: Settings, policy: Policy = POLICY, dry_run: bool = True, wait_minutes: float = 0.0) -> Swept:
    """Remove what no kept release needs.

    Args:
        settings: where the store is.
        policy: which releases to keep, and for how long to leave objects that were written recently.
        dry_run: only report what would be removed.
        wait_minutes: how long to wait for active runs to end; new runs wait meanwhile.
    """
    swept = vacuum_store(settings, policy, dry_run, 60 * wait_minutes)
    rows = [(name, ", ".join(value) if isinstance(value, tuple) else str(value)) for name, value in swept]
    show_table("vacuum-summary", as_table(("", ""), rows), "What was removed, or would be")
    return swept
