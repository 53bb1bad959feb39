"""The names of trained backbones: find the backbone that `artifact:NAME` means, and point a name at another."""

from __future__ import annotations

import re

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import MANIFEST, Backbone, Ref
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_PREFIX = "artifact:"


def find_backbone(store: Store, name: str) -> Backbone:
    """Return the backbone of a name: `NAME@ALIAS`, `NAME` (its production), a fingerprint or the unique start of one.

    Raises `BadConfig`, which lists the names in the store.
    """
    alias_name = name if "@" in name else f"{name}@{releases.PRODUCTION}"
    alias = releases.read_alias(store, alias_name) if _is_alias(alias_name) else None
    if alias:
        fingerprint = alias.release
    else:
        matches = [known for known in _fingerprints(store) if name and known.startswith(name)]
        if len(matches) > 1:
            raise BadConfig(f"backbone {name!r} is ambiguous: {', '.join(matches)}")
        fingerprint = matches[0] if matches else ""
    backbone = Backbone.find(store, fingerprint) if fingerprint else None
    if backbone is None:
        raise BadConfig(f"no backbone {name!r} in {store.url}; it has {_known(store)}")
    return backbone


def frozen_backbones(store: Store, card: str) -> list[Backbone]:
    """Return the backbones of a card that were not trained here."""
    found = [Backbone.find(store, fingerprint) for fingerprint in _fingerprints(store)]
    return [backbone for backbone in found if backbone and backbone.card == card and not backbone.objective]


def point_backbone(store: Store, name: str, alias: str, fingerprint: str) -> None:
    """Point `NAME@ALIAS` at a backbone of the store. Raises `BadConfig` for a bad name or an unknown fingerprint."""
    check_name(name)
    check_name(alias)
    if Backbone.find(store, fingerprint) is None:
        raise BadConfig(f"{name}@{alias} cannot mean {fingerprint}: no such backbone in {store.url}")
    releases.point_alias(store, f"{name}@{alias}", fingerprint)


def check_name(name: str) -> None:
    """Check that a text can name a backbone. Raises `BadConfig`."""
    if not _NAME.fullmatch(name):
        raise BadConfig(f"{name!r} cannot name a backbone; expected letters, digits and ._+-")


def named_backbone(store: Store, config: EmbedConfig) -> Backbone | None:
    """Return the backbone that weights `artifact:NAME` refer to, None for other weights.

    A trained backbone brings its card, size and framing. Raises `BadConfig` for an unknown name, and where the config
    sets another card, size or framing.
    """
    if not config.weights.startswith(_PREFIX):
        return None
    backbone = find_backbone(store, config.weights.removeprefix(_PREFIX))
    if backbone.card != config.backbone:
        raise BadConfig(
            f"embed.weights {config.weights} is a {backbone.card}, but embed.backbone is {config.backbone}; "
            f"set embed.backbone to {backbone.card}"
        )
    if config.size_px not in (0, backbone.size_px):
        raise BadConfig(
            f"embed.weights {config.weights} sees squares of {backbone.size_px} px, "
            f"but embed.size_px is {config.size_px}; set it to 0"
        )
    if config.framing != "card":
        raise BadConfig(
            f"embed.weights {config.weights} brings its own framing, "
            f"but embed.framing is {config.framing}; set it to card"
        )
    return backbone


def _is_alias(text: str) -> bool:
    name, _, alias = text.partition("@")
    return bool(_NAME.fullmatch(name) and _NAME.fullmatch(alias))


def _fingerprints(store: Store) -> list[str]:
    keys = store.list(f"{Backbone.folder}/")
    return [key.split("/")[1] for key in keys if key.endswith(f"/{MANIFEST}")]


def _known(store: Store) -> str:
    """List the names and fingerprints of all backbones, for a message."""
    aliases = [name for name in releases.alias_names(store) if releases.is_backbone_alias(name)]
    backbones = [Backbone.open(store, Ref(kind="Backbone", key=f"{Backbone.folder}/{f}")) for f in _fingerprints(store)]
    anonymous = [f"{known.fingerprint[:12]} ({known.objective or 'frozen'} {known.card})" for known in backbones]
    return ", ".join([*aliases, *anonymous]) or "none"
