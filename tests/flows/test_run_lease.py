"""Every flow that makes something says in the store that it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import Flow

from flows.backfill import backfill
from flows.catalog_update import catalog_update
from flows.compare import compare
from flows.nightly import nightly
from flows.run import holds_lease
from flows.train import TRAININGS, train_head, train_segmenter
from retrieval_core.errors import StoreBusy
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.leases import FOLDER, exclusive_lease

MAKING = [nightly, catalog_update, backfill, compare, train_head, train_segmenter, *TRAININGS.values()]


@holds_lease
def run_alone(source: str, settings: Settings, k: int = 1) -> int:
    with exclusive_lease(settings.open_store(), "a vacuum"):
        return k


def test_nothing_is_vacuumed_under_a_run(tmp_path: Path) -> None:
    settings = Settings.load(store=str(tmp_path))
    with pytest.raises(StoreBusy, match="the run run_alone"):
        run_alone("folder:x", settings=settings, k=3)
    assert list(settings.open_store().list(FOLDER)) == []


class Announced(Exception):
    pass


@pytest.mark.parametrize("flow", MAKING, ids=lambda flow: flow.name)
def test_a_flow_announces_itself_before_it_does_anything(
    flow: Flow[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared_lease(store: Store, what: str) -> None:
        assert store.url == str(tmp_path)
        raise Announced(what)

    monkeypatch.setattr("flows.run.shared_lease", shared_lease)
    config = {"config": None} if flow is compare else {}
    with pytest.raises(Announced, match=flow.name.replace("-", "_")):
        flow.fn("nowhere:", Settings.load(store=str(tmp_path)), **config)
    assert {"source", "settings"} <= flow.parameters.properties.keys()
