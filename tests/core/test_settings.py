"""Settings are read from arguments, the environment and a file, and open the store they name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings


def test_settings_prefer_argument_to_environment_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vitrine.toml"
    path.write_text('[settings]\nstore = "from-file"\nthreads = 3\ndevice = "cpu"\n')
    monkeypatch.setenv("VITRINE_STORE", "from-environment")
    monkeypatch.setenv("VITRINE_THREADS", "5")
    settings = Settings.load(path, store="from-argument")
    assert (settings.store, settings.threads, settings.device) == ("from-argument", 5, "cpu")
    assert Settings.load(path).store == "from-environment"


@pytest.mark.parametrize("empty", [{}, {"store": "", "threads": None}, {"store": None, "threads": ""}])
def test_an_empty_field_is_as_the_environment_says(empty: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_STORE", "from the environment")
    monkeypatch.setenv("VITRINE_THREADS", "3")
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", "")
    settings = Settings.model_validate(empty)
    assert (settings.store, settings.threads, settings.s3_endpoint_url) == ("from the environment", 3, "")
    assert Settings.model_validate(empty | {"threads": 0}).threads == 0, "a zero is a number"


def test_pools_are_text_in_the_environment_and_a_table_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vitrine.toml"
    path.write_text(
        '[settings]\nrunner = "pools"\n[settings.pools]\ndefault = "cpu"\nindex = "large"\nhead = "local"\n'
    )
    settings = Settings.load(path)
    assert [settings.pools.of(stage) for stage in ("embed", "index", "head")] == ["cpu", "large", None]
    assert settings.pools.names() == ["cpu", "large"]
    monkeypatch.setenv("VITRINE_POOLS", "embed=gpu, default = cpu")
    for read in (Settings.load(path), Settings(), Settings.model_validate({"pools": {}})):
        assert [read.pools.of(stage) for stage in ("embed", "index")] == ["gpu", "cpu"]
    assert len({Settings(), Settings()}) == 1, "sessions are kept by their settings"


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ("embed=gpu", "pools names no default"),
        ("embed", "expected STAGE=POOL"),
        ("embed=gpu,embed=cpu,default=cpu", "each stage once"),
        ("embed=,default=cpu", "expected STAGE=POOL"),
        ("indx=cpu,default=cpu", r"unknown config key settings\.pools\.indx; did you mean index"),
        ("", "pools names no default"),
    ],
)
def test_pools_that_leave_a_stage_without_one_are_refused(pools: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        Settings.load(runner="pools", pools=pools)


def test_a_form_has_no_defaults_to_send() -> None:
    assert not [name for name, field in Settings.model_json_schema()["properties"].items() if "default" in field]


def test_without_a_store_the_error_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_STORE", raising=False)
    with pytest.raises(BadConfig, match="--store"):
        Settings.load().open_store()


def test_a_setting_out_of_bounds_is_named() -> None:
    with pytest.raises(BadConfig, match=r"threads.*greater than or equal to 0"):
        Settings.load(threads=-1)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("VITRINE_STROE", "unknown environment variable VITRINE_STROE; did you mean VITRINE_STORE?"),
        ("vitrine_thread", "unknown environment variable vitrine_thread; did you mean VITRINE_THREADS?"),
        ("VITRINE_EMBED_BACKBONE", "expected one of VITRINE_STORE, VITRINE_S3_ENDPOINT_URL"),
        ("VITRINE_", "unknown environment variable VITRINE_;"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    for read in (Settings.load, Settings):  # a worker reads them without a file
        with pytest.raises(BadConfig, match=re.escape(says)):
            read()


def test_variables_of_deployments_and_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = ("HOME", "SOURCE", "TRIGGER_TOKEN")
    kubernetes = ("SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_7860_TCP_ADDR", "APP_SERVICE_PORT", "APP_PORT")
    for name in (*deployments, *kubernetes):
        monkeypatch.setenv(f"VITRINE_{name}", "x")
    assert Settings.load(store="s").store == "s"


def test_a_count_of_threads_wins_over_the_number_of_cores() -> None:
    assert Settings.load(threads=3).n_threads == 3
    assert Settings.load(threads=0).n_threads >= 1


def test_a_report_has_an_address_only_if_reports_are_served() -> None:
    assert Settings.load(report_url="https://host/reports/").report_link("abc") == "https://host/reports/abc"
    assert Settings.load().report_link("abc") == ""


@pytest.mark.usefixtures("aws_environment")
def test_a_store_is_opened_with_the_endpoint_and_cache_of_the_settings(
    tmp_path: Path, bucket: str, s3_endpoint: str
) -> None:
    assert Settings.load(store=str(tmp_path)).open_store().url == str(tmp_path)
    elsewhere = Settings.load(store=f"s3://{bucket}/house", cache_dir=tmp_path, s3_endpoint_url=s3_endpoint)
    assert elsewhere.open_store().url == f"s3://{bucket}/house"
    with pytest.raises(BadConfig, match="the S3 endpoint must read"):
        Settings.load(store="s3://bucket/house", s3_endpoint_url="localhost:9000").open_store()


def test_torch_is_asked_for_a_gpu_only_where_a_driver_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr("retrieval_core.settings.DEVICES", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert Settings.load().torch_device == "cpu"
    assert Settings.load(device="cuda").torch_device == "cuda"
    (tmp_path / "nvidiactl").touch()
    assert Settings.load().torch_device == "cuda"
