from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from retrieval_core.embed.architectures.vae import VaeEncoder, current_keys
from retrieval_core.embed.backbones import LoadedBackbone, save_backbone
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.networks import ImageEmbedder, build_network
from retrieval_core.embed.registry import CARDS
from retrieval_core.embed.weights import fill_network
from retrieval_core.errors import WeightsInvalid
from retrieval_core.images import Preprocess

CARD = CARDS["vae_sd_mse"]
WIDTHS = (32, 32, 64)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny() -> VaeEncoder:
    torch.manual_seed(0)
    network = VaeEncoder(WIDTHS).eval().requires_grad_(False)
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.normal_(0.5, 0.3)  # norms that change what goes through them, and biases
    return network


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Of the encoder's half of diffusion_pytorch_model.safetensors."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.conv_in.weight": (128, 3, 3, 3), "encoder.conv_in.bias": (128,)}

    def residual(name: str, n_in: int, n_out: int) -> None:
        for layer, size in (("norm1", n_in), ("norm2", n_out)):
            shapes[f"{name}.{layer}.weight"] = shapes[f"{name}.{layer}.bias"] = (size,)
        for layer, size in (("conv1", n_in), ("conv2", n_out)):
            shapes[f"{name}.{layer}.weight"], shapes[f"{name}.{layer}.bias"] = (n_out, size, 3, 3), (n_out,)
        if n_in != n_out:
            shapes[f"{name}.conv_shortcut.weight"] = (n_out, n_in, 1, 1)
            shapes[f"{name}.conv_shortcut.bias"] = (n_out,)

    for level, (n_in, n_out) in enumerate([(128, 128), (128, 256), (256, 512), (512, 512)]):
        residual(f"encoder.down_blocks.{level}.resnets.0", n_in, n_out)
        residual(f"encoder.down_blocks.{level}.resnets.1", n_out, n_out)
        if level < 3:
            name = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (n_out, n_out, 3, 3), (n_out,)
    residual("encoder.mid_block.resnets.0", 512, 512)
    residual("encoder.mid_block.resnets.1", 512, 512)
    attention = "encoder.mid_block.attentions.0"
    shapes[f"{attention}.group_norm.weight"] = shapes[f"{attention}.group_norm.bias"] = (512,)
    for layer in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes[f"{attention}.{layer}.weight"], shapes[f"{attention}.{layer}.bias"] = (512, 512), (512,)
    shapes["encoder.conv_norm_out.weight"] = shapes["encoder.conv_norm_out.bias"] = (512,)
    shapes["encoder.conv_out.weight"], shapes["encoder.conv_out.bias"] = (8, 512, 3, 3), (8,)
    shapes["quant_conv.weight"], shapes["quant_conv.bias"] = (8, 8, 1, 1), (8,)
    return shapes


def test_keys_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        network = build_network(CARD, CARD.size_px, seed=0)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == published_shapes()
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == 34


def published_embedding(state: State, x: torch.Tensor) -> torch.Tensor:
    """The encoder from its weights alone, as diffusers runs it."""

    def conv(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        groups = x.reshape(len(x), 32, -1)
        mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
        flat = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
        return flat * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)

    def swish(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def residual(x: torch.Tensor, name: str) -> torch.Tensor:
        inner = conv(swish(norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        inner = conv(swish(norm(inner, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return inner + (conv(x, f"{name}.conv_shortcut") if f"{name}.conv_shortcut.weight" in state else x)

    def attention(x: torch.Tensor, name: str) -> torch.Tensor:
        places = norm(x, f"{name}.group_norm").flatten(2).transpose(1, 2)
        q, k, v = (
            places @ state[f"{name}.{to}.weight"].T + state[f"{name}.{to}.bias"] for to in ("to_q", "to_k", "to_v")
        )
        seen = (q @ k.transpose(1, 2) / x.shape[1] ** 0.5).softmax(-1) @ v
        out = seen @ state[f"{name}.to_out.0.weight"].T + state[f"{name}.to_out.0.bias"]
        return x + out.transpose(1, 2).reshape(x.shape)

    x = conv(x, "encoder.conv_in", padding=1)
    for level in range(len(WIDTHS)):
        block = f"encoder.down_blocks.{level}"
        x = residual(residual(x, f"{block}.resnets.0"), f"{block}.resnets.1")
        if level < len(WIDTHS) - 1:
            x = conv(functional.pad(x, (0, 1, 0, 1)), f"{block}.downsamplers.0.conv", stride=2)
    middle = "encoder.mid_block"
    x = residual(attention(residual(x, f"{middle}.resnets.0"), f"{middle}.attentions.0"), f"{middle}.resnets.1")
    x = conv(swish(norm(x, "encoder.conv_norm_out")), "encoder.conv_out", padding=1)
    latent = 0.18215 * conv(x, "quant_conv")[:, :4]
    side = latent.shape[-1] // 8
    return latent.reshape(len(x), 4, 8, side, 8, side).mean((3, 5)).flatten(1)


def test_embedding_is_the_pooled_mean_of_the_published_latent(tiny):
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = published_embedding(tiny.state_dict(), pixels)
    assert expected.shape == (3, CARD.dim)
    torch.testing.assert_close(tiny(pixels), expected, atol=1e-5, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def legacy(state: State) -> State:
    """The same weights as older files spell them, with the decoder that comes along."""
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    out: State = {"decoder.conv_in.weight": torch.zeros(1), "post_quant_conv.bias": torch.zeros(4)}
    for key, tensor in state.items():
        for new, old in spelling.items():
            if f".{new}." in key:
                key = key.replace(new, old)
                tensor = tensor[:, :, None, None] if key.endswith("weight") else tensor
        out[key] = tensor
    return out


def test_legacy_spelling_of_the_attention_is_the_same_network(tiny):
    state = tiny.state_dict()
    old = legacy(state)
    assert old["encoder.mid_block.attentions.0.query.weight"].shape == (64, 64, 1, 1)
    assert "encoder.mid_block.attentions.0.to_q.weight" not in old
    network = VaeEncoder(WIDTHS)
    fill_network(network, current_keys(old), CARD, "old")
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    fill_network(network, current_keys(state | {"decoder.conv_in.weight": torch.zeros(1)}), CARD, "new")


def test_file_without_the_encoder_is_refused_naming_keys():
    with pytest.raises(WeightsInvalid, match=r"not a vae_sd_mse.*missing \(encoder.conv_in.weight, .*unknown \(conv1"):
        fill_network(VaeEncoder(WIDTHS), current_keys({"conv1.weight": torch.zeros(1)}), CARD, "odd")


def test_exported_graph_gives_the_same_vectors(tiny: VaeEncoder, tmp_path: Path):
    size_px = 40  # a latent whose side the pooling does not divide
    loaded = LoadedBackbone(CARD, Preprocess(size_px=size_px), ImageEmbedder(CARD, tiny))
    save_backbone(loaded, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, size_px, size_px, 3), dtype=np.uint8)
    expected = tiny(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(open_engine(tmp_path, "cpu", 1).embed(pixels), expected, atol=1e-4)
