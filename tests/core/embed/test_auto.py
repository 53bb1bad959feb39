"""`auto` is decided once, and a hub that cannot be reached never changes the backbone of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.config.stages import EmbedConfig, NightlyConfig
from retrieval_core.embed.auto import decide_backbone
from retrieval_core.embed.registry import ADAPTERS
from retrieval_core.errors import BadConfig, WeightsUnavailable
from retrieval_core.store.base import Store
from tests.core.sealed_runs import SealedRuns

PREFERRED = ("clip_vit_b32", "hf-hub:shop/clip", "resnet50")


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The cards whose weights can be had, none at first."""
    cards: set[str] = set()

    def weights_file(adapter: object, card: Any) -> Path:
        if card.name not in cards:
            raise WeightsUnavailable(f"cannot fetch {card.name}")
        return Path()

    for library in ("timm", "open_clip"):
        monkeypatch.setattr(type(ADAPTERS[library]), "weights_file", weights_file)
    return cards


def decide(store: Store, **embed: object) -> EmbedConfig:
    return decide_backbone(store, EmbedConfig.model_validate({"backbone": "auto", **embed}))


def publish(store: Store, **embed: object) -> None:
    release = SealedRuns(store).seal(["a1", "a2"])
    config = NightlyConfig(embed=EmbedConfig.model_validate(embed)).model_dump(mode="json")
    release = release.model_copy(update={"fingerprint": "ab" * 16, "config": config}).seal(store)
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)


def test_a_named_backbone_stays(local_store: Store) -> None:
    config = EmbedConfig(backbone="resnet34", preferred=PREFERRED)
    assert decide_backbone(local_store, config) is config


def test_a_new_store_starts_with_the_first_preferred_backbone_that_can_be_had(
    local_store: Store, reachable: set[str]
) -> None:
    assert decide(local_store, preferred=PREFERRED).backbone == "efficientnet_lite0"
    reachable.add("resnet50")
    assert decide(local_store, preferred=PREFERRED) == EmbedConfig(backbone="resnet50")
    reachable.add("clip_vit_b32")
    assert decide(local_store, preferred=PREFERRED, size_px=0).backbone == "clip_vit_b32"
    assert decide(local_store).backbone == "efficientnet_lite0"


def test_production_s_backbone_stays_whatever_can_be_had(local_store: Store, reachable: set[str]) -> None:
    publish(local_store, backbone="resnet34")
    assert decide(local_store, preferred=PREFERRED).backbone == "resnet34"
    reachable.add("clip_vit_b32")
    assert decide(local_store, preferred=PREFERRED).backbone == "resnet34"


def test_a_production_with_other_weights_decides_nothing(local_store: Store) -> None:
    publish(local_store, backbone="resnet34", weights="file:shop.pt")
    assert decide(local_store).backbone == "efficientnet_lite0"
    assert decide(local_store, weights="file:shop.pt").backbone == "resnet34"


def test_only_pretrained_weights_are_looked_for(local_store: Store, reachable: set[str]) -> None:
    reachable.update(PREFERRED)
    assert decide(local_store, weights="random:0", preferred=PREFERRED).backbone == "efficientnet_lite0"


def test_weights_of_the_store_bring_their_backbone(local_store: Store) -> None:
    Backbone(fingerprint="cd" * 16, card="resnet34", dim=8, size_px=32).seal(local_store)
    assert decide(local_store, weights="artifact:cdcd").backbone == "resnet34"


def test_an_unknown_preferred_backbone_is_an_error(local_store: Store) -> None:
    with pytest.raises(BadConfig, match="unknown backbone 'resnet19'"):
        decide(local_store, preferred=["resnet19"])
