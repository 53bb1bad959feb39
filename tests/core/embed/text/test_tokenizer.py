"""A tokenizer is kept with its backbone, and gives the same tokens offline, in any language."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
from open_clip.tokenizer import get_clean_fn
from tokenizers import decoders, models, normalizers, processors

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed import networks
from retrieval_core.embed.backbones import load_backbone, read_backbone, save_backbone
from retrieval_core.embed.text.encoder import embed_texts, embed_with, loaded_encoder
from retrieval_core.embed.text.tokenizer import can_open, kept_files, open_tokenizer
from retrieval_core.errors import WeightsInvalid
from tests.core.open_clip_folder import MODEL, write_model

CONTEXT = 48
LETTERS = "▁abcdefghijklmnopqrstuvwxyzäöü红裙"
WORDS = ["<pad>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "re", "red"]
TEXT_SIDE: dict[str, Any] = {
    **{"context_length": CONTEXT, "vocab_size": len(WORDS), "width": 32, "heads": 2, "layers": 1},
    **{"hf_tokenizer_name": "shop/tokenizer", "tokenizer_kwargs": {"clean": "canonicalize"}},
}
TEXTS = {
    "English": "Red dress, for_a PARTY!",
    "German": "Grüne Schürze für Mädchen: größer, ÄÖÜ",
    "Chinese": "红色连衣裙",
    "Arabic": "فستان أحمر طويل",
    "emoji": "👗🔥 robe d'été",
    "longer than the context": "red " * CONTEXT,
    "nothing": "",
}


def published() -> tokenizers.Tokenizer:
    """A tokenizer as SigLIP's are: pieces and, for what has none, bytes; an end token after every text."""
    vocab = {word: number for number, word in enumerate(WORDS)}
    merges = [("r", "e"), ("re", "d")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def write_tokenizer(folder: Path, **settings: Any) -> Path:
    published().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", **settings}))
    return folder


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with its tokenizer."""
    monkeypatch.setattr(networks, "export_onnx", lambda module, size_px, path: path.write_bytes(b""))
    return write_tokenizer(write_model(tmp_path / "source", {**MODEL, "text_cfg": TEXT_SIDE}))


def seal(source: Path) -> Path:
    """Export the model of a folder, then delete that folder."""
    sealed = source.parent / "sealed"
    sealed.mkdir()
    save_backbone(load_backbone(EmbedConfig(backbone=f"local-dir:{source}")), sealed)
    shutil.rmtree(source)
    return sealed


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_kept_tokenizer_gives_the_tokens_of_the_published_one(text: str, source: Path) -> None:
    clean = get_clean_fn("canonicalize")(text)
    ids = published().encode(clean).ids
    ids = ids if len(ids) <= CONTEXT else [*ids[: CONTEXT - 1], 1]
    tokens = open_tokenizer(kept_files(seal(source)), TEXT_SIDE)([text])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [ids + [0] * (CONTEXT - len(ids))]
    assert clean.startswith(published().decode(tokens[0].tolist()).rstrip())


def test_texts_of_a_sealed_backbone_need_neither_its_folder_nor_a_hub(source: Path) -> None:
    texts = list(TEXTS.values())
    reference = open_clip.create_model(f"local-dir:{source}").eval()
    tokens = open_tokenizer(kept_files(source), TEXT_SIDE)(texts)
    with torch.inference_mode():
        expected = reference.encode_text(tokens, normalize=True).numpy()
    sealed = seal(source)
    np.testing.assert_allclose(embed_texts(sealed, texts), expected, atol=1e-5)
    np.testing.assert_allclose(embed_with(loaded_encoder(read_backbone(sealed), "cpu"), texts), expected, atol=1e-5)


def test_the_files_are_kept_as_they_were_published(source: Path) -> None:
    before = [file.read_bytes() for file in kept_files(source)]
    assert [file.read_bytes() for file in kept_files(seal(source))] == before != []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pad_token": {"content": "</s>"}}, lambda ids: [*ids, *[1] * (CONTEXT - len(ids))]),
        ({"padding_side": "left"}, lambda ids: [*[0] * (CONTEXT - len(ids)), *ids]),
    ],
    ids=["another token", "another side"],
)
def test_texts_are_padded_as_the_settings_say(settings: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    files = kept_files(write_tokenizer(tmp_path, **settings))
    assert open_tokenizer(files, TEXT_SIDE)(["red"]).tolist() == [expected(published().encode("red").ids)]


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_texts_are_cleaned_as_open_clip_does(clean: str, tmp_path: Path) -> None:
    tokenize = open_tokenizer(kept_files(write_tokenizer(tmp_path)), TEXT_SIDE | {"tokenizer_kwargs": {"clean": clean}})
    ids = published().encode(get_clean_fn(clean)("  A red_dress,  <b>")).ids
    assert tokenize(["  A red_dress,  <b>"])[0, : len(ids)].tolist() == ids


@pytest.mark.parametrize(
    ("settings", "text_side"),
    [
        ({"pad_token": None}, {}),
        ({}, {"tokenizer_kwargs": {"strip_sep_token": True}}),
        ({}, {"tokenizer_mode": "clips"}),
    ],
)
def test_what_is_tokenized_in_other_ways_is_left_to_transformers(
    settings: dict[str, Any], text_side: dict[str, Any], tmp_path: Path
) -> None:
    files = kept_files(write_tokenizer(tmp_path))
    assert can_open(files, TEXT_SIDE)
    assert not can_open(kept_files(write_tokenizer(tmp_path, **settings)), TEXT_SIDE | text_side)


def test_a_folder_without_one_of_the_files_keeps_none(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert kept_files(tmp_path) == ()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is no tokenizer"),
        (lambda folder: write_tokenizer(folder, pad_token="<nothing>"), r"has no token '<nothing>'"),
    ],
)
def test_files_that_hold_no_tokenizer_are_refused(damage: Any, says: str, tmp_path: Path) -> None:
    damage(write_tokenizer(tmp_path))
    with pytest.raises(WeightsInvalid, match=says):
        open_tokenizer(kept_files(tmp_path), TEXT_SIDE)
