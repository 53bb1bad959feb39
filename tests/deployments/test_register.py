"""What is registered for a shop follows from prefect.yaml, the environment and the shop's config file."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import register as register_module
from deployments.register import define, main, register, schedule_text
from retrieval_core.errors import BadConfig


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOP", "CONFIG", "SCHEDULE", "TIMEZONE", "NOTIFY", "POOLS"):
        monkeypatch.delenv(f"VITRINE_{name}", raising=False)
    monkeypatch.setenv("VITRINE_SOURCE", "folder:photos")


def defined(shop: str = "vitrine") -> dict[str, dict[str, Any]]:
    return {definition["name"]: definition for definition in define(shop)}


def test_the_default_shop_is_registered_as_prefect_yaml_says() -> None:
    definitions = defined()
    assert definitions["nightly"]["tags"] == ["vitrine"]
    assert definitions["train-head"]["tags"] == ["vitrine", "training"]
    assert definitions["nightly"]["parameters"]["source"] == "folder:photos"
    assert definitions["nightly"]["parameters"]["config"]["embed"]["weights"] == "pretrained"
    assert definitions["nightly"]["description"].endswith("got worse. Runs every day at 01:30, Europe/Berlin.")
    assert "Runs every Sunday at 12:00" in definitions["vacuum"]["description"]


def test_another_shop_s_deployments_have_its_name() -> None:
    definitions = defined("acme")
    assert all(name.startswith("acme-") for name in definitions)
    assert definitions["acme-train-head"]["tags"] == ["acme", "training"]


def test_a_config_file_says_what_every_run_and_training_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'source = "table:items.csv"\n[columns]\nitem_id = "sku"\n[embed]\nsize_px = 96\n'
        "[train.distill]\nmax_epochs = 2\n"
    )
    monkeypatch.setenv("VITRINE_CONFIG", str(path))
    monkeypatch.setenv("VITRINE_SOURCE", "")
    definitions = {name: definition["parameters"] for name, definition in defined().items()}
    for name in ("nightly", "catalog-update", "backfill"):
        assert definitions[name]["config"] == {"embed": {"size_px": 96}}
        assert definitions[name]["source"] == "table:items.csv?item_id=sku"
    assert definitions["train-distill"]["config"] == {"teacher": "production", "max_epochs": 2}
    assert definitions["train-distill"]["stages"] == {"embed": {"size_px": 96}}
    assert "stages" not in definitions["vacuum"]
    assert definitions["compare"]["config"]["title"] == "Raw and masked pictures"


def test_a_table_of_a_deployment_sets_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[deployments.watch]\nfolders = ["/var"]\n[deployments.watch.limits]\nrelease_hours = 48\n')
    monkeypatch.setenv("VITRINE_CONFIG", str(path))
    parameters = defined("acme")["acme-watch"]["parameters"]
    assert (parameters["folders"], parameters["limits"]) == (["/var"], {"release_hours": 48})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[deployments.wach]\nurls = []", "no deployment wach; did you mean watch"),
        ("[deployments.watch]\nurl = []", r"\[deployments.watch\].*url"),
        ("[deployments.watch.limits]\ndisk_percent = 101", r"\[deployments.watch\].*disk_percent"),
        ("[deployments]\nwatch = 3", "deployments.watch"),
        ('[settings]\nstore = "elsewhere"', "set VITRINE_"),
        ("[embed]\nsize = 3", "unknown config key embed.size"),
        ("[train.rotation]\nepochs = 3", "train.rotation.epochs"),
        ("[[", "cannot read config"),
    ],
)
def test_a_wrong_config_file_is_refused(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    monkeypatch.setenv("VITRINE_CONFIG", str(path))
    with pytest.raises(BadConfig, match=says):
        define("vitrine")


@pytest.mark.parametrize("name", ["SCHEDULE", "TIMEZONE"])
def test_a_wrong_time_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"VITRINE_{name}", "at night")
    with pytest.raises(BadConfig, match=f"VITRINE_{name}"):
        define("vitrine")


def test_without_a_source_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_SOURCE")
    with pytest.raises(BadConfig, match="VITRINE_SOURCE"):
        define("vitrine")


@pytest.mark.parametrize(
    ("cron", "text"),
    [
        ("5 0 * * *", "Runs every day at 00:05, UTC."),
        ("30 13 * * 7", "Runs every Sunday at 13:30, UTC."),
        ("20 * * * *", "Runs every hour at 20 minutes past, UTC."),
        ("*/5 * * * *", "Runs by the cron schedule */5 * * * *, UTC."),
        ("0 4 1 * *", "Runs by the cron schedule 0 4 1 * *, UTC."),
    ],
)
def test_a_schedule_is_said_in_words(cron: str, text: str) -> None:
    assert schedule_text(CronSchedule(cron=cron, timezone="UTC")) == text


def test_no_flow_waits_for_shards_in_its_own_pool(api_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_POOLS", "embed=gpu,default=vitrine")
    with (
        temporary_settings({PREFECT_API_URL: api_url}),
        get_client(sync_client=True) as client,
        pytest.raises(BadConfig, match="VITRINE_POOLS names vitrine"),
    ):
        list(register(client, "vitrine"))


def test_each_pool_has_the_flow_that_makes_shards_until_it_is_named_no_more(
    api_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"job_configuration": {"job_manifest": {}}, "variables": {"additionalProperties": False, "properties": {}}}
    (tmp_path / "pictures.kubernetes.json").write_text(json.dumps(job))
    monkeypatch.setenv("VITRINE_SHOP", "pooled")
    monkeypatch.setattr(
        register_module, "define", lambda shop: []
    )  # the shop's own deployments take a server's seconds
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        for pools in ("embed=pictures,default=rest", "default=rest"):
            monkeypatch.setenv("VITRINE_POOLS", pools)
            assert main(["--pool-templates", str(tmp_path)]) == 0
            printed = capsys.readouterr().out
            deployment = client.read_deployment_by_name("make-shards/rest")
            assert (deployment.tags, deployment.work_pool_name) == (["pooled-shards"], "rest")
            types = [client.read_work_pool(name).type for name in ("pictures", "rest")]
            assert types == ["kubernetes", "process"]
            assert client.read_work_pool("pictures").base_job_template == job
        assert "removed    pictures" in printed
        with pytest.raises(ObjectNotFound):
            client.read_deployment_by_name("make-shards/pictures")
        monkeypatch.setenv("VITRINE_POOLS", "default=pictures")
        assert main([]) == 2
    assert "pictures is of type kubernetes, expected process" in capsys.readouterr().err


def test_without_a_server_nothing_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert main([]) == 2
    assert "set PREFECT_API_URL" in capsys.readouterr().err
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--wait", "0"]) == 1
    assert "Prefect's server does not answer" in capsys.readouterr().err


def test_a_server_that_refuses_the_login_is_one_line(api_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING

    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: "wrong:login"}):
        assert main([]) == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), "Prefect's server refuses" in error, "401" in error) == (1, True, True)


def test_a_server_that_is_starting_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 403)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing, bind_and_activate=False)
    server.server_bind()  # the connection is refused until it listens
    start = threading.Timer(0.3, server.server_activate)
    answers = threading.Thread(target=lambda: (start.join(), server.serve_forever()))
    start.start()
    answers.start()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
        assert main([]) == 1
    server.shutdown()
    answers.join()
    server.server_close()
    assert "Prefect's server refuses" in capsys.readouterr().err, "after it answered"
