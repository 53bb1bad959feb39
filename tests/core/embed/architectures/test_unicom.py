from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from retrieval_core.embed.architectures.unicom import SHAPES, Shape
from retrieval_core.embed.networks import build_network
from retrieval_core.embed.registry import CARDS

TINY = Shape(patch_px=8, width=32, depth=3, n_heads=4)
SIZES = [
    ("unicom_vit_b32", 7 * 7, 12, 768, 512, 117),
    ("unicom_vit_b16", 14 * 14, 12, 768, 768, 202),
    ("unicom_vit_l14", 16 * 16, 24, 1024, 768, 572),
    ("unicom_vit_l14_336", 24 * 24, 24, 1024, 768, 908),
]


def published_block(x: torch.Tensor, state: dict[str, torch.Tensor], block: str, n_heads: int) -> torch.Tensor:
    """x + attention(norm1(x)), then x + mlp(norm2(x)): qkv without bias, ReLU6, LayerNorm with eps 1e-5."""
    n, length, width = x.shape

    def weight(name: str) -> torch.Tensor:
        return state[f"{block}.{name}"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * weight(f"{name}.weight") + weight(f"{name}.bias")

    q, k, v = (norm(x, "norm1") @ weight("attn.qkv.weight").T).split(width, dim=-1)
    heads = [part.reshape(n, length, n_heads, -1).transpose(1, 2) for part in (q, k, v)]
    likeness = (heads[0] @ heads[1].transpose(2, 3) / (width // n_heads) ** 0.5).softmax(-1)
    seen = (likeness @ heads[2]).transpose(1, 2).reshape(n, length, width)
    x = x + seen @ weight("attn.proj.weight").T + weight("attn.proj.bias")
    hidden = (norm(x, "norm2") @ weight("mlp.fc1.weight").T + weight("mlp.fc1.bias")).clamp(0, 6)
    return x + hidden @ weight("mlp.fc2.weight").T + weight("mlp.fc2.bias")


def published_network(pixels: torch.Tensor, state: dict[str, torch.Tensor], shape: Shape) -> torch.Tensor:
    patches = functional.conv2d(
        pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], shape.patch_px
    )
    x = patches.flatten(2).transpose(1, 2) + state["pos_embed"]
    for number in range(shape.depth):
        x = published_block(x, state, f"blocks.{number}", shape.n_heads)
    x = functional.layer_norm(x, (shape.width,), state["norm.weight"], state["norm.bias"], 1e-5).flatten(1)
    for linear, norm in (("feature.0", "feature.1"), ("feature.2", "feature.3")):
        x = x @ state[f"{linear}.weight"].T
        spread = (state[f"{norm}.running_var"] + 2e-5).sqrt()
        x = (x - state[f"{norm}.running_mean"]) / spread * state[f"{norm}.weight"] + state[f"{norm}.bias"]
    return x


def test_network_is_the_published_one(tiny_unicom):
    state, pixels = tiny_unicom.state_dict(), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for number, block in enumerate(tiny_unicom.blocks):
        x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(number))
        expected = published_block(x, state, f"blocks.{number}", TINY.n_heads)
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    expected = published_network(pixels, state, TINY)
    torch.testing.assert_close(tiny_unicom(pixels), expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "patches", "depth", "width", "dim", "million"), SIZES)
def test_keys_and_shapes_are_those_of_the_published_files(name, patches, depth, width, dim, million):
    card = CARDS[name]
    with torch.device("meta"):
        network = build_network(card, card.size_px, seed=0)
    patch_px = SHAPES[card.model].patch_px
    expected = {
        "patch_embed.proj.weight": (width, 3, patch_px, patch_px),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, patches, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "feature.0.weight": (width, patches * width),
        "feature.2.weight": (dim, width),
    }
    for norm, size in ((1, width), (3, dim)):
        parts = ("weight", "bias", "running_mean", "running_var")
        expected |= {f"feature.{norm}.{part}": (size,) for part in parts} | {f"feature.{norm}.num_batches_tracked": ()}
    for number in range(depth):
        shapes = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        expected |= {f"blocks.{number}.{key}": shape for key, shape in shapes.items()}
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == million
    assert card.dim == dim
