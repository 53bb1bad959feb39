"""Prefect automations, as code: what notifies the operator when a run or a trigger fails.

    python -m deployments.automations --notify slack-webhook/operators

can be repeated at any time: an automation is found by its name, and created or changed where needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.change_events import REFUSED, RESOURCE
from deployments.cli.prefect_server import check_server_is_named
from deployments.cli.terminal import print_error, visible
from deployments.environment import prepare_environment
from retrieval_core.errors import BadConfig, VitrineError

HEARTBEAT_S = 30  # PREFECT_FLOWS_HEARTBEAT_FREQUENCY of every deployment
SILENCE_S = 4 * HEARTBEAT_S
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")
RUN = {"prefect.resource.id": "prefect.flow-run.*"}

Outcome = Literal["created", "changed", "unchanged"]


def automations(actions: Sequence[ActionTypes] = ()) -> tuple[AutomationCore, ...]:
    """Return every automation; `actions` notify the operator, without any an automation only shows in the UI."""
    notify = list(actions) or [DoNothing()]
    return (
        AutomationCore(
            name="vitrine: failed",
            description="A run ended with an error.",
            trigger=_on_each({"prefect.flow-run.Failed"}, RUN),
            actions=notify,
        ),
        AutomationCore(
            name="vitrine: crashed",
            description="A run died, or sent no heartbeats and was marked crashed.",
            trigger=_on_each({"prefect.flow-run.Crashed"}, RUN),
            actions=notify,
        ),
        AutomationCore(
            name="vitrine: zombie",
            description=f"A run without a heartbeat for {SILENCE_S} s is marked crashed, so that another can start.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDED)},
                match=RUN,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=SILENCE_S),
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"No heartbeat for {SILENCE_S} s.")],
        ),
        AutomationCore(
            name="vitrine: trigger failed",
            description="An event could not start its run: its payload does not fit the deployment.",
            trigger=_on_each({"prefect.automation.action.failed"}, {"prefect.resource.id": "prefect.automation.*"}),
            actions=notify,
        ),
        AutomationCore(
            name="vitrine: trigger refused",
            description="A message could not become an event; the payload has the reason and how the message begins.",
            trigger=_on_each({REFUSED}, {"prefect.resource.id": RESOURCE["prefect.resource.id"]}),
            actions=notify,
        ),
    )


def apply(client: SyncPrefectClient, definitions: Sequence[AutomationCore]) -> dict[str, Outcome]:
    """Create the automations on the server, or change those of the same names; return what was done by name."""
    return {automation.name: _apply(client, automation) for automation in definitions}


def _apply(client: SyncPrefectClient, automation: AutomationCore) -> Outcome:
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
        return "created"
    first, *duplicates = existing
    for duplicate in duplicates:
        client.delete_automation(duplicate.id)
    if _definition(first) == _definition(automation):
        return "unchanged"
    client.update_automation(first.id, automation)
    return "changed"


def _definition(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include={"name", "description", "enabled", "trigger", "actions"})


def _on_each(events: set[str], match: dict[str, str]) -> EventTrigger:
    return EventTrigger(
        expect=events,
        match=match,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _notification(client: SyncPrefectClient, block: str) -> SendNotification:
    """Return the action that notifies through the block TYPE/NAME. Raises `BadConfig` if there is no such block."""
    kind, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise BadConfig(
            f"no block {block!r}; expected TYPE/NAME of a notification block, made in the UI under Blocks"
        ) from error
    return SendNotification(
        block_document_id=document.id,
        subject="Vitrine: {{ automation.name }}",
        body="{{ automation.description }}\n{{ event.event }} {{ event.resource.id }}\n{{ event.payload }}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Apply every automation and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.automations", description=(__doc__ or "").splitlines()[0]
    )
    text = "the block that sends notifications, for example slack-webhook/operators"
    parser.add_argument("--notify", metavar="TYPE/NAME", help=text)
    arguments = parser.parse_args(argv)
    prepare_environment()
    try:
        check_server_is_named()
        with get_client(sync_client=True) as client:
            actions = [_notification(client, arguments.notify)] if arguments.notify else []
            for name, outcome in apply(client, automations(actions)).items():
                print(f"{outcome:<10} {name}")
    except httpx.TransportError as error:
        print(
            f"vitrine: Prefect's server does not answer ({visible(str(error))}); start it, then try again",
            file=sys.stderr,
        )
        return 1
    except VitrineError as error:
        return print_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
