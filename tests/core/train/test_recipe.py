"""The training that suits a catalogue, and how long it may take."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.settings import Settings
from retrieval_core.train.config import AttributesTraining, CaptionsTraining, MarginTraining, RecipeConfig
from retrieval_core.train.recipe import MAX_EPOCHS, MIN_PICTURES, MIN_SAMPLE, Recipe, bound, choose_recipe, suit
from tests.ingesting import ingest_source

BASE = RecipeConfig(backbone="resnet18", weights="random:0")


def catalogue(n_items=2 * MIN_PICTURES, width=300, height=300, **columns):
    ids = [f"{number:05}" for number in range(n_items)]
    rows = {"item_id": ids, "image_uri": ids}
    rows |= {name: [f"{name} {value(number)}" for number in range(n_items)] for name, value in columns.items()}
    return conform(pl.DataFrame(rows), "drawn").with_columns(width=pl.lit(width), height=pl.lit(height))


def test_products_of_several_pictures_are_told_apart():
    recipe = suit(catalogue(product_id=lambda number: number // 3, category=lambda number: number % 5), BASE)
    assert isinstance(recipe.config, MarginTraining)
    assert (recipe.config.alike, recipe.config.trained_layers) == ("product", "all")
    assert "margin, as 3999 of 4000 pictures show 1333 products repeatedly" in recipe.reasons


def test_where_most_products_have_one_picture_what_the_catalogue_says_is_learned():
    items = catalogue(product_id=lambda number: max(number, 1000), category=lambda number: number % 5)
    recipe = suit(items, BASE)
    assert isinstance(recipe.config, AttributesTraining)
    assert "attributes, as the catalogue says category of its 4000 pictures" in recipe.reasons


@pytest.mark.parametrize("known", [True, False])
def test_a_recipe_passes_on_whether_products_are_known(known):
    items = catalogue(product_id=lambda number: number // 3)
    assert suit(items, BASE.model_copy(update={"known_products": known})).config.known_products is known


def test_few_pictures_train_a_projection_only():
    recipe = suit(catalogue(200, category=lambda number: number % 5), BASE)
    assert (recipe.config.trained_layers, recipe.config.embedding_dim) == ("projection", 512)
    assert any("only a projection is trained, as 200 pictures" in reason for reason in recipe.reasons)


@pytest.mark.parametrize(
    ("width", "height", "size_px", "framing"),
    [(60, 80, 96, "squash"), (300, 300, 0, "card"), (800, 600, 0, "squash"), (100, 100, 128, "card")],
)
def test_small_pictures_train_small_and_long_ones_whole(width, height, size_px, framing):
    config = suit(catalogue(width=width, height=height, category=lambda number: number % 5), BASE).config
    assert (config.size_px, config.framing) == (size_px, framing)


def test_a_backbone_of_the_store_keeps_its_size_and_framing():
    base = RecipeConfig(backbone="resnet18", weights="artifact:ours")
    config = suit(catalogue(width=60, height=80, category=lambda number: number % 5), base).config
    assert (config.size_px, config.framing) == (0, "card")


def titled(n_items=200, n_titled=200, **columns):
    items = catalogue(n_items, **columns)
    titles = [f"title {row % 50}" if row < n_titled else None for row in range(n_items)]
    return items.with_columns(pl.Series("caption", titles, pl.String))


def test_titles_are_learned_where_nothing_else_is_said():
    base = RecipeConfig(backbone="clip_vit_b32")
    recipe = suit(titled(width=60, height=80), base)
    assert isinstance(recipe.config, CaptionsTraining)
    assert (recipe.config.trained_layers, recipe.config.embedding_dim) == ("projection", 0)
    assert (recipe.config.size_px, recipe.config.framing) == (0, "squash"), "CLIP takes one size only"
    assert "captions, as 200 of 200 pictures have one and nothing else is said" in recipe.reasons
    assert isinstance(suit(titled(category=lambda number: number % 5), base).config, AttributesTraining)
    with pytest.raises(BadConfig, match="no recipe for 200 pictures"):
        suit(titled(n_titled=99), base)


def test_a_catalogue_that_says_nothing_has_no_recipe():
    with pytest.raises(BadConfig, match=r"no recipe for 4000 pictures .*reads texts .*rotation, which needs none"):
        suit(catalogue(), BASE)


@given(st.integers(2, 100_000), st.floats(1, 1e4), st.floats(0.1, 600))
def test_the_time_given_is_used_and_not_exceeded_but_for_a_smallest_sample(n_pictures, rate, minutes):
    config = bound(Recipe(AttributesTraining(), ()), n_pictures, rate, minutes).config
    seconds = config.max_epochs * min(n_pictures, config.max_pictures) / rate
    assert seconds <= 60 * minutes or min(n_pictures, config.max_pictures) <= MIN_SAMPLE
    is_whole = config.max_epochs == MAX_EPOCHS and config.max_pictures >= n_pictures
    assert is_whole or seconds >= 0.4 * 60 * minutes


def test_a_recipe_says_what_it_picked_why_and_for_how_long(tmp_path: Path, caplog):
    settings = Settings.load(store=str(tmp_path / "store"), cache_dir=tmp_path / "cache", threads=1, device="cpu")
    source = f"synthetic:{tmp_path / 'catalog'}?products=8&views=3&size_px=64"
    catalog = ingest_source(settings, source, IngestConfig(n_holdout=3)).catalog
    base = BASE.model_copy(update={"minutes": 1e-4})
    with caplog.at_level(logging.INFO):
        recipe = choose_recipe(settings, catalog.name, None, base)
    assert isinstance(recipe.config, MarginTraining)
    assert (recipe.config.size_px, recipe.config.max_epochs) == (64, 1)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("recipe: ")]
    assert said == [f"recipe: {reason}" for reason in recipe.reasons]
    assert "epochs of" in said[-1]
