"""A run that cannot work fails before it reads anything, from the command line and from a schedule alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.cli.main import main
from flows.catalog_update import catalog_update
from flows.nightly import nightly
from flows.preflight import checked_ahead, preflight
from flows.train import TRAININGS, train_head
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.embed import engine
from retrieval_core.errors import BadConfig, SourceMissing, VitrineError, WeightsInvalid, WeightsUnavailable
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.images import thumbnail
from retrieval_core.settings import Settings
from retrieval_core.train.config import load_training
from tasks.preflight import check_before_comparison, check_before_run
from tasks.stage import stage

pytestmark = pytest.mark.usefixtures("prefect_server")

MISSING = "embed.weights=file:absent.safetensors"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(thumbnail(np.zeros((8, 8, 3), np.uint8), 8))
    return "folder:photos"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"))


def test_a_scheduled_nightly_fails_before_ingest_with_the_message_of_the_command_line(
    source: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsInvalid, match=r"absent\.safetensors") as scheduled:
        nightly(source, settings, NightlyConfig.load(None, [MISSING]))
    assert not list(settings.open_store().list("")), "nothing was ingested"
    capsys.readouterr()
    assert main(["run", f"--source={source}", f"--store={settings.store}", "--set", MISSING]) == 1
    assert capsys.readouterr().err == f"vitrine: {' '.join(str(scheduled.value).split())}\n"


def test_every_flow_that_uses_weights_checks_them_first(source: str, settings: Settings) -> None:
    config = NightlyConfig.load(None, [MISSING])
    training = load_training("rotation", None, ["weights=file:absent.safetensors"])
    with pytest.raises(WeightsInvalid):
        catalog_update(source, settings, config, added=("a.jpg",))
    with pytest.raises(WeightsInvalid):
        train_head(source, settings, config)
    with pytest.raises(WeightsInvalid):
        TRAININGS["rotation"](source, settings, "", training)
    assert not list(settings.open_store().list(""))


@pytest.mark.parametrize(
    ("source_name", "overrides", "error"),
    [
        ("folder:elsewhere", [], SourceMissing),
        ("folder:photos", ["embed.backbone=resnet19"], BadConfig),
        ("folder:photos", ["embed.weights=artifact:nobody"], BadConfig),
        (
            "folder:photos",
            ["embed.background=crop", "crop.detector=ssdlite320", "crop.weights=file:no"],
            WeightsInvalid,
        ),
        ("folder:photos", ["classify.enabled=true", "classify.weights=file:no"], WeightsInvalid),
        ("folder:photos", ["evaluate.golden=no.csv"], BadConfig),
    ],
    ids=lambda value: str(value),
)
def test_what_a_run_needs_is_looked_for(
    source: str, settings: Settings, source_name: str, overrides: list[str], error: type[VitrineError]
) -> None:
    config = NightlyConfig.load(None, ["embed.weights=random:0", *overrides])
    with pytest.raises(error):
        check_before_run.fn(settings, source_name, config)
    assert not list(settings.open_store().list(""))


def test_golden_queries_matter_only_to_a_run_that_is_evaluated(source: str, settings: Settings) -> None:
    config = NightlyConfig.load(None, ["embed.weights=random:0", "evaluate.golden=no.csv"])
    check_before_run.fn(settings, source, config, is_evaluated=False)


def test_precision_that_this_machine_does_not_compute_in_is_refused_before_a_run(
    source: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: False)
    config = NightlyConfig.load(None, ["embed.weights=random:0", "embed.precision=bfloat16"])
    with pytest.raises(BadConfig, match="does not compute in bfloat16"):
        check_before_run.fn(settings, source, config)
    elsewhere = settings.model_copy(update={"runner": "dask"})
    check_before_run.fn(elsewhere, source, config)
    variants = [{"name": "quick", "weights": "random:0", "precision": "bfloat16"}]
    tables = [{"title": "Speed", "metrics": ["map@5"]}]
    comparison = ComparisonConfig.model_validate({"title": "Precision", "variants": variants, "tables": tables})
    with pytest.raises(BadConfig, match="does not compute in bfloat16"):
        check_before_comparison.fn(settings, source, comparison)


def test_a_check_ahead_is_not_repeated_by_the_flow(settings: Settings) -> None:
    checked: list[str] = []

    @stage("note")
    def note(settings: Settings, name: str) -> None:
        checked.append(name)

    with checked_ahead(note, settings, "ahead"):
        preflight(note, settings, "in the flow")
    assert checked == ["ahead"]
    preflight(note, settings, "scheduled")
    assert checked == ["ahead", "scheduled"]


def test_a_scheduled_run_waits_for_a_hub_that_answers_late(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    @stage("hub")
    def hub(settings: Settings) -> None:
        calls.append("asked")
        if len(calls) < 2:
            raise WeightsUnavailable("the hub does not answer")

    preflight(hub.with_options(retry_delay_seconds=0), settings)
    assert len(calls) == 2
