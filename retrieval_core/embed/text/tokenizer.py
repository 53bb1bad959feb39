"""The tokenizer of a text side, from the two files that its makers publish and a store keeps.

The library tokenizers reads them without a network and without transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from retrieval_core.errors import WeightsInvalid

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILES = TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"
DEFAULT_CONTEXT = 77  # tokens

Tokenize = Callable[[Sequence[str]], "Tensor"]  # from n texts to (n, context) int64 token ids
Side = Literal["left", "right"]


class _Cleaning(BaseModel, extra="forbid"):
    clean: Literal["canonicalize", "lower", "whitespace"] = "whitespace"


class _TextSide(BaseModel):
    """What open_clip's description of a text side says of its tokenizer, where it needs no more than this."""

    context_length: int = DEFAULT_CONTEXT
    tokenizer_kwargs: _Cleaning = _Cleaning()
    tokenizer_mode: Literal[""] | None = None


class _Token(BaseModel):
    content: str


class _Settings(BaseModel):
    """What `tokenizer_config.json` says of padding and cutting; a token is its text, or an object that holds it."""

    pad_token: str | _Token
    padding_side: Side = "right"
    truncation_side: Side = "right"


def kept_files(folder: Path) -> tuple[Path, ...]:
    """Return the `TOKENIZER_FILES` in a folder, none where it lacks one."""
    files = tuple(folder / name for name in TOKENIZER_FILES)
    return files if all(file.is_file() for file in files) else ()


def can_open(files: Sequence[Path], text_cfg: Mapping[str, Any]) -> bool:
    """Return whether `open_tokenizer` knows the ways in which these `TOKENIZER_FILES` and the text side work."""
    try:
        _read(files, text_cfg)
    except (ValidationError, OSError):
        return False
    return True


def open_tokenizer(files: Sequence[Path], text_cfg: Mapping[str, Any]) -> Tokenize:
    """Return what open_clip's HFTokenizer does to texts with the same `TOKENIZER_FILES`.

    `text_cfg` is open_clip's description of the text side. Raises `WeightsInvalid` for files that hold no tokenizer,
    `ImportError` where the library tokenizers is not installed.
    """
    import tokenizers
    import torch
    from open_clip.tokenizer import get_clean_fn

    try:
        side, settings = _read(files, text_cfg)
        tokenizer = tokenizers.Tokenizer.from_file(str(files[0]))
    except Exception as error:  # tokenizers raises plain exceptions
        raise WeightsInvalid(
            f"{files[0]} is no tokenizer ({' '.join(str(error).split())[:200]}); fetch the files of its model again"
        ) from error
    pad = settings.pad_token if isinstance(settings.pad_token, str) else settings.pad_token.content
    pad_id = tokenizer.token_to_id(pad)
    if pad_id is None:
        raise WeightsInvalid(f"{files[0]} has no token {pad!r}, by which {files[1].name} pads; fetch both again")
    length, clean = side.context_length, get_clean_fn(side.tokenizer_kwargs.clean)
    tokenizer.enable_truncation(length, direction=settings.truncation_side)
    tokenizer.enable_padding(length=length, pad_id=pad_id, pad_token=pad, direction=settings.padding_side)

    def tokenize(texts: Sequence[str]) -> Tensor:
        return torch.tensor([found.ids for found in tokenizer.encode_batch([clean(text) for text in texts])])

    return tokenize


def _read(files: Sequence[Path], text_cfg: Mapping[str, Any]) -> tuple[_TextSide, _Settings]:
    return _TextSide.model_validate(text_cfg), _Settings.model_validate_json(files[1].read_bytes())
