"""What a run shows in Prefect's UI: names, progress, tables and links."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.logging import disable_run_logger

from flows import ui_artifacts
from flows.run import RUNNER, Clock
from flows.shards.engines import each_shard
from flows.summary import CatalogSummary, RunSummary, as_table, slug
from flows.ui_artifacts import Progress, show_run
from retrieval_core.artifacts.shards import Target, WorkPlan, WorkShard
from retrieval_core.errors import Transient
from retrieval_core.evaluate.report.sentences import Answer, FirstScreen
from retrieval_core.settings import Settings
from tasks.stage import stage

PLAN = WorkPlan(targets=(Target(folder="vectors", family="f"),), key="k", shards=(("a",), ("b",), ("c",)), n_missing=40)
RUN = RunSummary(
    release="0" * 32,
    gate="held",
    reason="Held: recall@1 fell | <b>badly</b>\nindeed.",
    screen=FirstScreen(
        tone="held",
        title="Held back: search got worse",
        answers=(Answer(question="Was it published?", text="No. Shoppers still search another one.", about="verdict"),),
    ),
    catalog=CatalogSummary(rows=12_000, added=3, changed=2, removed=1, unchanged=11_995, quarantined=0),
    masked=0,
    embedded=5,
    classified=0,
    trained=[],
    seconds={"ingest": 1.25, "total": 62.04},
    metrics={"recall@1": 0.5, "label_iou@5_std": 0.1, "raw/recall@1": 0.4, "mask_iou": 0.9},
    production={"recall@1": 0.625},
    report="/store/reports/f/report.html",
    link="https://shop/reports/f/report.html",
)


@stage("wear shard")
def wear_shard(settings: Settings, shard: WorkShard, view: str) -> int:
    return shard.number


@flow(task_runner=RUNNER)
def wear() -> object:
    with Clock().stage("wear"):
        each_shard(wear_shard, Settings(store="s"), PLAN, "masked")
    show_run("wear", RUN, "What was worn")
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return context.flow_run.id


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_names_its_shards_and_shows_its_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "prefect")
    run = wear()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    by_key = {artifact.key: artifact for artifact in found}
    assert set(by_key) == {"progress-wear-masked", "wear-summary", "wear-report"}
    assert by_key["progress-wear-masked"].data == 100
    assert RUN.link in str(by_key["wear-report"].data)
    names = re.findall(r"Renamed task run '[^']+' to '([^']+)'", caplog.text)
    assert names == ["wear masked 1/3", "wear masked 2/3", "wear masked 3/3"]


def test_automations_learn_how_a_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(ui_artifacts, "emit_event", lambda event, **facts: events.append((event, facts["payload"])))
    wear()
    ((event, payload),) = events
    assert event == ui_artifacts.HELD
    summary = "\n".join(RUN.screen.as_lines())
    assert payload == {"reason": RUN.reason, "causes": [], "report": RUN.link, "summary": summary}


class Ui:
    """Artifacts as Prefect's UI would be told of them, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.made, self.told = 0.0, list[str](), list[float]()
        monkeypatch.setattr(ui_artifacts, "create_progress_artifact", lambda _, key, text: self.made.append(key) or key)
        monkeypatch.setattr(ui_artifacts, "update_progress_artifact", lambda _, percent: self.told.append(percent))
        monkeypatch.setattr(ui_artifacts.time, "monotonic", lambda: self.now)

    def steps(self, progress: Progress, n: int, seconds: float) -> None:
        for _ in range(n):
            self.now += seconds
            progress.advance()


def test_however_many_shards_there_are_the_ui_is_told_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ui = Ui(monkeypatch)
    ui.steps(Progress("embed masked", 1000), 1000, 0.1)
    assert ui.made == ["progress-embed-masked"]
    assert 15 <= len(ui.told) <= 21
    assert (sorted(ui.told), ui.told[-1]) == (ui.told, 100)


def test_of_a_single_shard_there_is_nothing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    ui = Ui(monkeypatch)
    ui.steps(Progress("mask", 1), 1, 60)
    assert (ui.made, ui.told) == ([], [])


def test_a_server_that_does_not_answer_costs_the_artifact_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(ui_artifacts, "emit_event", lambda *_, **__: None)  # it waits in the background
    for name in ("create_progress_artifact", "create_markdown_artifact", "create_link_artifact"):
        monkeypatch.setattr(ui_artifacts, name, refuse)
    with disable_run_logger():
        Progress("embed", 1).advance()
        Progress("embed", 2).advance()
        show_run("wear", RUN, "What was worn")

    def break_down(*_: object, **__: object) -> None:
        raise Transient("of ours")

    monkeypatch.setattr(ui_artifacts, "create_markdown_artifact", break_down)
    with pytest.raises(Transient):
        show_run("wear", RUN, "What was worn")


def test_the_summary_says_what_happened_in_tables() -> None:
    text = RUN.as_markdown()
    assert "| held | Held back: search got worse |" in text
    assert "| Was it published? | No. Shoppers still search another one. |" in text
    assert "| the gate's words | Held: recall@1 fell \\| &lt;b>badly&lt;/b> indeed. |" in text
    assert "| rows | added | changed | removed | unchanged | quarantined |" in text
    assert "| 12,000 | 3 | 2 | 1 | 11,995 | 0 |" in text
    assert "| ingest | 1.2 |" in text
    assert "| recall@1 | 0.5000 | 0.6250 | -0.1250 |" in text
    assert "| mask_iou | 0.9000 |  |  |" in text
    assert RUN.link in text
    assert not re.search(r"raw/|_std|masked", text)


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=4))
def test_no_text_breaks_a_table(rows: list[list[str]]) -> None:
    lines = as_table(("a", "b"), rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert not any("<" in line for line in lines)


@given(st.text())
def test_a_key_is_one_that_prefect_takes(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]*", slug(text))


def test_a_report_is_linked_where_its_address_is_known() -> None:
    assert Settings(report_url="https://shop/reports/").report_link("abc") == "https://shop/reports/abc"
    assert Settings().report_link("abc") == ""
    with pytest.raises(ValueError, match="pattern"):
        Settings(report_url="javascript:alert(1)")
