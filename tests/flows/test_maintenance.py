"""Promotions, rollbacks, proofs and vacuums as flows, which Prefect's forms start."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect
import pytest

from deployments.cli.main import main
from flows import ui_artifacts
from flows.maintenance import feedback, promote, rollback, vacuum, verify, watch
from retrieval_core.artifacts.releases import PRODUCTION, read_alias
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.feedback.judgements import last_judgements
from retrieval_core.feedback.log import put_events, put_searches
from retrieval_core.maintenance.health import Limits
from retrieval_core.maintenance.vacuum import Policy
from retrieval_core.settings import Settings
from tests.core import conftest
from tests.core.feedback.drawn_log import event, search

pytestmark = pytest.mark.usefixtures("prefect_server")
new_shop, pixels_backbone = conftest.new_shop, conftest.pixels_backbone
WHOLE_STORE = Path(__file__).parents[1] / "fixtures" / "store-format-1.tar.xz"
FIRST, SECOND = "a" * 32, "b" * 32


@pytest.fixture
def shop(new_shop: Callable[[Path], Any], tmp_path: Path) -> Any:
    """Two releases, of which the second is production."""
    shop = new_shop(tmp_path)
    shop.publish(FIRST, range(6))
    shop.publish(SECOND)
    return shop


def test_production_is_rolled_back_and_promoted_with_a_name_and_a_reason(shop: Any) -> None:
    assert rollback(shop.settings) == FIRST
    assert promote(shop.settings, release=" bbbb", by="Ada", why="it was right") == SECOND
    alias = read_alias(shop.store, PRODUCTION)
    assert alias is not None
    assert (alias.release, alias.promotions[-1].by, alias.promotions[-1].why) == (SECOND, "Ada", "it was right")
    for release, by, error in (("", "Ada", BadConfig), (FIRST, " ", BadConfig), ("c" * 32, "Ada", NotFound)):
        with pytest.raises(error):
            promote(shop.settings, release=release, by=by)
    assert read_alias(shop.store, PRODUCTION) == alias


def test_a_damaged_object_fails_the_verification_and_is_named(tmp_path: Path) -> None:
    with tarfile.open(WHOLE_STORE) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    settings = Settings.load(store=str(tmp_path / "store"))
    assert verify(settings, max_mb_per_s=0).ok
    part = next((tmp_path / "store").rglob("vectors.arrow"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ShardCorrupt, match=rf"{part.parent.name}.*vitrine repair"):
        verify(settings)


def test_what_is_needed_by_nothing_goes_when_it_may(tmp_path: Path) -> None:
    settings = Settings.load(store=str(tmp_path))
    left = tmp_path / "vectors" / ("0" * 32) / "parts" / "0123456789abcdef.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left by a run that died")
    os.utime(left, (0, 0))
    policy = Policy(safe_hours=1)
    seen = vacuum(settings, policy, dry_run=True)
    assert (seen.n_planned, seen.n_removed) == (1, 0)
    assert left.exists()
    assert vacuum(settings, policy, dry_run=False).n_removed == 1
    assert not left.exists()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """The events that flows emit: name, resource and reason."""
    events: list[tuple[str, str, str]] = []

    def emit(event: str, resource: dict[str, str], payload: dict[str, str]) -> None:
        events.append((event, resource["prefect.resource.id"], payload["reason"]))

    monkeypatch.setattr(ui_artifacts, "emit_event", emit)
    return events


@pytest.fixture
def _alone() -> Iterator[None]:
    """Tag the runs of a test: a watch looks for failed runs with its own tags, and other tests share the server."""
    with prefect.tags(uuid4().hex):
        yield


@pytest.mark.usefixtures("_alone")
def test_a_watch_is_silent_until_something_needs_attention(shop: Any, events: list[tuple[str, str, str]]) -> None:
    calm = Limits(disk_percent=0, disk_gb=0)
    assert watch(shop.settings, calm) == ()
    assert events == []
    (warning,) = watch(shop.settings, Limits(disk_percent=100, disk_gb=0))
    ((event, resource, reason),) = events
    assert (event, reason) == ("vitrine.warning.disk", warning.reason)
    assert resource.startswith(f"vitrine.warning.disk.{shop.store.url}.")
    assert (shop.store.url in reason, "GB free" in reason) == (True, True)


@pytest.mark.usefixtures("_alone")
def test_a_store_that_cannot_be_read_is_a_warning_and_no_failure(shop: Any, events: list[tuple[str, str, str]]) -> None:
    (Path(shop.store.url) / "releases" / SECOND / "manifest.json").unlink()
    watch(shop.settings, Limits(disk_percent=0, disk_gb=0))
    ((event, _, reason),) = events
    assert (event, SECOND in reason) == ("vitrine.warning.store", True)


@pytest.mark.usefixtures("_alone")
def test_the_certificate_of_the_reports_is_watched_unless_others_are_named(
    shop: Any, events: list[tuple[str, str, str]]
) -> None:
    settings = shop.settings.model_copy(update={"report_url": "https://127.0.0.1:9/reports"})
    calm = Limits(disk_percent=0, disk_gb=0)
    watch(settings, calm)
    ((event, resource, reason),) = events
    assert (event, resource) == ("vitrine.warning.certificate", "vitrine.warning.certificate.127.0.0.1:9")
    assert "cannot be read" in reason
    watch(settings, calm, urls=("https://127.0.0.2:9",))
    assert [resource for _, resource, _ in events[1:]] == ["vitrine.warning.certificate.127.0.0.2:9"]


def test_what_shoppers_chose_becomes_judgements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.load(store=str(tmp_path / "store"))
    store, now = settings.open_store(), datetime.now(UTC)
    put_searches(store, [search(str(number), at=now) for number in range(20)])
    put_events(store, [event(str(number), "b", at=now) for number in range(20)])
    judged = feedback(settings)
    found = last_judgements(store)
    assert found is not None
    assert (found.fingerprint, judged.n_golden + judged.n_training) == (judged.judgements, 1)
    assert main(["feedback", "--store", settings.store, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["n_searches"], again["n_golden"]) == (20, judged.n_golden)
    assert main(["feedback", "--store", settings.store]) == 0
    assert "1 / position^1.00, assumed" in capsys.readouterr().out
    assert main(["feedback", "--store", settings.store, "--days=0"]) == 2
