from __future__ import annotations

import subprocess
import sys

import pytest

from retrieval_core.embed.registry import ADAPTERS, CARDS, adapter_of, get_adapter, get_card, register
from retrieval_core.errors import BadConfig


def test_unknown_backbone_is_told_the_names():
    with pytest.raises(BadConfig, match=r"unknown backbone 'resnet19'.*local-dir:PATH.*clip_vit_b32.*resnet18"):
        get_card("resnet19")
    with pytest.raises(BadConfig, match=r"unknown backbone 'resnet19'"):
        get_adapter("resnet19")


def test_every_card_is_found_by_its_name_and_built_by_the_adapter_of_its_library():
    assert {card.library for card in CARDS.values()} == set(ADAPTERS)
    for name, card in CARDS.items():
        assert card.name == name
        assert get_card(name) is card
        assert get_adapter(name) is adapter_of(card) is ADAPTERS[card.library]
    assert get_adapter("hf-hub:shop/clip") is get_adapter("local-dir:/models/clip") is ADAPTERS["open_clip"]


def test_card_of_a_library_without_an_adapter_is_refused():
    with pytest.raises(BadConfig, match=r"resnet18 is of library 'flax'; expected one of .*timm"):
        adapter_of(CARDS["resnet18"].model_copy(update={"library": "flax"}))


def test_adapter_whose_cards_name_another_library_is_refused():
    class Wrong(type(ADAPTERS["timm"])):
        library = "wrong"
        cards = (CARDS["resnet18"].model_copy(update={"name": "resnet18_again"}),)

    with pytest.raises(ValueError, match="must name 'wrong' as its library"):
        register(Wrong())
    assert "wrong" not in ADAPTERS


def test_looking_up_a_card_imports_no_library():
    code = "import sys; from retrieval_core.embed.registry import get_card; get_card('resnet18'); "
    code += "print([m for m in ('torch', 'timm', 'open_clip', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
