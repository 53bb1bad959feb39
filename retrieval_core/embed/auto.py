"""Decide which backbone `embed.backbone = auto` means in a store."""

from __future__ import annotations

import logging

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.backbone_names import find_backbone
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import parse_weights
from retrieval_core.embed.registry import adapter_of, get_card
from retrieval_core.errors import WeightsUnavailable
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

AUTO = "auto"
FALLBACK = "efficientnet_lite0"  # its weights are installed, so that no hub is needed


def decide_backbone(store: Store, config: EmbedConfig) -> EmbedConfig:
    """Return the config with a backbone's name in place of `auto`; the release records that name.

    It is the backbone of production, or of the latest release where nothing is published, if that has the same weights:
    a hub that cannot be reached never changes it. Otherwise it is the first of `config.preferred` whose pretrained
    weights can be had, else `FALLBACK`. Weights `artifact:NAME` bring their own.
    """
    if config.backbone != AUTO:
        return config
    name, why = _choose(store, config)
    log.info("embed.backbone auto is %s, %s", name, why)
    return config.model_copy(update={"backbone": name, "preferred": ()})


def _choose(store: Store, config: EmbedConfig) -> tuple[str, str]:
    """Return the name of a backbone, and why it was chosen."""
    weights = parse_weights(config.weights)
    if weights.kind == "artifact":
        return find_backbone(store, weights.value).card, f"which {config.weights} is"
    reference = releases.read_reference(store)
    current = reference.nightly_config().embed if reference else None
    if current and current.weights == config.weights:
        return current.backbone, "as in the last release"
    for name in config.preferred if weights.kind == "pretrained" else ():
        try:
            card = get_card(name)
            adapter_of(card).weights_file(card)
        except WeightsUnavailable as error:
            log.warning("embed.preferred passes over %s: %s", name, error)
        else:
            return name, "the first of embed.preferred whose weights can be had"
    return FALLBACK, "whose pretrained weights are installed"
