"""What the operator is told, and by whom: automations for runs and triggers that went wrong, as code.

    python -m deployments.automations --notify slack-webhook/operators

may be run again at any time: each automation is made, changed or left by its name.
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
from prefect.settings import get_current_settings

from deployments.change_events import REFUSED, RESOURCE
from deployments.cli.terminal import visible
from retrieval_core.errors import BadConfig, VitrineError

HEARTBEAT_S = 30  # PREFECT_FLOWS_HEARTBEAT_FREQUENCY of every deployment
SILENCE_S = 4 * HEARTBEAT_S
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")
RUN = {"prefect.resource.id": "prefect.flow-run.*"}

Done = Literal["created", "changed", "unchanged"]


def automations(actions: Sequence[ActionTypes] = ()) -> tuple[AutomationCore, ...]:
    """Every automation; `actions` tell the operator, and without any they are listed in the UI alone."""
    tell = list(actions) or [DoNothing()]
    return (
        AutomationCore(
            name="vitrine: failed",
            description="A run ended with an error.",
            trigger=_each({"prefect.flow-run.Failed"}, RUN),
            actions=tell,
        ),
        AutomationCore(
            name="vitrine: crashed",
            description="A run died, or was called dead for want of heartbeats.",
            trigger=_each({"prefect.flow-run.Crashed"}, RUN),
            actions=tell,
        ),
        AutomationCore(
            name="vitrine: zombie",
            description=f"A run that gave no heartbeat for {SILENCE_S} s is called crashed and frees its place.",
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
            description="An event should have started a run and could not: its payload does not fit the deployment.",
            trigger=_each({"prefect.automation.action.failed"}, {"prefect.resource.id": "prefect.automation.*"}),
            actions=tell,
        ),
        AutomationCore(
            name="vitrine: trigger refused",
            description="A notification or call that could not become an event; its reason and beginning are in it.",
            trigger=_each({REFUSED}, {"prefect.resource.id": RESOURCE["prefect.resource.id"]}),
            actions=tell,
        ),
    )


def apply(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> dict[str, Done]:
    """Make the server's automations of these names what is wanted; what was done, by name."""
    return {automation.name: _apply(client, automation) for automation in wanted}


def _apply(client: SyncPrefectClient, wanted: AutomationCore) -> Done:
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return "created"
    first, *doubles = known
    for double in doubles:
        client.delete_automation(double.id)
    if _meaning(first) == _meaning(wanted):
        return "unchanged"
    client.update_automation(first.id, wanted)
    return "changed"


def _meaning(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include={"name", "description", "enabled", "trigger", "actions"})


def _each(events: set[str], match: dict[str, str]) -> EventTrigger:
    return EventTrigger(
        expect=events,
        match=match,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _notify(client: SyncPrefectClient, block: str) -> SendNotification:
    """Raises `BadConfig` where there is no such notification block."""
    kind, _, name = block.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise BadConfig(
            f"no block {block!r}; expected TYPE/NAME of a notification block, made in the UI under Blocks"
        ) from error
    return SendNotification(
        block_document_id=found.id,
        subject="Vitrine: {{ automation.name }}",
        body="{{ automation.description }}\n{{ event.event }} {{ event.resource.id }}\n{{ event.payload }}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Apply every automation; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.automations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--notify", metavar="TYPE/NAME", help="the notification block that is told, e.g. slack-webhook/operators"
    )
    arguments = parser.parse_args(argv)
    try:
        if not get_current_settings().api.url:
            raise BadConfig("no Prefect server named: set PREFECT_API_URL, for example http://127.0.0.1:4200/api")
        with get_client(sync_client=True) as client:
            actions = [_notify(client, arguments.notify)] if arguments.notify else []
            for name, done in apply(client, automations(actions)).items():
                print(f"{done:<10} {name}")
    except httpx.TransportError as error:
        print(
            f"vitrine: Prefect's server does not answer ({visible(str(error))}); start it, then try again",
            file=sys.stderr,
        )
        return 1
    except VitrineError as error:
        print(f"vitrine: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
