"""What each backbone is, as frozen cards; the one table of names."""

from __future__ import annotations

from typing import Any, Literal

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig

Channels = tuple[float, float, float]
WeightsKind = Literal["pretrained", "random", "file", "artifact", "fit"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Card(Value):
    """What is known of a backbone before any weight is loaded.

    `mean` and `std` are of RGB in 0..1. `resizable` networks take squares of any multiple of `size_step_px`.
    `unused_keys` are prefixes of keys of published weights that no embedding needs: most of all the classifier, which
    tells `n_classes` apart. The pretrained weights are `hub_file` of `hub_repo` on the Hugging Face hub, or lie at
    `url` with `sha256`, under `licence`. `model_cfg` is open_clip's description of a network it has no name for.
    """

    name: str
    library: Literal["timm", "open_clip", "unicom", "vae", "pixels"]
    model: str
    tag: str
    dim: int
    size_px: int
    crop_fraction: float = 1.0
    crop: Literal["center", "squash"] = "center"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    resizable: bool = True
    size_step_px: int = 1
    unused_keys: tuple[str, ...] = ()
    n_classes: int = 0
    hub_repo: str = ""
    hub_file: str = "model.safetensors"
    url: str = ""
    sha256: str = ""
    licence: str = "apache-2.0"
    commercial: bool = True
    has_text: bool = False
    model_cfg: dict[str, Any] = {}

    @property
    def weights_kinds(self) -> tuple[WeightsKind, ...]:
        """The weights `load_backbone` can give this card."""
        return ("fit", "file") if self.library == "pixels" else ("pretrained", "random", "file")


def _resnet(name: str, tag: str, dim: int, **others: Any) -> Card:
    model = name.partition("_")[0]
    return _timm(name, model, tag, dim=dim, **{"crop_fraction": 0.95, "unused_keys": ("fc.",), **others})


def _mobile(name: str, model: str, tag: str, **others: Any) -> Card:
    return _timm(name, model, tag, **{"crop_fraction": 0.875, "unused_keys": ("classifier.",), **others})


def _timm(name: str, model: str, tag: str, **others: Any) -> Card:
    usual = {"size_px": 224, "n_classes": 1000, "hub_repo": f"timm/{model}.{tag}"}
    return Card.model_validate({"name": name, "library": "timm", "model": model, "tag": tag, **usual, **others})


def _unicom(name: str, model: str, file: str, sha256: str, **others: Any) -> Card:
    usual = {"dim": 768, "size_px": 224, "mean": CLIP_MEAN, "std": CLIP_STD, "resizable": False, "licence": "mit"}
    url = f"https://github.com/deepglint/unicom/releases/download/{file}"
    card = {"name": name, "library": "unicom", "model": model, "tag": "", "url": url, "sha256": sha256}
    return Card.model_validate({**card, **usual, **others})


_HALF = (0.5, 0.5, 0.5)
_TIMM = (
    _resnet("resnet18", "a1_in1k", 512),
    _resnet("resnet34", "a1_in1k", 512),
    _resnet("resnet50", "a1_in1k", 2048),
    _resnet("resnet101", "a1h_in1k", 2048),
    _resnet(
        "resnet50_swsl",
        "fb_swsl_ig1b_ft_in1k",
        2048,
        crop_fraction=0.875,
        interpolation="bilinear",
        licence="cc-by-nc-4.0",
        commercial=False,
    ),
    _mobile("mobilenetv3", "mobilenetv3_large_100", "ra_in1k", dim=1280),
    _mobile("efficientnet_b0", "efficientnet_b0", "ra_in1k", dim=1280),
    _mobile("efficientnet_b4", "efficientnet_b4", "ra2_in1k", dim=1792, size_px=320),
    _mobile("efficientnet_b7", "tf_efficientnet_b7", "ns_jft_in1k", dim=2560, size_px=600, crop_fraction=0.949),
    _timm(
        "vit_b16",
        "vit_base_patch16_224",
        "augreg2_in21k_ft_in1k",
        dim=768,
        crop_fraction=0.9,
        mean=_HALF,
        std=_HALF,
        resizable=False,
        unused_keys=("head.",),
    ),
    _timm(
        "eva02_b14",
        "eva02_base_patch14_448",
        "mim_in22k_ft_in22k",
        dim=768,
        size_px=448,
        crop="squash",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        resizable=False,
        unused_keys=("head.", "rope."),
        n_classes=21841,
        licence="mit",
    ),
    _timm(
        "siglip_b16",
        "vit_base_patch16_siglip_224",
        "v2_webli",
        dim=768,
        crop_fraction=0.9,
        mean=_HALF,
        std=_HALF,
        resizable=False,
        n_classes=0,
    ),
    _timm(
        "dinov2_s14",
        "vit_small_patch14_dinov2",
        "lvd142m",
        dim=384,
        size_px=518,
        resizable=False,
        unused_keys=("mask_token",),
        n_classes=0,
    ),
)

# OpenAI's weights need QuickGELU: the plain ViT-B-32 takes them without a word and gives other embeddings.
_CLIP = Card(
    name="clip_vit_b32",
    library="open_clip",
    model="ViT-B-32-quickgelu",
    tag="openai",
    dim=512,
    size_px=224,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    resizable=False,
    unused_keys=("input_resolution", "context_length", "vocab_size"),
    hub_repo="timm/vit_base_patch32_clip_224.openai",
    hub_file="open_clip_model.safetensors",
    licence="mit",
    has_text=True,
)

# An et al., "Unicom: Universal and Compact Representation Learning for Image Retrieval", ICLR 2023.
_UNICOM = (
    _unicom(
        "unicom_vit_b32",
        "ViT-B/32",
        "b32/FP16-ViT-B-32.pt",
        "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
        dim=512,
    ),
    _unicom(
        "unicom_vit_b16",
        "ViT-B/16",
        "b16/FP16-ViT-B-16.pt",
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
    ),
    _unicom(
        "unicom_vit_l14",
        "ViT-L/14",
        "l14/FP16-ViT-L-14.pt",
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
    ),
    _unicom(
        "unicom_vit_l14_336",
        "ViT-L/14@336px",
        "l14_336px/FP16-ViT-L-14-336px.pt",
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
        size_px=336,
    ),
)

_VAE = Card(
    name="vae_sd_mse",
    library="vae",
    model="AutoencoderKL",
    tag="",
    dim=256,
    size_px=256,
    size_step_px=8,
    mean=_HALF,
    std=_HALF,
    unused_keys=("decoder.", "post_quant_conv."),
    hub_repo="stabilityai/sd-vae-ft-mse",
    hub_file="diffusion_pytorch_model.safetensors",
    licence="mit",
)

# The baseline every network has to beat: principal components of the squashed pixels.
_PIXELS = Card(
    name="pca_pixels",
    library="pixels",
    model="pca",
    tag="",
    dim=128,
    size_px=64,
    crop="squash",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    licence="",
)

CARDS: dict[str, Card] = {card.name: card for card in (*_TIMM, _CLIP, *_UNICOM, _VAE, _PIXELS)}


def get_card(name: str) -> Card:
    """The card of that name, or of the open_clip model at `hf-hub:OWNER/NAME` or `local-dir:PATH`.

    Raises `BadConfig` that lists the names, and what `open_clip_card` raises.
    """
    if name.startswith(("hf-hub:", "local-dir:")):
        from retrieval_core.embed.openclip import open_clip_card

        return open_clip_card(name)
    try:
        return CARDS[name]
    except KeyError:
        raise BadConfig(
            f"unknown backbone {name!r}; embed.backbone is hf-hub:OWNER/NAME or local-dir:PATH of an open_clip model, "
            f"or one of {', '.join(CARDS)}"
        ) from None
