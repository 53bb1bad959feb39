"""Prefect automations, as code: what notifies the operator of runs that fail, do not start, or hold a release back.

Each matches the runs and events of one shop only. `python -m deployments.register` applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, cast
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.shop import shards_tag
from deployments.triggers.change_events import REFUSED, UPDATED, catalog_id
from flows.ui_artifacts import HELD, RELEASES, WARNINGS
from retrieval_core.errors import BadConfig

HEARTBEAT_S = 30  # PREFECT_FLOWS_HEARTBEAT_FREQUENCY of every deployment
SILENCE_S = 4 * HEARTBEAT_S
AGAIN_AFTER = timedelta(hours=12)  # less than a day, so that each night's is told
ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry")
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
DEPLOYMENT = "related:deployment:prefect.resource.id"
OF_RUN = "{{ deployment.name }}, run {{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}"
OF_LATE = (
    "{{ deployment.name }}, run {{ flow_run.name }}, due at {{ flow_run.expected_start_time }}\n{{ flow_run|ui_url }}"
)
OF_RELEASE = "{{ event.payload.summary }}\n{{ event.payload.report }}"
OF_EVENT = "{{ event.payload.reason }}"

Outcome = Literal["created", "changed", "unchanged"]


def automations(shop: str, block_id: UUID | None = None) -> tuple[AutomationCore, ...]:
    """Return every automation of a shop; the block notifies its operator, without it they only show in the UI."""
    tagged = {"prefect.resource.id": f"prefect.tag.{shop}"}  # the tag of every deployment of the shop

    def tell(name: str, description: str, trigger: EventTrigger, body: str) -> AutomationCore:
        action: ActionTypes = DoNothing()
        if block_id:
            text = f"{description}\n{body}".strip()
            action = SendNotification(block_document_id=block_id, subject=f"{shop}: {name}", body=text)
        return AutomationCore(name=f"{shop}: {name}", description=description, trigger=trigger, actions=[action])

    return (
        tell("failed", "A run ended with an error.", _on_each({"prefect.flow-run.Failed"}, RUN, tagged), OF_RUN),
        tell("crashed", "A run died.", _on_each({"prefect.flow-run.Crashed"}, RUN, tagged), OF_RUN),
        tell(
            "refused",
            "A run was not started, because one of the same deployment was still running, or a person cancelled it.",
            _on_each({"prefect.flow-run.Cancelled"}, RUN, tagged, DEPLOYMENT, AGAIN_AFTER),
            OF_RUN,
        ),
        tell(
            "late",
            "A run has not started in time.",
            _on_each({"prefect.flow-run.Late"}, RUN, tagged, DEPLOYMENT, AGAIN_AFTER),
            OF_LATE,
        ),
        tell(
            "held",
            "A release was held back, so production is unchanged.",
            _on_each({HELD}, {"prefect.resource.id": RELEASES}, tagged),
            OF_RELEASE,
        ),
        tell(
            "warning",
            "This needs attention before it stops a run.",
            _on_each({WARNINGS}, {"prefect.resource.id": WARNINGS}, tagged, within=timedelta(hours=23.5)),
            OF_EVENT,
        ),
        tell(
            "no worker",
            f"No worker takes the runs of the pool {shop}.",
            _on_each({"prefect.work-pool.not-ready"}, {"prefect.resource.name": shop}),
            "",
        ),
        AutomationCore(
            name=f"{shop}: zombie",
            description=f"A run without a heartbeat for {SILENCE_S} s is marked crashed, so that another can start.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDED)},
                match=RUN,
                match_related={"prefect.resource.id": [f"prefect.tag.{tag}" for tag in (shop, shards_tag(shop))]},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=SILENCE_S),
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"No heartbeat for {SILENCE_S} s.")],
        ),
        tell(
            "trigger failed",
            "An event could not start its run: its payload does not fit the deployment.",
            _on_each({"prefect.automation.action.failed"}, {"prefect.resource.name": f"{shop}: {UPDATED}"}),
            OF_EVENT,
        ),
        tell(
            "trigger refused",
            "A shop's message was refused. Prefect's event feed shows how it begins.",
            _on_each({REFUSED}, {"prefect.resource.id": catalog_id(shop)}),
            OF_EVENT,
        ),
    )


def apply(client: SyncPrefectClient, definitions: Sequence[AutomationCore]) -> dict[str, Outcome]:
    """Create the automations on the server, or change those of the same names; return what was done by name.

    What a person wired stays: an automation that notifies keeps its action where the new one has none, and one that was
    disabled stays so.
    """
    return {automation.name: _apply(client, automation) for automation in definitions}


def _apply(client: SyncPrefectClient, automation: AutomationCore) -> Outcome:
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
        return "created"
    first, *duplicates = existing
    for duplicate in duplicates:
        client.delete_automation(duplicate.id)
    automation = automation.model_copy(update={"enabled": first.enabled})
    if automation.actions == [DoNothing()]:
        automation = automation.model_copy(update={"actions": first.actions})
    if _definition(first) == _definition(automation):
        return "unchanged"
    client.update_automation(first.id, automation)
    return "changed"


def _definition(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include={"name", "description", "enabled", "trigger", "actions"})


def _on_each(
    events: set[str],
    match: dict[str, str],
    related: dict[str, str] | None = None,
    for_each: str = "prefect.resource.id",
    within: timedelta = timedelta(0),
) -> EventTrigger:
    """Return a trigger that fires at once, then not again `within` this time for the same value of `for_each`."""
    return EventTrigger(
        expect=events,
        match=match,
        match_related=related or {},
        for_each={for_each},
        posture=Posture.Reactive,
        threshold=1,
        within=within,
    )


def notification_block(client: SyncPrefectClient, shop: str, target: str) -> UUID:
    """Return the id of the block TYPE/NAME, or of the shop's block that posts JSON with a `text` to a URL.

    Raises `BadConfig` if there is no such block.
    """
    if target.startswith(("http://", "https://")):
        webhook = CustomWebhookNotificationBlock(name=shop, url=target, json_data={"text": "{{subject}}\n{{body}}"})
        return cast(UUID, webhook.save(shop, overwrite=True))
    kind, _, name = target.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound as error:
        raise BadConfig(
            f"no block {target!r}; expected the URL of a webhook, or TYPE/NAME of a notification block, made in the UI "
            "under Blocks"
        ) from error
