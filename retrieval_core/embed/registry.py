"""Every backbone, by name, and the adapter of every library.

To add a backbone, write one file into `adapters/`; every module there is loaded and its `ADAPTER` registered:
1. subclass `Adapter`, or the adapter of a library that builds the network already, such as `Timm`;
2. give it a `library` name of its own and `cards`: name, model, width, size, mean and std, where the weights are;
3. implement `build`, unless it is inherited; import torch and the library inside the methods;
4. implement `convert_state_dict` where the published file spells the network's keys in another way;
5. end the module with `ADAPTER = YourAdapter()`.
Code outside this package calls `register(YourAdapter())`.
`tests/core/embed/test_registry_new_backbone.py` does all of it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from retrieval_core.embed import adapters
from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import Card
from retrieval_core.errors import BadConfig

ADAPTERS: dict[str, Adapter] = {}
CARDS: dict[str, Card] = {}


def register(adapter: Adapter) -> None:
    """Make the cards of an adapter available by name. Raises `ValueError` for a library or a name that is taken."""
    taken = {adapter.library} & ADAPTERS.keys() | {card.name for card in adapter.cards} & CARDS.keys()
    if taken:
        raise ValueError(f"cannot register the adapter of {adapter.library}: {', '.join(sorted(taken))} is taken")
    if any(card.library != adapter.library for card in adapter.cards):
        raise ValueError(f"every card of the adapter of {adapter.library} must name {adapter.library!r} as its library")
    ADAPTERS[adapter.library] = adapter
    CARDS.update({card.name: card for card in adapter.cards})


def get_card(name: str) -> Card:
    """Return the card of that name. Raises `BadConfig` that lists the names, and what `Adapter.open_card` raises."""
    return CARDS[name] if name in CARDS else _adapter_accepting(name).open_card(name)


def get_adapter(name: str) -> Adapter:
    """Return the adapter of the backbone of that name; nothing is read. Raises `BadConfig` that lists the names."""
    return adapter_of(CARDS[name]) if name in CARDS else _adapter_accepting(name)


def adapter_of(card: Card) -> Adapter:
    """Return the adapter of a card's library. Raises `BadConfig` where this version has none."""
    if card.library not in ADAPTERS:
        raise BadConfig(f"{card.name} is of library {card.library!r}; expected one of {', '.join(ADAPTERS)}")
    return ADAPTERS[card.library]


def _adapter_accepting(name: str) -> Adapter:
    for adapter in ADAPTERS.values():
        if adapter.accepts(name):
            return adapter
    forms = [form for adapter in ADAPTERS.values() for form in adapter.name_forms]
    raise BadConfig(f"unknown backbone {name!r}; embed.backbone is {' or '.join(forms)}, or one of {', '.join(CARDS)}")


for _module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
    register(import_module(_module.name).ADAPTER)
