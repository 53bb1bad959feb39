"""What no kept release needs, removed."""

from __future__ import annotations

import time

from prefect.logging import get_run_logger

from retrieval_core.artifacts.manifests import Value
from retrieval_core.maintenance.vacuum import Policy, Vacuumed, plan_vacuum, vacuum
from retrieval_core.settings import Settings
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
