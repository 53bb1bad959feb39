"""What each backbone is, as frozen cards; the one table of names."""

from __future__ import annotations

from typing import Literal

from retrieval_core.artifacts import Value
from retrieval_core.errors import BadConfig

Channels = tuple[float, float, float]
WeightsKind = Literal["pretrained", "random", "file", "artifact", "fit"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Card(Value):
    """What is known of a backbone before any weight is loaded.

    `mean` and `std` are of RGB in 0..1. `resizable` networks take squares of any size. `unused_keys` are prefixes of
    keys of published weights that no embedding needs (the classifier). `hub_repo` and `hub_file` hold the pretrained
    weights on the Hugging Face hub, under `licence`.
    """

    name: str
    library: Literal["timm", "open_clip", "pixels"]
    model: str
    tag: str
    dim: int
    size_px: int
    crop_fraction: float = 1.0
    crop: Literal["center", "squash"] = "center"
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    resizable: bool = True
    unused_keys: tuple[str, ...] = ()
    hub_repo: str = ""
    hub_file: str = "model.safetensors"
    licence: str = "apache-2.0"
    has_text: bool = False

    @property
    def weights_kinds(self) -> tuple[WeightsKind, ...]:
        """The weights `load_backbone` can give this card."""
        return ("fit", "file") if self.library == "pixels" else ("pretrained", "random", "file")


def _resnet(name: str, tag: str, dim: int) -> Card:
    return _timm(name, model=name, tag=tag, dim=dim, crop_fraction=0.95, unused_keys=("fc.",))


def _mobile(name: str, model: str, tag: str, dim: int, size_px: int, crop_fraction: float = 0.875) -> Card:
    card = _timm(name, model=model, tag=tag, dim=dim, crop_fraction=crop_fraction, unused_keys=("classifier.",))
    return card.model_copy(update={"size_px": size_px})


def _timm(name: str, *, model: str, tag: str, dim: int, crop_fraction: float, unused_keys: tuple[str, ...]) -> Card:
    return Card(
        name=name,
        library="timm",
        model=model,
        tag=tag,
        dim=dim,
        size_px=224,
        crop_fraction=crop_fraction,
        unused_keys=unused_keys,
        hub_repo=f"timm/{model}.{tag}",
    )


_VIT = _timm(
    "vit_b16",
    model="vit_base_patch16_224",
    tag="augreg2_in21k_ft_in1k",
    dim=768,
    crop_fraction=0.9,
    unused_keys=("head.",),
).model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resizable": False})

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

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _resnet("resnet18", "a1_in1k", 512),
        _resnet("resnet34", "a1_in1k", 512),
        _resnet("resnet50", "a1_in1k", 2048),
        _resnet("resnet101", "a1h_in1k", 2048),
        _mobile("mobilenetv3", "mobilenetv3_large_100", "ra_in1k", 1280, 224),
        _mobile("efficientnet_b0", "efficientnet_b0", "ra_in1k", 1280, 224),
        _mobile("efficientnet_b4", "efficientnet_b4", "ra2_in1k", 1792, 320),
        _mobile("efficientnet_b7", "tf_efficientnet_b7", "ns_jft_in1k", 2560, 600, crop_fraction=0.949),
        _VIT,
        _CLIP,
        _PIXELS,
    )
}


def get_card(name: str) -> Card:
    """The card of that name. Raises `BadConfig` that lists the names."""
    try:
        return CARDS[name]
    except KeyError:
        raise BadConfig(f"unknown backbone {name!r}; embed.backbone is one of {', '.join(CARDS)}") from None
