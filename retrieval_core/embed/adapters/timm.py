"""timm: networks with an ImageNet classifier, used without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import CLIP_MEAN, CLIP_STD, HALF, Card

if TYPE_CHECKING:
    from torch import nn


def _resnet(name: str, tag: str, dim: int, **fields: Any) -> Card:
    model = name.partition("_")[0]
    return _timm(name, model, tag, dim=dim, **{"crop_fraction": 0.95, "unused_keys": ("fc.",), **fields})


def _mobile(name: str, model: str, tag: str, **fields: Any) -> Card:
    return _timm(name, model, tag, **{"crop_fraction": 0.875, "unused_keys": ("classifier.",), **fields})


def _timm(name: str, model: str, tag: str, **fields: Any) -> Card:
    defaults = {"size_px": 224, "n_classes": 1000, "hub_repo": f"timm/{model}.{tag}"}
    return Card.model_validate({"name": name, "library": "timm", "model": model, "tag": tag, **defaults, **fields})


_CARDS = (
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
        mean=HALF,
        std=HALF,
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
        mean=HALF,
        std=HALF,
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


class Timm(Adapter):
    """Networks of `timm.create_model`; `model` and `tag` of a card are timm's."""

    library = "timm"
    cards: ClassVar[tuple[Card, ...]] = _CARDS

    def build(self, card: Card, size_px: int) -> nn.Module:
        import timm

        network = timm.create_model(f"{card.model}.{card.tag}", pretrained=False, num_classes=0)
        _open_residual_branches(network)
        return network


def _open_residual_branches(network: nn.Module) -> None:
    """Set the zero batch norms and tiny layer scales that end residual branches to 1.

    Training opens such a branch; in an untrained network (ResNet, DINOv2) it would add nothing to its input.
    """
    import torch
    from timm.layers.layer_scale import LayerScale
    from torch import nn

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LayerScale):
                module.gamma.fill_(1)
            elif isinstance(module, nn.BatchNorm2d) and not module.weight.any():
                module.weight.fill_(1)


ADAPTER = Timm()
