"""What every task shares: how its runs are titled, and that what the core logs appears in the log of the run."""

from __future__ import annotations

import logging

import pytest
from prefect.exceptions import MissingContextError

from retrieval_core.artifacts.shards import Target, WorkShard
from tasks import stage as module
from tasks.stage import running_stage, stage, title

SHARD = WorkShard(targets=(Target(folder="vectors", family="f"),), key="k", names=("n",), number=2, n_shards=12)


def test_a_task_is_titled_by_what_it_does() -> None:
    assert title("embed shard", {"view": "masked"}) == "embed masked"
    assert title("seal vectors", {"view": "crop"}) == "seal vectors crop"
    assert title("publish", {"view": None}) == "publish"


def test_a_run_of_a_task_is_named_after_its_stage_title_and_shard() -> None:
    @stage("embed shard")
    def embed(shard: WorkShard, view: str) -> None: ...

    run_name = embed.task_run_name
    assert callable(run_name)
    with running_stage("embed"):
        assert run_name({"shard": SHARD, "view": "masked"}) == "embed masked 3/12"
    with running_stage("backfill"):
        assert run_name({"shard": SHARD, "view": "raw"}) == "backfill: embed raw 3/12"


class Records(logging.Handler):
    """Keeps the name and the message of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.name, record.getMessage()))


def test_the_core_logs_to_the_run_and_outside_of_one_to_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    run_log, core_log, records = logging.getLogger("a run"), logging.getLogger("retrieval_core.index"), Records()
    monkeypatch.setattr(logging.root, "handlers", [records])
    monkeypatch.setattr(run_log, "level", logging.INFO)
    monkeypatch.setattr(module, "get_run_logger", lambda: run_log)
    core_log.info("%s of %d rows", "100%", 3)
    assert records.seen == [("a run", "100% of 3 rows")]

    def no_run() -> logging.Logger:
        raise MissingContextError

    monkeypatch.setattr(module, "get_run_logger", no_run)
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    core_log.warning("outside")
    core_log.info("outside, and of no interest")
    assert records.seen[1:] == [("retrieval_core.index", "outside")]


def test_outside_of_a_run_a_handler_gets_each_record_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("retrieval_core.embed").warning("once")
    assert caplog.messages == ["once"]
