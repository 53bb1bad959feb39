"""Choose how to train on a catalogue: the objective by what it says of its pictures, the epochs by the time given."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.artifacts.catalog_rows import load_items, without_held_out
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.embed.backbones import LoadedBackbone
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.head.targets import build_targets
from retrieval_core.settings import Settings
from retrieval_core.train.captions import read_captions, reads_text
from retrieval_core.train.config import AnyTraining, AttributesTraining, CaptionsTraining, MarginTraining, RecipeConfig
from retrieval_core.train.inputs import find_start, load_start
from retrieval_core.train.split import choose_items

log = logging.getLogger(__name__)

MIN_PICTURES = 2_000  # with fewer, the network forgets more than it learns, and only a projection is trained
MIN_PAIRED = 0.5  # share of the pictures whose product shows another one, for products to be told apart
MIN_CAPTIONED = 0.5  # share of the pictures that have a caption, for captions to be learned
MIN_VAL_PRODUCTS = 5
MIN_SAMPLE = 1_000
MAX_EPOCHS = 12
SIDE_STEP_PX, MIN_SIDE_PX = 32, 64
MAX_ASPECT = 1.2  # of the median picture; a centre crop of longer ones would cut off much of the product
VALIDATION = 0.1  # seconds of validating an epoch and of reading its pictures, as a share of training on them
N_STEPS = 3  # that are timed, after one to warm up


class Recipe(NamedTuple):
    """A training config, and the sentences that say why it was chosen and how long it takes."""

    config: AnyTraining
    reasons: tuple[str, ...]


def choose_recipe(settings: Settings, catalog: str, fields: Ref | None, base: RecipeConfig) -> Recipe:
    """Return the training that suits a sealed catalogue and ends within about `base.minutes` on this machine.

    `fields` are those of its items. Raises `BadConfig` if they say nothing of the pictures that could be learned.
    """
    store = settings.open_store()
    items = without_held_out(choose_items(load_items(store, catalog), AttributesTraining()))
    if reads_text(store, base.start):
        items = items.with_columns(read_captions(store, fields, CaptionsTraining().text_fields).of(items))
    recipe = suit(items, base)
    start = load_start(store, find_start(store, recipe.config), recipe.config)
    rate = pictures_per_s(start, recipe.config, settings.n_threads)
    recipe = bound(recipe, len(items), rate, base.minutes)
    for reason in recipe.reasons:
        log.info("recipe: %s", reason)
    return recipe


def suit(items: pl.DataFrame, base: RecipeConfig) -> Recipe:
    """Return the objective, layers, size and framing for catalogue rows that are not held out.

    Their column `caption` is only looked at, and only needed, where the backbone reads texts.
    """
    keys: dict[str, Any] = {"backbone": base.backbone, "weights": base.weights, "known_products": base.known_products}
    reasons = [] if base.weights.startswith("artifact:") else [_shape(items, keys)]
    if len(items) < MIN_PICTURES:
        keys |= {"trained_layers": "projection", "embedding_dim": 512, "max_epochs": MAX_EPOCHS}
        reasons.append(f"only a projection is trained, as {len(items)} pictures are fewer than {MIN_PICTURES}")
    by_product = items.filter(pl.col("product_id").is_not_null() & (pl.len().over("product_id") > 1))
    n_products = by_product["product_id"].n_unique()
    tasks = build_targets(items, AttributesTraining().min_count).tasks
    if n_products > 1 and len(by_product) >= MIN_PAIRED * len(items):
        reasons.append(f"margin, as {len(by_product)} of {len(items)} pictures show {n_products} products repeatedly")
        share = float(np.clip(MIN_VAL_PRODUCTS / n_products, 0.1, 0.3))
        return Recipe(MarginTraining(**keys, alike="product", val_fraction=share), tuple(reasons))
    if tasks:
        reasons.append(f"attributes, as the catalogue says {', '.join(tasks)} of its {len(items)} pictures")
        return Recipe(AttributesTraining(**keys), tuple(reasons))
    captions = items["caption"].drop_nulls() if "caption" in items.columns else items["item_id"].clear()
    if captions.n_unique() > 1 and len(captions) >= MIN_CAPTIONED * len(items):
        reasons.append(f"captions, as {len(captions)} of {len(items)} pictures have one and nothing else is said")
        return Recipe(CaptionsTraining(**keys | {"embedding_dim": 0}), tuple(reasons))
    raise BadConfig(
        f"no recipe for {len(items)} pictures without products of several pictures, categories, attributes or labels; "
        "add some, start from a backbone that reads texts (such as clip_vit_b32) if the items have titles, or train "
        "rotation, which needs none"
    )


def _shape(items: pl.DataFrame, keys: dict[str, Any]) -> str:
    """Set size and framing by the median picture; return why."""
    width, height = (items[name].median() for name in ("width", "height"))
    if not isinstance(width, float) or not isinstance(height, float):
        return "the card's size and framing, as no picture's size is known"
    longer_px, shorter_px = max(width, height), min(width, height)
    side_px = max(MIN_SIDE_PX, -int(-longer_px // SIDE_STEP_PX) * SIDE_STEP_PX)
    card = get_card(keys["backbone"])
    card_px = card.size_px
    if side_px < card_px and card.resizable and not side_px % card.size_step_px:
        keys["size_px"] = side_px
    if longer_px > MAX_ASPECT * shorter_px:
        keys["framing"] = "squash"
    framing = "squashed, as a centre crop would cut them off" if "framing" in keys else "framed as the card says"
    return f"{keys.get('size_px', card_px)} px for pictures of {width:.0f} by {height:.0f} px, {framing}"


def pictures_per_s(start: LoadedBackbone, config: AnyTraining, n_threads: int) -> float:
    """Return how many pictures a second this machine trains on, measured on a few steps with drawn pictures."""
    import torch

    torch.set_num_threads(n_threads)
    module, side_px = start.module.train().to(memory_format=torch.channels_last), start.preprocess.size_px
    module.requires_grad_(config.trained_layers == "all")
    if module.projection is not None:
        module.projection.requires_grad_(True)
    pixels = np.random.default_rng(0).integers(0, 256, (config.batch_size, side_px, side_px, 3), np.uint8)
    for step in range(1 + N_STEPS):
        if step == 1:
            began_s = time.perf_counter()
        torch.autograd.backward(module(torch.from_numpy(pixels)).square().mean())
    return N_STEPS * len(pixels) / (time.perf_counter() - began_s)


def bound(recipe: Recipe, n_pictures: int, rate: float, minutes: float) -> Recipe:
    """Return the recipe with as many epochs, at most `MAX_EPOCHS`, as `minutes` allow at `rate` pictures a second.

    If not even one epoch over all pictures fits, it trains on a sample of at least `MIN_SAMPLE`.
    """
    seconds_an_epoch = n_pictures / rate * (1 + VALIDATION)
    n_epochs = int(np.clip(60 * minutes // seconds_an_epoch, 1, MAX_EPOCHS))
    keys: dict[str, Any] = {"max_epochs": n_epochs}
    if 60 * minutes < seconds_an_epoch:
        n_pictures = min(n_pictures, max(MIN_SAMPLE, int(60 * minutes / seconds_an_epoch * n_pictures)))
        keys["max_pictures"] = n_pictures
    total = n_epochs * n_pictures / rate * (1 + VALIDATION) / 60
    reason = f"{n_epochs} epochs of {n_pictures} pictures at {rate:.0f}/s: about {total:.0f} minutes of {minutes:.0f}"
    return Recipe(recipe.config.model_copy(update=keys), (*recipe.reasons, reason))
