"""Automations are created once, changed where they differ, and named by the notification block they use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.events.schemas.events import RelatedResource
from prefect.exceptions import ObjectNotFound

from deployments.automations import apply, automations, notification_block
from retrieval_core.errors import BadConfig


class Client:
    """Stands where Prefect's client would: keeps automations, and has the block `slack-webhook/operators`."""

    def __init__(self) -> None:
        self.existing: dict[UUID, AutomationCore] = {}

    def read_automations_by_name(self, name: str) -> list[Automation]:
        return [
            Automation(id=key, **automation.model_dump())
            for key, automation in self.existing.items()
            if automation.name == name
        ]

    def create_automation(self, automation: AutomationCore) -> None:
        self.existing[uuid4()] = automation

    def update_automation(self, key: UUID, automation: AutomationCore) -> None:
        self.existing[key] = automation

    def delete_automation(self, key: UUID) -> None:
        del self.existing[key]

    def read_block_document_by_name(self, name: str, kind: str) -> Any:
        if (kind, name) != ("slack-webhook", "operators"):
            raise ObjectNotFound(Exception())
        return SimpleNamespace(id=uuid4())


def test_every_automation_has_its_own_name_with_the_shop_s() -> None:
    names = [automation.name for automation in automations("acme")]
    assert len(set(names)) == len(names) == 10
    assert all(name.startswith("acme: ") for name in names)


def test_a_lost_machine_ends_the_runs_of_its_pool_and_nobody_is_told_of_them() -> None:
    run = {"prefect.resource.id": "prefect.tag.acme-shards", "prefect.resource.role": "tag"}
    related = RelatedResource.model_validate(run)
    covering = [
        automation.name
        for automation in automations("acme")
        if automation.trigger.match_related and cast(Any, automation.trigger).match_related.matches(related)
    ]
    assert covering == ["acme: zombie"]


def test_an_automation_is_created_left_or_changed_by_its_name() -> None:
    client = Client()
    (first, *_) = automations("vitrine")
    assert apply(cast(Any, client), [first]) == {first.name: "created"}
    assert apply(cast(Any, client), [first]) == {first.name: "unchanged"}
    described = first.model_copy(update={"description": "Another text."})
    assert apply(cast(Any, client), [described]) == {first.name: "changed"}
    assert [automation.description for automation in client.existing.values()] == ["Another text."]


def test_applying_again_keeps_what_a_person_wired() -> None:
    client = Client()
    apply(cast(Any, client), automations("vitrine", uuid4()))
    wired = {key: automation.model_copy(update={"enabled": False}) for key, automation in client.existing.items()}
    client.existing |= wired
    apply(cast(Any, client), automations("vitrine"))
    assert client.existing == wired


def test_doubles_of_an_automation_are_deleted() -> None:
    client = Client()
    (first, *_) = automations("vitrine")
    client.create_automation(first)
    client.create_automation(first)
    assert apply(cast(Any, client), [first]) == {first.name: "unchanged"}
    assert len(client.existing) == 1


def test_the_block_that_is_named_notifies() -> None:
    block_id = notification_block(cast(Any, Client()), "vitrine", "slack-webhook/operators")
    actions = {action.type for automation in automations("vitrine", block_id) for action in automation.actions}
    assert actions == {"change-flow-run-state", "send-notification"}
    with pytest.raises(BadConfig, match="no block 'slack-webhook/nobody'"):
        notification_block(cast(Any, Client()), "vitrine", "slack-webhook/nobody")
