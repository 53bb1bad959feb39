"""The deployments fit the flows, and a real server takes them: clock, event, and what is told when they go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from playwright.sync_api import Page, sync_playwright
from prefect.client.orchestration import get_client
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed, Scheduled
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate

from deployments.automations import HEARTBEAT_S, automations
from deployments.triggers.change_events import UPDATED, catalog_id, refused_event
from retrieval_core.artifacts.releases import read_alias
from retrieval_core.ingest.change import Change
from retrieval_core.settings import Settings
from retrieval_core.store.uris import open_store
from tests.deployments.registered import FILE, POOL_FILE, Server, Sink, flow_of, listening, updated_event, wait_for
from tests.faults.servers import LOGIN

POOL = json.loads(POOL_FILE.read_text())
# What a browser sent for each form, submitted as it opened.
PAYLOADS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "prefect_yaml_payloads.json").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {one["name"]: one for one in yaml.safe_load(FILE.read_text())["deployments"]}
CHROMIUM = shutil.which("chromium")
# A config whose run takes a second; a person would register it in prefect.yaml.
SMALL = {
    "embed": {"backbone": "pca_pixels", "weights": "fit:0", "size_px": 16, "background": "raw"},
    "mask": {"enabled": False},
    "head": {"enabled": False},
    "reduce": {"dims": [8]},
    "index": {"shards": 1},
    "evaluate": {"queries": 6, "synthetic_queries": 0},
}


@pytest.fixture(params=DEPLOYMENTS.values(), ids=list(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_every_deployment_fits_its_flow(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_STORE", "/somewhere")
    flow = flow_of(deployment)
    assert flow.name == deployment["name"]
    parameters = flow.validate_parameters(deployment["parameters"])
    assert parameters["settings"].store == "/somewhere", "the worker's environment says where"
    required = set(flow.parameters.required)
    assert required <= set(deployment["parameters"]) <= set(flow.parameters.properties)


def test_a_form_submitted_as_it_opens_means_what_the_deployment_and_the_environment_say(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STORE": "s3://shop/store", "S3_ENDPOINT_URL": "http://s3", "THREADS": "3"}.items():
        monkeypatch.setenv(f"VITRINE_{name}", value)
    monkeypatch.setenv("VITRINE_REPORT_URL", "https://shop/reports")
    monkeypatch.setenv("VITRINE_DEVICE", "cpu")
    flow = flow_of(deployment)
    submitted = flow.validate_parameters(hydrate(PAYLOADS[deployment["name"]], HydrationContext()))
    source = {"source": "table:items.csv"} if "source" in deployment["parameters"] else {}
    planned = flow.validate_parameters(deployment["parameters"] | source)
    assert {name: submitted[name] for name in planned} == planned
    assert submitted["settings"] == Settings()
    assert Settings().threads == 3


def test_every_deployment_runs_in_the_pool_with_heartbeats(deployment: dict[str, Any]) -> None:
    pool = deployment["work_pool"]
    assert pool["name"] == "vitrine"
    assert "job_variables" not in pool, "the pool's template has none"
    assert POOL["job_configuration"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["description"]


def test_the_event_fits_the_flow_it_starts() -> None:
    deployment = DEPLOYMENTS["catalog-update"]
    trigger = DeploymentEventTrigger(**deployment["triggers"][0])
    assert trigger.expect == {UPDATED}
    assert trigger.match.model_dump() == {"prefect.resource.id": catalog_id("vitrine")}
    assert trigger.parameters is not None
    assert set(trigger.parameters) == set(Change.model_fields) < set(flow_of(deployment).parameters.properties)


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with listening() as sink:
        yield sink


@pytest.fixture(scope="module")
def server(api_url: str, sink: Sink) -> Server:
    return Server(api_url, "--notify", sink.url)


def test_a_server_takes_every_deployment_and_schedules_the_night(server: Server) -> None:
    pool = {"name": {"any_": ["vitrine"]}}
    registered = {one["name"]: one for one in server.ask("/deployments/filter", work_pools=pool)}
    assert set(registered) == set(DEPLOYMENTS)
    for name, one in registered.items():
        assert one["parameters"].get("source", "table:items.csv") == "table:items.csv"
        assert one["parameter_openapi_schema"]["properties"], name
    assert registered["nightly"]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    planned = wait_for(lambda: server.runs("nightly"))
    assert planned[0]["state_type"] == "SCHEDULED"
    assert planned[0]["work_pool_name"] == "vitrine"


@pytest.mark.parametrize(
    "job_variables", [{"command": "touch /tmp/attacked"}, {"env": {"LD_PRELOAD": "a"}}, {"env.LD_PRELOAD": "a"}]
)
def test_no_run_may_set_how_its_process_starts(job_variables: dict[str, Any], server: Server) -> None:
    deployment = server.deployment("vacuum")
    with pytest.raises(httpx.HTTPStatusError, match=r"409|422"):
        server.ask(f"/deployments/{deployment['id']}/create_flow_run", job_variables=job_variables)


def test_an_event_starts_an_update_of_what_it_names(server: Server) -> None:
    change = Change(added=("a", 'b "quoted"', "ü/{{ x }}"), removed=("c",))
    server.emit(updated_event(change))
    (run,) = wait_for(lambda: server.runs("catalog-update"))
    named = {name: run["parameters"][name] for name in Change.model_fields}
    assert named == change.model_dump(mode="json")
    assert run["parameters"]["source"] == "table:items.csv"


@pytest.fixture(scope="module")
def texts(server: Server, sink: Sink) -> list[str]:
    """What the operator of the default shop is told."""
    return sink.texts


@pytest.fixture(scope="module")
def texts_of_acme(server: Server) -> Iterator[list[str]]:
    """What the operator of another shop on the same server is told."""
    with listening() as sink:
        server.register("--notify", sink.url, VITRINE_SHOP="acme")
        yield sink.texts


def test_two_shops_of_a_server_hear_of_their_own_runs_only(
    server: Server, texts: list[str], texts_of_acme: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_updates = len(server.runs("catalog-update"))
    monkeypatch.setenv("VITRINE_SHOP", "acme")
    server.emit(updated_event(Change(added=("of acme",)), "acme"), refused_event("no JSON", b"of acme", "127.0.0.1"))
    for deployment, message in (("acme-vacuum", "the disk of acme is full"), ("vacuum", "the first disk is full")):
        server.create(deployment, Scheduled(), Failed(message=message))
    (run,) = wait_for(lambda: server.runs("acme-catalog-update"))
    assert run["parameters"]["added"] == ["of acme"]
    assert len(server.runs("catalog-update")) == n_updates
    wait_for(lambda: [text for text in texts if "the first disk" in text])
    wait_for(lambda: len(texts_of_acme) >= 2)
    assert [text for text in texts if "acme" in text] == []
    assert sorted(text.partition("\n")[0] for text in texts_of_acme) == ["acme: failed", "acme: trigger refused"]


def test_registering_again_changes_what_the_files_say_and_keeps_what_a_person_changed(
    server: Server, texts_of_acme: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly, vacuum = (server.deployment(f"acme-{name}") for name in ("nightly", "vacuum"))
    copied = {key: nightly[key] for key in ("flow_id", "tags", "entrypoint", "work_pool_name")}
    (late,) = server.ask("/automations/filter", automations={"name": {"any_": ["acme: late"]}})
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        (schedule,) = vacuum["schedules"]
        client.request("PATCH", f"/deployments/{vacuum['id']}/schedules/{schedule['id']}", json={"active": False})
        surplus = [{"schedule": schedule["schedule"], "active": True, "slug": "of another version"}]
        client.request("POST", f"/deployments/{nightly['id']}/schedules", json=surplus)
        client.request("PATCH", f"/automations/{late['id']}", json={"enabled": False})
        client.request("POST", f"/deployments/{server.deployment('acme-verify')['id']}/pause_deployment")
        client.request("POST", "/deployments/", json=copied | {"name": "a copy"})
        client.request(
            "POST", "/deployments/", json=copied | {"name": "former", "entrypoint": "flows/former.py:former"}
        )
    config = tmp_path / "config.toml"
    config.write_text("[index]\nshards = 2\n[train.rotation]\nmax_epochs = 3\n")
    times = {"VITRINE_SCHEDULE": "15 3 * * *", "VITRINE_TIMEZONE": "America/New_York"}
    server.register(VITRINE_SHOP="acme", VITRINE_CONFIG=str(config), **times)

    printed = capsys.readouterr().out.split("\n")
    assert sum(line.startswith("unchanged") for line in printed) == len(automations("acme")) + 1, "and catalog.updated"
    assert [line for line in printed if line.startswith("removed")] == ["removed    former"]
    assert server.deployment("a copy")
    vacuum, nightly = server.deployment("acme-vacuum"), server.deployment("acme-nightly")
    assert [schedule["active"] for schedule in vacuum["schedules"]] == [False]
    assert server.deployment("acme-verify")["paused"]
    assert nightly["description"].endswith(" Runs every day at 03:15, America/New_York.")
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["slug"]) == (
        "15 3 * * *",
        "Runs every day at 03:15, America/New_York.",
    )
    assert nightly["parameters"]["config"] == {"index": {"shards": 2}}
    assert server.deployment("acme-train-rotation")["parameters"]["config"] == {"max_epochs": 3}
    assert server.deployment("nightly")["parameters"]["config"] != nightly["parameters"]["config"]
    (late,) = server.ask("/automations/filter", automations={"name": {"any_": ["acme: late"]}})
    assert (late["enabled"], late["actions"][0]["type"]) == (False, "send-notification")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A browser that has logged in."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.add_init_script(f"localStorage.setItem('prefect-password', btoa('{LOGIN}'))")
        yield page


def submit(page: Page, form: str, fields: dict[str, str]) -> dict[str, Any]:
    """Open a form, change fields by their labels, submit it, and return the run that the server has then."""
    page.goto(form)
    button = page.get_by_role("button", name="Submit").last
    button.wait_for()
    page.get_by_text("Max Reject Fraction").first.wait_for()
    for label, value in fields.items():
        page.locator(f"//label[starts-with(., '{label}')]/following::*[self::input or self::textarea][1]").fill(value)
    with page.expect_response("**/create_flow_run") as response:
        button.click()
    assert response.value.status == 201, response.value.text()
    return dict(response.value.json())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; on Debian: make debian")
@pytest.mark.parametrize("ui", ["", "/v2"])
def test_a_form_that_a_person_submits_runs_to_its_end(
    ui: str, server: Server, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITRINE_THREADS", "1")
    monkeypatch.setenv("VITRINE_DEVICE", "cpu")
    source = f"synthetic:{tmp_path / 'pictures'}?products=8&views=2&size_px=64"
    changed = {} if ui else {"Max Reject Fraction": "0.25"}
    for name in ("nightly", "catalog-update", "backfill"):
        deployment = server.change(name, {"source": source, "config": SMALL})
        form = f"{server.url.removesuffix('/api')}{ui}/deployments/deployment/{deployment}/run"
        for fields in ({}, changed) if changed else ({},):
            run = submit(page, form, fields)
            assert run["parameters"]["config"]["ingest"]["max_reject_fraction"] == (0.25 if fields else 0.05)
            assert server.execute(UUID(run["id"]), flow_of(DEPLOYMENTS[name])).is_completed(), (name, fields)
    alias = read_alias(open_store(str(tmp_path / "store")), "production")
    assert alias is not None, "where the environment says"
