"""The encoder of Stable Diffusion's autoencoder, with the modules and keys of diffusers' AutoencoderKL.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022. Importing this module
imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (128, 256, 512, 512)
LATENT_CHANNELS = 4
LATENT_SCALE = 0.18215
POOLED = 8
NORM_GROUPS, NORM_EPS = 32, 1e-6
_LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class VaeEncoder(nn.Module):
    """Map (n, 3, size, size) float32 in -1 to 1 to (n, 256) float32: the scaled mean of the latent, pooled to 8 by 8.

    The latent has 4 channels at an eighth of the picture's side: 4,096 numbers at 256 px, most of them texture that
    moves with the product. Means over an 8 by 8 grid keep where colours and shapes are; 4 by 4 would blur the shape,
    and 256 dimensions cost no more than other backbones.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.encoder = _Encoder(widths)
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        mean, _ = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)  # the other half is the log variance
        return functional.adaptive_avg_pool2d(LATENT_SCALE * mean, POOLED).flatten(1)


class _Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        n_in = (widths[0], *widths[:-1])
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            _Down(n_in[level], width, halve=level < last) for level, width in enumerate(widths)
        )
        self.mid_block = _Middle(widths[-1])
        self.conv_norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class _Down(nn.Module):
    """Two residual blocks, then a convolution that halves the side."""

    def __init__(self, n_in: int, n_out: int, halve: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_Residual(n_in, n_out), _Residual(n_out, n_out)])
        self.downsamplers = nn.ModuleList([_Halve(n_out)] if halve else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x)
        return x


class _Halve(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return halved


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in), nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2, self.conv2 = _norm(n_out), nn.Conv2d(n_out, n_out, 3, padding=1)
        if n_in != n_out:
            self.conv_shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class _Attention(nn.Module):
    """Self-attention with one head over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = _norm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (n, 1 head, positions, width)
        attended = functional.scaled_dot_product_attention(
            self.to_q(positions), self.to_k(positions), self.to_v(positions)
        )
        return x + self.to_out[0](attended[:, 0]).transpose(1, 2).reshape(x.shape)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, width, eps=NORM_EPS)


def current_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file under diffusers' current keys.

    In older files the attention's `to_q` is called `query`, and so on, and its matrices are (c, c, 1, 1) kernels.
    """
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        parent, _, layer = module.rpartition(".")
        if "attentions" in key:
            key = f"{parent}.{_LEGACY.get(layer, layer)}.{leaf}"
            tensor = torch.squeeze(tensor, (2, 3)) if tensor.ndim == 4 else tensor
        renamed[key] = tensor
    return renamed
