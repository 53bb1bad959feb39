from __future__ import annotations

import pytest
import timm
import torch

from retrieval_core.embed.registry import CARDS

TIMM_CARDS = [card for card in CARDS.values() if card.library == "timm"]


@pytest.mark.parametrize("card", TIMM_CARDS, ids=lambda card: card.name)
def test_card_says_what_timm_says(card):
    with torch.device("meta"):
        network = timm.create_model(f"{card.model}.{card.tag}", num_classes=0)
    data, published = timm.data.resolve_model_data_config(network), network.pretrained_cfg
    assert card.dim == network.head_hidden_size
    assert data["input_size"] == (3, card.size_px, card.size_px)
    assert (data["mean"], data["std"], data["crop_pct"]) == (card.mean, card.std, card.crop_fraction)
    assert (data["interpolation"], data["crop_mode"]) == (card.interpolation, card.crop)
    assert card.n_classes == published["num_classes"]
    assert (f"{published['classifier']}." in card.unused_keys) is (card.n_classes > 0)
    assert (card.hub_repo, card.licence) == (published["hf_hub_id"], published["license"])
    assert card.commercial is ("-nc" not in card.licence)
    assert card.resizable is not published["fixed_input_size"]
