"""Automations are created once, changed where they differ, and named by the notification block they use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations as automations_module
from deployments.automations import apply, automations, main


class Client:
    """Stands where Prefect's client would: keeps automations, and has the block `slack-webhook/operators`."""

    def __init__(self) -> None:
        self.existing: dict[UUID, AutomationCore] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None: ...

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


def test_every_automation_has_its_own_name() -> None:
    names = [automation.name for automation in automations()]
    assert len(set(names)) == len(names) == 10


def test_an_automation_is_created_left_or_changed_by_its_name() -> None:
    client = Client()
    (first, *_) = automations()
    assert apply(cast(Any, client), [first]) == {first.name: "created"}
    assert apply(cast(Any, client), [first]) == {first.name: "unchanged"}
    described = first.model_copy(update={"description": "Another text."})
    assert apply(cast(Any, client), [described]) == {first.name: "changed"}
    assert [automation.description for automation in client.existing.values()] == ["Another text."]


def test_registering_again_keeps_what_a_person_wired(client: Client) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--notify", "slack-webhook/operators"]) == 0
        wired = {key: automation.model_copy(update={"enabled": False}) for key, automation in client.existing.items()}
        client.existing |= wired
        assert main([]) == 0
    assert client.existing == wired


def test_the_environment_names_who_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_NOTIFY", "slack-webhook/operators")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main([]) == 0
    actions = {action.type for automation in client.existing.values() for action in automation.actions}
    assert actions == {"change-flow-run-state", "send-notification"}


def test_doubles_of_an_automation_are_deleted() -> None:
    client = Client()
    (first, *_) = automations()
    client.create_automation(first)
    client.create_automation(first)
    assert apply(cast(Any, client), [first]) == {first.name: "unchanged"}
    assert len(client.existing) == 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(automations_module, "get_client", lambda sync_client: client)
    return client


def test_the_block_that_is_named_notifies(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--notify", "slack-webhook/operators"]) == 0
    assert capsys.readouterr().out.count("created") == len(automations())
    actions = [action.type for automation in client.existing.values() for action in automation.actions]
    assert sorted(set(actions)) == ["change-flow-run-state", "send-notification"]


def test_an_unknown_block_is_one_clear_line(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--notify", "slack-webhook/nobody"]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "no block 'slack-webhook/nobody'" in error) == (1, True)
    assert client.existing == {}


def test_without_a_server_nothing_is_applied(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert main([]) == 2
    assert "set PREFECT_API_URL" in capsys.readouterr().err
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main([]) == 1
    assert "Prefect's server does not answer" in capsys.readouterr().err
