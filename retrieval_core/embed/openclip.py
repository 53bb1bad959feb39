"""open_clip models that have no card of their own: what a folder or a repository on the hub says of its network.

`open_clip_config.json` describes the network and how pictures are cut; the weights lie beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from retrieval_core.embed.cards import CLIP_MEAN, CLIP_STD, Card, Channels
from retrieval_core.errors import BadConfig, WeightsUnavailable

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LOCAL, HUB = "local-dir:", "hf-hub:"
DEFAULT_CONTEXT = 77  # tokens


class _Vision(BaseModel):
    image_size: int | tuple[int, int] = 224


class _Model(BaseModel):
    embed_dim: int
    vision_cfg: _Vision
    text_cfg: dict[str, Any]


class _Cut(BaseModel):
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"  # random is of training; in use it is bicubic
    resize_mode: Literal["shortest", "squash"] = "shortest"


class _Config(BaseModel):
    model_cfg: dict[str, Any]
    preprocess_cfg: _Cut = _Cut()


def open_clip_card(name: str) -> Card:
    """The card of `hf-hub:OWNER/NAME` or `local-dir:PATH`, from its `open_clip_config.json`.

    Raises `BadConfig` where that is absent or asks for what is not done here, `WeightsUnavailable` without the hub.
    """
    path = _config_path(name)
    try:
        config = _Config.model_validate_json(path.read_bytes())
        model = _Model.model_validate(config.model_cfg)
    except OSError as error:
        raise BadConfig(f"{name}: cannot read {path}: {error.strerror}; an open_clip model's folder has one") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(f"{name}: {CONFIG_FILE} {where}: {first['msg']}, got {first['input']!r}") from error
    size = model.vision_cfg.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise BadConfig(f"{name} sees {width} x {height} px; only networks that see squares can be used")
    cut = config.preprocess_cfg
    return Card(
        name=name,
        library="open_clip",
        model=name,
        tag="",
        dim=model.embed_dim,
        size_px=height,
        crop="squash" if cut.resize_mode == "squash" else "center",
        interpolation="bilinear" if cut.interpolation == "bilinear" else "bicubic",
        mean=cut.mean,
        std=cut.std,
        resizable=False,
        hub_repo=name.removeprefix(HUB) if name.startswith(HUB) else "",
        hub_file=WEIGHTS_FILES[0],
        licence="unknown",
        has_text=True,
        model_cfg=config.model_cfg,
    )


def folder_weights(folder: Path) -> Path:
    """The weights file of an open_clip model's folder. Raises `WeightsUnavailable` where there is none."""
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsUnavailable(f"{folder} holds no weights; expected {' or '.join(WEIGHTS_FILES)}")


def build_clip(card: Card) -> CLIP:
    """The network of an open_clip card, both sides, with a random start. Raises `BadConfig` where that fails."""
    import open_clip

    config = copy.deepcopy(card.model_cfg or open_clip.get_model_config(card.model))
    vision, text = config["vision_cfg"], config["text_cfg"]
    own_text = config.pop("custom_text", False) or "hf_model_name" in text
    # The parts would otherwise fetch pretrained weights of their own.
    vision |= {"timm_model_pretrained": False} if "timm_model_name" in vision else {}
    text |= {"hf_model_pretrained": False} if "hf_model_name" in text else {}
    if own_text:
        build: Any = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    else:
        build = open_clip.CLIP
    try:
        return build(**config)
    except Exception as error:  # a stranger's config fails in many ways; in each, open_clip cannot build this network
        raise BadConfig(f"open_clip cannot build {card.name}: {type(error).__name__}: {error}") from error


def tokenize(card: Card, texts: Sequence[str]) -> Tensor:
    """(n, context) int64 token ids of `texts`, cut to the network's context.

    Raises `BadConfig` where the tokenizer needs a library that is not installed, `WeightsUnavailable` where it needs
    files that cannot be had.
    """
    import open_clip

    text = card.model_cfg.get("text_cfg", {})
    try:
        if card.model_cfg and not text.get("hf_tokenizer_name"):
            context, others = text.get("context_length", DEFAULT_CONTEXT), text.get("tokenizer_kwargs", {})
            return open_clip.SimpleTokenizer(context_length=context, **others)(list(texts))
        return open_clip.get_tokenizer(card.model)(list(texts))
    except ImportError as error:
        raise BadConfig(
            f"{card.name} reads texts by a tokenizer that is not installed ({error}); "
            "pip install transformers, or search by picture"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"cannot open the tokenizer of {card.name}: {' '.join(str(error).split())[:200]}"
        ) from error


def _config_path(name: str) -> Path:
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL)) / CONFIG_FILE
    from retrieval_core.embed.weights import hub_path

    repo = name.removeprefix(HUB)
    try:
        return hub_path(repo, (CONFIG_FILE,))
    except Exception as error:  # the hub's client fails in many ways; in each, the config cannot be had now
        raise WeightsUnavailable(
            f"cannot fetch {CONFIG_FILE} of {name}: {' '.join(str(error).split())[:200]}; "
            "give a copy of the model's folder as --set embed.backbone=local-dir:PATH"
        ) from error
