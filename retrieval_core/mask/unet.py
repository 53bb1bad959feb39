"""The segmenter's network, from raw pixels to probabilities. Importing this module imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.config import MaskConfig
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.state_dict import fill, first_line, read_state

# ImageNet's channel means and deviations, which torchvision's encoder weights expect, in units of a pixel value.
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
CLASSIFIER = {"fc.weight", "fc.bias"}  # of a whole ResNet; the encoder ends before it


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with a ResNet encoder, which normalises its own input."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def logits(self, images: Tensor) -> Tensor:
        """Return (n, s, s) float32 logits for (n, 3, s, s) float32 images in 0 to 255."""
        normalised = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.net(normalised)
        return scores[:, 0]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (n, s, s) float32 probabilities of the product for (n, s, s, 3) uint8 pixels."""
        return torch.sigmoid(self.logits(to_images(pixels)))


def to_images(pixels: Tensor) -> Tensor:
    """Convert (n, s, s, 3) uint8 to (n, 3, s, s) float32 in 0 to 255."""
    return pixels.permute(0, 3, 1, 2).float()


def build_unet(config: MaskConfig) -> UNet:
    """Return an untrained U-Net, random from `config.seed`, its encoder as `config.weights` says.

    The global random state is left as it was. Raises `BadConfig` for an unknown encoder or kind of weights,
    `WeightsInvalid` for a file that is absent, unreadable or of another architecture.
    """
    kind, _, value = config.weights.partition(":")
    if kind not in ("random", "file") or (kind == "random" and not value.isdecimal()):
        raise BadConfig(f"mask.weights is {config.weights!r}; expected random:SEED or file:PATH")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value) if kind == "random" else config.seed)
        net = _new_net(config.encoder)
    if kind == "file":
        path = Path(value)
        state = {key: tensor for key, tensor in read_state(path).items() if key not in CLASSIFIER}
        fill(net.get_submodule("encoder"), state, path.name, f"a torchvision state dict of a {config.encoder}")
    return UNet(net).to(memory_format=torch.channels_last)


def rebuild_unet(state: Mapping[str, Tensor], encoder: str) -> UNet:
    """Return the U-Net with trained weights. Raises `WeightsInvalid` where they are of another architecture."""
    unet = UNet(_new_net(encoder))
    try:
        unet.net.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsInvalid(f"segmenter weights do not fit a U-Net on {encoder}: {first_line(error)}") from error
    return unet.eval()


def _new_net(encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    names = smp.encoders.get_encoder_names()
    if encoder not in names:
        raise BadConfig(f"mask.encoder is {encoder!r}; expected one of {', '.join(sorted(names))}")
    net: nn.Module = smp.Unet(encoder, encoder_weights=None, classes=1)
    return net
