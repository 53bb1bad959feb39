"""`vitrine train` as a script meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployments.cli.conftest import Done


@pytest.mark.usefixtures("prefect_server")
def test_train_prints_its_document_and_names_the_backbone(
    published: Path, vitrine: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_CACHE_DIR", str(published / "cache"))
    done = vitrine(
        "train", "backbone", "rotation", "--source=folder:photos", "--store=trained", "--name=mine", "--json",
        "--set=size_px=32", "--set=max_epochs=1", "--set=batch_size=4", "--set=ingest.max_reject_fraction=0.1",
        cwd=published,
    )  # fmt: skip
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert set(document) == {"backbone", "name", "objective", "trained", "metrics", "epochs", "seconds"}
    assert (document["name"], document["objective"], document["trained"], document["epochs"]) == (
        "mine",
        "rotation",
        True,
        1,
    )
    assert "val_loss" in document["metrics"]
    manifest = published / "trained" / "backbones" / document["backbone"] / "manifest.json"
    assert json.loads(manifest.read_text())["counts"]["pictures"] == 11
