"""What the work pools of a shop are made of: the type of their workers, and jobs in which a run chooses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists

from retrieval_core.errors import BadConfig


class PoolKind(NamedTuple):
    """What a pool makes of a run: the type of its workers, and the template of their jobs."""

    type: str
    template: dict[str, Any]


PROCESSES = PoolKind("process", json.loads(Path(__file__).with_name("work_pool.json").read_text()))


def pool_kind(pool: str, templates: Path | None) -> PoolKind:
    """Return what the file `POOL.TYPE.json` of a folder of templates says, processes where there is none.

    Raises `BadConfig` for a template that lets a run choose its command or anything else.
    """
    found = sorted(templates.glob(f"{pool}.*.json")) if templates else []
    if not found:
        return PROCESSES
    try:
        template = json.loads(found[0].read_text())
        is_closed = not template["variables"].get("properties") and not template["variables"]["additionalProperties"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadConfig(f"{found[0]} is no template of jobs: {error!r}; see deployments/work_pool.json") from error
    if not is_closed:
        raise BadConfig(
            f"{found[0]} has variables, with which a run could choose its command or environment; expected none, as in "
            'deployments/work_pool.json: "additionalProperties": false, "properties": {}'
        )
    return PoolKind(found[0].name.split(".")[-2], template)


def register_pool(client: SyncPrefectClient, name: str, kind: PoolKind) -> None:
    """Create a pool or change its template. Raises `BadConfig` where there is one of another type."""
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind.type, base_job_template=kind.template))
    except ObjectAlreadyExists:  # of an earlier registration, or a worker that just started made it
        if (existing := client.read_work_pool(name).type) != kind.type:
            raise BadConfig(
                f"the work pool {name} is of type {existing}, expected {kind.type}: put its template into the folder "
                f"of --pool-templates as {name}.{existing}.json, or delete it: prefect work-pool delete {name}"
            ) from None
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=kind.template))
