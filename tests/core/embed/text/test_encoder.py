"""Texts in the space of the pictures, as open_clip embeds them."""

from __future__ import annotations

import sys

import numpy as np
import open_clip
import pytest
import torch

from retrieval_core.embed.text import encoder as module
from retrieval_core.embed.text.encoder import embed_texts, embed_with, loaded_encoder
from retrieval_core.errors import BadConfig


def test_texts_are_embedded_as_open_clip_does(clip_backbone):
    texts = ["a red dress", "blue jeans with a belt", "word " * 200]
    network = clip_backbone.loaded.module.network
    with torch.inference_mode():
        expected = network.encode_text(open_clip.get_tokenizer("ViT-B-32-quickgelu")(texts), normalize=True).numpy()
    vectors = embed_texts(clip_backbone.folder, texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(embed_texts(clip_backbone.folder, texts[:1]), expected[:1], atol=1e-5)


def test_missing_library_for_texts_says_what_to_install(clip_backbone, monkeypatch):
    module._saved_encoder.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(BadConfig, match=r"text query for clip_vit_b32 needs torch and open_clip.*vitrine\[train\]"):
        embed_texts(clip_backbone.folder, ["a red dress"])


def test_no_text_gives_no_vector(clip_backbone):
    assert embed_texts(clip_backbone.folder, []).shape == (0, 512)


def test_card_without_text_side_is_refused(pixel_backbone):
    with pytest.raises(BadConfig, match="pca_pixels has no text side"):
        embed_texts(pixel_backbone.folder, ["a red dress"])


def test_a_loaded_backbone_reads_texts_as_the_saved_one_does(clip_backbone):
    before = torch.get_rng_state()
    vectors = embed_with(loaded_encoder(clip_backbone.loaded, "cpu"), ["a red dress", "blue jeans"])
    np.testing.assert_allclose(vectors, embed_texts(clip_backbone.folder, ["a red dress", "blue jeans"]), atol=1e-6)
    assert torch.equal(torch.get_rng_state(), before)
