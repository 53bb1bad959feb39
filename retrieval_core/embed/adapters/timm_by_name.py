"""timm by name: any network of timm with published weights, described by timm's own config of these weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_core.embed.adapters.timm import Timm
from retrieval_core.embed.cards import PERMISSIVE_LICENCES, Card
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "timm:"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def _dinov3(name: str, model: str, dim: int) -> Card:
    return Card(
        name=name,
        library="timm_by_name",
        model=model,
        tag="lvd1689m",
        dim=dim,
        size_px=256,
        resizable=False,
        unused_keys=("head.",),
        hub_repo=f"timm/{model}.lvd1689m",
        licence="dinov3-license",
        commercial=False,
    )


class TimmByName(Timm):
    """`timm:NAME.TAG`; the tag names the weights, since timm's default for a network may change."""

    library = "timm_by_name"
    cards = (
        _dinov3("dinov3_s16", "vit_small_patch16_dinov3", 384),
        _dinov3("dinov3_b16", "vit_base_patch16_dinov3", 768),
    )
    name_forms = ("timm:NAME.TAG",)

    def accepts(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def open_card(self, name: str) -> Card:
        """Return the card of `timm:NAME.TAG`. Raises `BadConfig` that lists the tags, or for a network of no use."""
        import timm
        from timm.models import get_pretrained_cfg, is_model, is_model_pretrained

        model, _, tag = name.removeprefix(PREFIX).partition(".")
        if not is_model(model):
            raise BadConfig(
                f"timm has no network {model!r}; `python -c 'import timm; print(timm.list_models())'` lists all"
            )
        if not is_model_pretrained(f"{model}.{tag}"):
            tags = ", ".join(PREFIX + full for full in timm.list_models(f"{model}.*", pretrained=True))
            raise BadConfig(f"{name} names no published weights; timm has {tags or f'none of {model}'}")
        published: Any = get_pretrained_cfg(f"{model}.{tag}")
        channels, height, width = published.input_size
        if channels != 3 or height != width or published.interpolation not in ("bicubic", "bilinear"):
            raise BadConfig(
                f"{name} takes {channels} channels of {width} x {height} px, resized by {published.interpolation}; "
                "only networks for RGB squares, resized bicubic or bilinear, can be used"
            )
        network = _on_meta(model, tag)
        layers = published.classifier if isinstance(published.classifier, tuple) else (published.classifier,)
        licence = published.license or "unknown"
        return Card(
            name=name,
            library=self.library,
            model=model,
            tag=tag,
            dim=getattr(network, "head_hidden_size", network.num_features),
            size_px=height,
            crop_fraction=published.crop_pct,
            crop="squash" if published.crop_mode == "squash" else "center",
            interpolation=published.interpolation,
            mean=published.mean,
            std=published.std,
            resizable=not published.fixed_input_size,
            unused_keys=tuple(f"{layer}." for layer in layers if layer),
            n_classes=published.num_classes if len(layers) == 1 else 0,
            hub_repo=published.hf_hub_id or "",
            hub_file=published.hf_hub_filename or WEIGHTS_FILES[0],
            url="" if published.hf_hub_id else published.url,
            licence=licence,
            commercial=licence in (*PERMISSIVE_LICENCES, "unknown"),
        )

    def weights_file(self, card: Card) -> Path:
        from retrieval_core.embed.hub import published_weights

        return published_weights(card, tuple(dict.fromkeys((card.hub_file, *WEIGHTS_FILES))))

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the network and its classifier; some files hold more, for training."""
        expected = _on_meta(card.model, card.tag).state_dict().keys()
        return {key: tensor for key, tensor in state.items() if key in expected or key.startswith(card.unused_keys)}


def _on_meta(model: str, tag: str) -> Any:
    """Return a network without its classifier and without memory for its tensors."""
    import timm
    import torch

    with torch.device("meta"):
        return timm.create_model(f"{model}.{tag}", pretrained=False, num_classes=0)


ADAPTER = TimmByName()
