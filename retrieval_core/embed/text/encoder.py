"""Embed texts into the space of a backbone's pictures, by its text side in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.backbones import WEIGHTS_FILE, LoadedBackbone, describe
from retrieval_core.embed.cards import Card
from retrieval_core.embed.engine import finite
from retrieval_core.embed.registry import adapter_of
from retrieval_core.embed.text.tokenizer import kept_files
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from torch import Tensor

TextEncoder = Callable[[Sequence[str]], "Tensor"]  # from n texts to (n, dim) vectors of any length


def embed_texts(folder: Path, texts: Sequence[str]) -> Float32:
    """Return (len(texts), dim) float32 of unit length, in the space of the saved backbone's pictures.

    A text longer than the model's context is cut. The text side stays loaded for the next call. Raises `BadConfig`
    where the backbone has no text side, and where the libraries that read texts are not installed.
    """
    saved = describe(folder)
    if not saved.has_text:
        raise BadConfig(
            f"this {saved.card.name} has no text side; search by picture or by item, or embed with clip_vit_b32"
        )
    if not texts:
        return np.empty((0, saved.dim), np.float32)
    try:
        encode = _saved_encoder(folder)
    except ImportError as error:
        raise BadConfig(
            f"a text query for {saved.card.name} needs torch and {saved.card.library} ({error}); "
            "pip install 'vitrine[train]', or search by picture or by item"
        ) from error
    return embed_with(encode, texts)


def embed_with(encode: TextEncoder, texts: Sequence[str]) -> Float32:
    """Return (len(texts), dim) float32 of unit length. Raises `WeightsInvalid` for a vector that is not finite."""
    import torch

    with torch.inference_mode():
        return unit_length(finite(encode(texts).float().cpu().numpy()))


def loaded_encoder(loaded: LoadedBackbone, device: str) -> TextEncoder:
    """Return the text side of a backbone that reads texts, a copy on `device`."""
    return _open(loaded.card, loaded.module.network.state_dict(), loaded.tokenizer, device)


@lru_cache(maxsize=1)
def _saved_encoder(folder: Path) -> TextEncoder:
    from retrieval_core.embed.weights import read_weights

    card = describe(folder).card
    return _open(card, read_weights(folder / WEIGHTS_FILE, card).network, kept_files(folder), "cpu")


def _open(card: Card, state: Mapping[str, Tensor], tokenizer: Sequence[Path], device: str) -> TextEncoder:
    import torch

    with torch.random.fork_rng(devices=[]):  # building a network draws random weights
        return adapter_of(card).open_text_encoder(card, state, tokenizer, device)
