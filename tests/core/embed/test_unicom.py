from __future__ import annotations

import hashlib

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.cards import CARDS
from retrieval_core.embed.networks import build_network
from retrieval_core.embed.unicom import SHAPES, Shape, Unicom
from retrieval_core.errors import WeightsInvalid, WeightsUnavailable

TINY = Shape(patch_px=8, width=32, depth=3, n_heads=4)
SIZES = [
    ("unicom_vit_b32", 7 * 7, 12, 768, 512, 117),
    ("unicom_vit_b16", 14 * 14, 12, 768, 768, 202),
    ("unicom_vit_l14", 16 * 16, 24, 1024, 768, 572),
    ("unicom_vit_l14_336", 24 * 24, 24, 1024, 768, 908),
]


@pytest.fixture(scope="module")
def tiny() -> Unicom:
    torch.manual_seed(0)
    network = Unicom(TINY, size_px=32, dim=12).eval().requires_grad_(False)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.02, 0.3) if tensor.ndim == 1 else tensor.normal_(0, 0.2)
    return network


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


def test_network_is_the_published_one(tiny):
    state, pixels = tiny.state_dict(), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for number, block in enumerate(tiny.blocks):
        x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(number))
        expected = published_block(x, state, f"blocks.{number}", TINY.n_heads)
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    expected = published_network(pixels, state, TINY)
    torch.testing.assert_close(tiny(pixels), expected, atol=1e-4, rtol=1e-4)
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


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SHAPES, "ViT-B/32", TINY)
    card = CARDS["unicom_vit_b32"].model_copy(update={"size_px": 32, "dim": 12})
    monkeypatch.setitem(CARDS, "unicom_vit_b32", card)
    return card.name


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_file_of_mixed_precision_is_read_with_or_without_a_prefix(prefix, tiny, small_card, tmp_path):
    mixed = {
        prefix + key: tensor.half() if tensor.ndim > 1 else tensor.clone() for key, tensor in tiny.state_dict().items()
    }
    torch.save(mixed, tmp_path / "FP16.pt")
    loaded = load_backbone(EmbedConfig(backbone=small_card, weights=f"file:{tmp_path / 'FP16.pt'}"))
    state = loaded.module.network.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(tensor, mixed[prefix + key].to(tensor.dtype)) for key, tensor in state.items())
    assert (loaded.preprocess.size_px, loaded.preprocess.crop, loaded.preprocess.crop_fraction) == (32, "center", 1.0)


def test_other_size_is_refused_naming_keys(tiny, small_card, monkeypatch, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "tiny.safetensors")
    monkeypatch.setitem(SHAPES, "ViT-B/32", TINY._replace(depth=4))
    with pytest.raises(WeightsInvalid, match=r"is not a unicom_vit_b32.*11 missing \(blocks.3.norm1.weight"):
        load_backbone(EmbedConfig(backbone=small_card, weights=f"file:{tmp_path / 'tiny.safetensors'}"))


# The released file


@pytest.fixture
def released(tiny, small_card, monkeypatch, tmp_path) -> bytes:
    """The bytes of a released file, whose checksum the card names; torch's cache is empty."""
    torch.save(tiny.state_dict(), tmp_path / "released")
    data = (tmp_path / "released").read_bytes()
    card = CARDS[small_card].model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    monkeypatch.setitem(CARDS, small_card, card)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return data


def test_released_file_is_fetched_once(released, small_card, monkeypatch, tiny):
    fetched = []

    def fetch(url, path, hash_prefix, progress):
        fetched.append(url)
        with open(path, "wb") as file:
            file.write(released)

    class Session:
        def head(self, url, timeout):
            assert url == CARDS[small_card].url

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        loaded = load_backbone(EmbedConfig(backbone=small_card))
    assert fetched == ["https://github.com/deepglint/unicom/releases/download/b32/FP16-ViT-B-32.pt"]
    assert torch.equal(loaded.module.network.pos_embed, tiny.pos_embed)


def test_damaged_copy_of_the_released_file_is_refused(released, small_card, tmp_path):
    path = tmp_path / "cache" / "checkpoints" / "FP16-ViT-B-32.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(released[:-1])
    with pytest.raises(WeightsInvalid, match=rf"{path} has sha256 .*, expected {CARDS[small_card].sha256}"):
        load_backbone(EmbedConfig(backbone=small_card))


def test_released_file_without_internet_says_the_way_out(released, small_card, monkeypatch):
    def no_internet():
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    expected = r"unicom_vit_b32 \(https://github.com/.*not known; give a copy of its FP16-ViT-B-32.pt as .*file:PATH"
    with pytest.raises(WeightsUnavailable, match=expected):
        load_backbone(EmbedConfig(backbone=small_card))
