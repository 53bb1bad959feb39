"""open_clip: CLIP by name, any of open_clip's published models, and any described by a folder or a repository.

In a folder or a repository, `open_clip_config.json` describes the network and how pictures are cut; the weights lie
beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from retrieval_core.artifacts.fingerprints import weights_sha256
from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import CLIP_MEAN, CLIP_STD, HALF, Card, Channels
from retrieval_core.embed.text.tokenizer import (
    DEFAULT_CONTEXT,
    TOKENIZER_FILES,
    Tokenize,
    can_open,
    kept_files,
    open_tokenizer,
)
from retrieval_core.errors import BadConfig, WeightsUnavailable

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LOCAL, HUB, LISTED = "local-dir:", "hf-hub:", "open_clip:"
MODEL_LIST = "`python -c 'import open_clip; print(open_clip.list_pretrained())'` lists all"


def _pair(name: str, model: str, tag: str, hub_repo: str, **fields: Any) -> Card:
    defaults = {"size_px": 224, "mean": HALF, "std": HALF, "crop": "squash", "resizable": False, "has_text": True}
    card = {"name": name, "library": "open_clip", "model": model, "tag": tag, "hub_repo": hub_repo}
    return Card.model_validate({**card, "hub_file": WEIGHTS_FILES[0], **defaults, **fields})


_CARDS = (
    _pair(
        "clip_vit_b32",
        # OpenAI's weights need QuickGELU: the plain ViT-B-32 takes them without an error and embeds differently.
        "ViT-B-32-quickgelu",
        "openai",
        "timm/vit_base_patch32_clip_224.openai",
        dim=512,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        crop="center",
        unused_keys=("input_resolution", "context_length", "vocab_size"),
        licence="mit",
    ),
    _pair("siglip2_b16", "ViT-B-16-SigLIP2", "webli", "timm/ViT-B-16-SigLIP2", dim=768),
    # Marqo's were trained from Google's SigLIP of the same network.
    _pair("marqo_fashion_siglip", "ViT-B-16-SigLIP", "", "Marqo/marqo-fashionSigLIP", dim=768),
    _pair("marqo_ecommerce_b", "ViT-B-16-SigLIP", "", "Marqo/marqo-ecommerce-embeddings-B", dim=768),
    _pair("marqo_ecommerce_l", "ViT-L-16-SigLIP-256", "", "Marqo/marqo-ecommerce-embeddings-L", dim=1024, size_px=256),
    _pair("pe_core_b16", "PE-Core-B-16", "meta", "timm/PE-Core-B-16", dim=1024, interpolation="bilinear"),
    _pair(
        "mobileclip2_s2",
        "MobileCLIP2-S2",
        "dfndr2b",
        "timm/MobileCLIP2-S2-OpenCLIP",
        dim=512,
        size_px=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop="center",
        interpolation="bilinear",
        licence="apple-amlr",
        commercial=False,
    ),
)


class OpenClip(Adapter):
    """Networks of open_clip, which embed pictures and texts into one space."""

    library = "open_clip"
    name_forms = (
        "open_clip:MODEL/PRETRAINED of open_clip's list",
        "hf-hub:OWNER/NAME[@REVISION] of an open_clip model",
        "local-dir:PATH of an open_clip model's folder",
    )
    cards = _CARDS

    def accepts(self, name: str) -> bool:
        return name.startswith((HUB, LOCAL, LISTED))

    def open_card(self, name: str) -> Card:
        """Return the card of `open_clip:MODEL/PRETRAINED`, `hf-hub:OWNER/NAME` or `local-dir:PATH`.

        Raises `BadConfig` where its config is absent or describes what is not supported, `WeightsUnavailable` where the
        hub cannot be reached.
        """
        path = None if name.startswith(LISTED) else _config_path(name)
        try:
            config = _Config.model_validate_json(path.read_bytes()) if path else _listed_config(name)
            model = _Model.model_validate(config.model_cfg)
        except OSError as error:
            raise BadConfig(
                f"{name}: cannot read {path}: {error.strerror}; an open_clip model's folder has one"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise BadConfig(f"{name}: {CONFIG_FILE} {key}: {first['msg']}, got {first['input']!r}") from error
        size = model.vision_cfg.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise BadConfig(f"{name} takes pictures of {width} x {height} px; only networks for squares can be used")
        framing = config.preprocess_cfg
        return Card(
            name=name,
            library=self.library,
            model=name,
            tag="",
            dim=model.embed_dim,
            size_px=height,
            crop="squash" if framing.resize_mode == "squash" else "center",
            interpolation="bilinear" if framing.interpolation == "bilinear" else "bicubic",
            mean=framing.mean,
            std=framing.std,
            resizable=False,
            hub_repo=name.removeprefix(HUB) if name.startswith(HUB) else config.hub_repo,
            hub_file=config.hub_file,
            url=config.url,
            licence="unknown",
            has_text=True,
            model_cfg=config.model_cfg,
        )

    def build(self, card: Card, size_px: int) -> CLIP:
        """Return the network of both pictures and texts. Raises `BadConfig` where open_clip cannot build it."""
        import open_clip

        config = copy.deepcopy(_model_config(card))
        vision, text = config["vision_cfg"], config["text_cfg"]
        has_own_text_tower = config.pop("custom_text", False) or "hf_model_name" in text
        # The towers would otherwise download pretrained weights of their own.
        vision |= {"timm_model_pretrained": False} if "timm_model_name" in vision else {}
        text |= {"hf_model_pretrained": False} if "hf_model_name" in text else {}
        if has_own_text_tower:
            network: Any = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
        else:
            network = open_clip.CLIP
        try:
            return network(**config)
        except Exception as error:  # any config may be given, and open_clip fails on a bad one in many ways
            raise BadConfig(f"open_clip cannot build {card.name}: {type(error).__name__}: {error}") from error

    def weights_file(self, card: Card) -> Path:
        from retrieval_core.embed.hub import published_weights

        if card.model.startswith(LOCAL):
            return _folder_weights(Path(card.model.removeprefix(LOCAL)))
        return published_weights(card, tuple(dict.fromkeys((card.hub_file, *WEIGHTS_FILES))))

    def encode_image(self, network: Any, pixels: Tensor) -> Tensor:
        return network.encode_image(pixels)

    def tokenizer_files(self, card: Card) -> tuple[Path, ...]:
        text = _model_config(card)["text_cfg"]
        repo = text.get("hf_tokenizer_name")
        if not repo:
            return ()
        is_local = card.model.startswith(LOCAL)
        files = kept_files(Path(card.model.removeprefix(LOCAL))) if is_local else _published_tokenizer(card, repo)
        return files if files and can_open(files, text) else ()

    def open_text_encoder(
        self, card: Card, state: Mapping[str, Tensor], tokenizer: Sequence[Path], device: str
    ) -> Callable[[Sequence[str]], Tensor]:
        from torch import nn

        from retrieval_core.state_dict import fill

        network: Any = self.build(card, card.size_px)
        network.visual = nn.Identity()  # the image tower would only fill the memory
        unused = ("visual.", *card.unused_keys)
        text_state = {key: tensor for key, tensor in state.items() if not key.startswith(unused)}
        fill(network, text_state, f"the saved {card.name}", f"the text side of a {card.model}")
        network.eval().to(device)
        tokenize = open_card_tokenizer(card, tokenizer or self.tokenizer_files(card))

        def encode(texts: Sequence[str]) -> Tensor:
            return network.encode_text(tokenize(texts).to(device))

        return encode

    def logit_scale(self, network: Any) -> float:
        return float(network.logit_scale.exp())

    def fingerprint_inputs(self, name: str, weights: str) -> tuple[str, str]:
        """Return `name` and `weights` as they enter the fingerprint; those of a folder by the content of its files."""
        backbone, weights = super().fingerprint_inputs(name, weights)
        if not name.startswith(LOCAL):
            return backbone, weights
        folder = Path(name.removeprefix(LOCAL))
        weights = weights_sha256(_folder_weights(folder)) if weights == "pretrained" else weights
        return f"{LOCAL}{weights_sha256(folder / CONFIG_FILE)}", weights


ADAPTER = OpenClip()


class _Vision(BaseModel):
    image_size: int | tuple[int, int] = 224


class _Model(BaseModel):
    embed_dim: int
    vision_cfg: _Vision
    text_cfg: dict[str, Any]


class _Framing(BaseModel):
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"  # random: bicubic outside training
    resize_mode: Literal["shortest", "squash"] = "shortest"


class _Config(BaseModel):
    model_cfg: dict[str, Any]
    preprocess_cfg: _Framing = _Framing()
    hub_repo: str = ""
    hub_file: str = WEIGHTS_FILES[0]
    url: str = ""


def _listed_config(name: str) -> _Config:
    """Return the config of a model that open_clip lists with published weights. Raises `BadConfig` for another."""
    import open_clip

    model, _, tag = name.removeprefix(LISTED).rpartition("/")
    published, config = open_clip.get_pretrained_cfg(model, tag), open_clip.get_model_config(model)
    if not published or config is None:
        tags = [LISTED + "/".join(pair) for pair in open_clip.list_pretrained() if pair[0] == (model or tag)]
        raise BadConfig(f"open_clip lists no {name}; " + (f"it has {', '.join(tags)}" if tags else MODEL_LIST))
    # The weights say which activation they were trained with; the other one loads without an error.
    quick_gelu = config.get("quick_gelu", False) or published.get("quick_gelu", False)
    repo, file = _split_hub(published.get("hf_hub", ""))
    return _Config(
        model_cfg=config | ({"quick_gelu": True} if quick_gelu else {}),
        preprocess_cfg=_Framing.model_validate(published),
        hub_repo=repo,
        hub_file=file or WEIGHTS_FILES[0],
        url="" if repo else published.get("url", ""),
    )


def _split_hub(address: str) -> tuple[str, str]:
    """Split `OWNER/NAME/FILE`, where the file may be empty, into repository and file."""
    owner, _, rest = address.partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}" if name else "", file


def open_card_tokenizer(card: Card, files: Sequence[Path]) -> Tokenize:
    """Return the tokenizer of a card's texts, each cut to the network's context length.

    `files` are its `TOKENIZER_FILES`, () where the tokenizer is part of open_clip or is opened by transformers. Raises
    `BadConfig` where it needs a library that is not installed, `WeightsUnavailable` where it needs files that are not
    available, `WeightsInvalid` for files that hold no tokenizer.
    """
    import open_clip

    text = _model_config(card)["text_cfg"]
    try:
        if files:
            return open_tokenizer(files, text)
        tokenize: Any
        if card.model_cfg and not text.get("hf_tokenizer_name"):
            context, options = text.get("context_length", DEFAULT_CONTEXT), text.get("tokenizer_kwargs", {})
            tokenize = open_clip.SimpleTokenizer(context_length=context, **options)
        else:
            tokenize = open_clip.get_tokenizer(card.model)
    except ImportError as error:
        library = "tokenizers" if files else "transformers"
        raise BadConfig(
            f"{card.name} reads texts by a tokenizer that is not installed ({error}); "
            f"pip install {library}, or search by picture"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"cannot open the tokenizer of {card.name}: {' '.join(str(error).split())[:200]}"
        ) from error
    return lambda texts: tokenize(list(texts))


def _model_config(card: Card) -> dict[str, Any]:
    """Return open_clip's description of a card's network."""
    if card.model_cfg:
        return card.model_cfg
    import open_clip

    config: dict[str, Any] = open_clip.get_model_config(card.model)
    return config


def _published_tokenizer(card: Card, repo: str) -> tuple[Path, ...]:
    """Return the `TOKENIZER_FILES` of a repository of the hub, none where it lacks one. Raises `WeightsUnavailable`."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from retrieval_core.embed.hub import hub_path

    try:
        return tuple(hub_path(repo, (name,)) for name in TOKENIZER_FILES)
    except Exception as error:  # the hub's client fails in many ways; in each but one, the files are not available now
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return ()
        raise WeightsUnavailable(
            f"cannot fetch the tokenizer of {card.name} ({repo}): {' '.join(str(error).split())[:200]}"
        ) from error


def _folder_weights(folder: Path) -> Path:
    """Return the weights file of an open_clip model's folder. Raises `WeightsUnavailable` where there is none."""
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsUnavailable(f"{folder} holds no weights; expected {' or '.join(WEIGHTS_FILES)}")


def _config_path(name: str) -> Path:
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL)) / CONFIG_FILE
    from retrieval_core.embed.hub import hub_path

    try:
        return hub_path(name.removeprefix(HUB), (CONFIG_FILE,))
    except Exception as error:  # the hub's client fails in many ways; in each, the config is not available now
        raise WeightsUnavailable(
            f"cannot fetch {CONFIG_FILE} of {name}: {' '.join(str(error).split())[:200]}; "
            "give a copy of the model's folder as --set embed.backbone=local-dir:PATH"
        ) from error
