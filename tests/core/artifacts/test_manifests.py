"""A fitted model's folder holds every part of it, also where the store is remote."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.artifacts.parts import put_part
from retrieval_core.errors import ShardCorrupt
from retrieval_core.store.base import Store


def sealed(store: Store) -> Backbone:
    parts = tuple(put_part(store, f"backbones/f/{name}", name.encode(), 0) for name in ("card.json", "model.onnx"))
    return Backbone(fingerprint="f", card="resnet18", dim=4, size_px=8, parts=parts).seal(store)


def test_a_local_folder_holds_every_part(s3_store: Store, aws_environment: None) -> None:
    folder = sealed(s3_store).local_folder(s3_store)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == {
        "card.json": b"card.json",
        "model.onnx": b"model.onnx",
    }


def test_a_part_that_is_not_what_was_sealed_is_refused(local_store: Store) -> None:
    backbone = sealed(local_store)
    local_store.put("backbones/f/model.onnx", b"other")
    with pytest.raises(ShardCorrupt, match=r"model.onnx"):
        backbone.local_folder(local_store)
