"""The image encoder of Stable Diffusion's autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import HALF, Card

if TYPE_CHECKING:
    from torch import Tensor, nn


class Vae(Adapter):
    """Diffusers' AutoencoderKL, of which only the encoder is used."""

    library = "vae"
    cards = (
        Card(
            name="vae_sd_mse",
            library="vae",
            model="AutoencoderKL",
            tag="",
            dim=256,
            size_px=256,
            size_step_px=8,
            mean=HALF,
            std=HALF,
            unused_keys=("decoder.", "post_quant_conv."),
            hub_repo="stabilityai/sd-vae-ft-mse",
            hub_file="diffusion_pytorch_model.safetensors",
            licence="mit",
        ),
    )

    def build(self, card: Card, size_px: int) -> nn.Module:
        from retrieval_core.embed.architectures.vae import VaeEncoder

        return VaeEncoder()

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under the current spelling of the attention's keys, which older files lack."""
        from retrieval_core.embed.architectures.vae import current_keys

        return current_keys(state)


ADAPTER = Vae()
