"""A backbone of the store by its names: aliases, fingerprints, and what a config may ask of it."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.backbone_names import find_backbone, named_backbone, point_backbone
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store

FIRST, SECOND, THIRD = "ab12" + "0" * 28, "ab34" + "0" * 28, "cd56" + "0" * 28


@pytest.fixture
def store(local_store: Store) -> Store:
    for fingerprint, objective in ((FIRST, ""), (SECOND, "triplet"), (THIRD, "distill")):
        made = Backbone(fingerprint=fingerprint, card="resnet18", dim=128, size_px=96, objective=objective)
        made.seal(local_store)
    point_backbone(local_store, "resnet18-triplet", "production", SECOND)
    point_backbone(local_store, "resnet18-triplet", "trial", THIRD)
    return local_store


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18-triplet", SECOND),
        ("resnet18-triplet@production", SECOND),
        ("resnet18-triplet@trial", THIRD),
        (FIRST, FIRST),
        ("ab1", FIRST),
        ("c", THIRD),
    ],
)
def test_a_backbone_is_found_by_each_of_its_names(store: Store, name: str, expected: str) -> None:
    assert find_backbone(store, name).fingerprint == expected


@pytest.mark.parametrize("name", ["", "resnet50", "resnet18-triplet@elsewhere", "@production", "a/b", "../x@y", "ef"])
def test_an_unknown_name_is_told_the_known_ones(store: Store, name: str) -> None:
    known = r"resnet18-triplet@production, resnet18-triplet@trial, ab1200000000 \(frozen resnet18\), .*triplet resnet18"
    with pytest.raises(BadConfig, match=known):
        find_backbone(store, name)


def test_the_start_of_two_fingerprints_is_ambiguous(store: Store) -> None:
    with pytest.raises(BadConfig, match=f"'ab' is ambiguous: {FIRST}, {SECOND}"):
        find_backbone(store, "ab")


def test_a_store_without_backbones_says_so(local_store: Store) -> None:
    with pytest.raises(BadConfig, match="it has none"):
        find_backbone(local_store, "resnet18-triplet")


def test_a_name_moves_to_another_backbone(store: Store) -> None:
    point_backbone(store, "resnet18-triplet", "production", FIRST)
    assert find_backbone(store, "resnet18-triplet").fingerprint == FIRST
    alias = releases.read_alias(store, "resnet18-triplet@production")
    assert alias is not None
    assert alias.history == (SECOND,)


@pytest.mark.parametrize(("name", "alias"), [("a@b", "c"), ("a", ""), ("", "production"), ("a/b", "c"), (".a", "b")])
def test_a_name_that_could_not_be_found_again_is_refused(store: Store, name: str, alias: str) -> None:
    with pytest.raises(BadConfig, match="cannot name a backbone; expected letters"):
        point_backbone(store, name, alias, FIRST)


def test_a_name_cannot_mean_what_is_not_there(store: Store) -> None:
    with pytest.raises(BadConfig, match=r"tuned@production cannot mean beef: no such backbone"):
        point_backbone(store, "tuned", "production", "beef")


def config_of(**values: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": "resnet18", "weights": "artifact:resnet18-triplet", **values})


def test_a_config_names_a_backbone_or_none(store: Store) -> None:
    named = named_backbone(store, config_of())
    assert named is not None
    assert named.fingerprint == SECOND
    assert named_backbone(store, config_of(size_px=96)) == named
    assert named_backbone(store, EmbedConfig(weights="random:0")) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "resnet50"}, r"is a resnet18, but embed.backbone is resnet50; set embed.backbone to resnet18"),
        ({"size_px": 224}, r"squares of 96 px, but embed.size_px is 224; set it to 0"),
        ({"framing": "squash"}, r"but embed.framing is squash; set it to card"),
        ({"weights": "artifact:tuned"}, r"no backbone 'tuned'"),
    ],
)
def test_a_config_that_asks_for_another_backbone_is_refused(
    store: Store, values: dict[str, object], message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        named_backbone(store, config_of(**values))
