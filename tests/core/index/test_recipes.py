import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.config import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.recipes import choose_recipe, choose_shards, shard_of

AUTO = IndexConfig()


@pytest.mark.parametrize(
    ("n_rows", "key"),
    [
        (0, "Flat"),
        (1, "Flat"),
        (20_000, "Flat"),
        (20_001, "IVF512,Flat"),
        (200_000, "IVF2048,Flat"),
        (200_001, "IVF2048,SQ8"),
    ],
)
def test_the_key_follows_from_the_size(n_rows: int, key: str) -> None:
    assert choose_recipe(n_rows, 64, AUTO).key == key


@settings(deadline=None)
@given(n_rows=st.integers(0, 10**9), dim=st.integers(1, 4096), sample_rows=st.integers(624, 10**6))
def test_a_chosen_recipe_can_always_be_trained(n_rows: int, dim: int, sample_rows: int) -> None:
    recipe = choose_recipe(n_rows, dim, IndexConfig(sample_rows=sample_rows))
    nlist = int(recipe.key.split(",")[0].removeprefix("IVF")) if recipe.key.startswith("IVF") else 0
    assert nlist * 39 <= recipe.train_rows <= min(n_rows, sample_rows)
    assert recipe.nprobe <= nlist
    assert (recipe.nprobe == 0) == (nlist == 0)


def test_the_choice_is_explained_in_numbers() -> None:
    why = choose_recipe(50_000, 64, AUTO).why
    assert "50,000 rows of 256 bytes (12.8 MB)" in why
    assert "1,024 lists" in why
    assert "nprobe 128 visits 12.5%" in why


def test_a_small_sample_means_fewer_lists() -> None:
    assert choose_recipe(1_000_000, 64, IndexConfig(sample_rows=5_000)).key == "IVF128,SQ8"


def test_a_sample_too_small_for_any_lists_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"index\.sample_rows 100 trains 2 inverted lists"):
        choose_recipe(50_000, 64, IndexConfig(sample_rows=100))


def test_a_named_recipe_is_taken_as_it_is() -> None:
    recipe = choose_recipe(5_000, 64, IndexConfig(recipe="IVF64,SQ8", nprobe=7))
    assert (recipe.key, recipe.nprobe, recipe.train_rows) == ("IVF64,SQ8", 7, 5_000)
    assert "index.recipe" in recipe.why
    assert "index.nprobe" in recipe.why


@pytest.mark.parametrize("key", ["Flat", "SQ8", "HNSW16", "PQ8", "PCA32,IVF16,Flat", "IVF16,Flat,RFlat"])
def test_kinds_outside_the_table_may_be_named(key: str) -> None:
    assert choose_recipe(10_000, 64, IndexConfig(recipe=key)).key == key


@pytest.mark.parametrize("key", ["nonsense", "", "PQ7", "IVF64", "LSH", "IVF0,Flat", "IDMap2,Flat", "Flat "])
def test_a_key_faiss_cannot_make_is_refused_by_name(key: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        choose_recipe(10_000, 64, IndexConfig(recipe=key))
    assert repr(key) in str(refusal.value)
    assert "faiss::" not in str(refusal.value)


def test_more_lists_than_the_catalogue_can_train_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"needs 39,936 training rows .* got 1,000; take at most 25 lists"):
        choose_recipe(1_000, 64, IndexConfig(recipe="IVF1024,Flat"))


def test_nprobe_never_exceeds_the_lists() -> None:
    assert choose_recipe(50_000, 64, IndexConfig(nprobe=10**6)).nprobe == 1024


@pytest.mark.parametrize(("n_rows", "dim"), [(-1, 64), (10, 0)])
def test_impossible_sizes_are_refused(n_rows: int, dim: int) -> None:
    with pytest.raises(BadConfig):
        choose_recipe(n_rows, dim, AUTO)


def test_the_config_overrides_the_number_of_shards() -> None:
    assert choose_shards(10, IndexConfig(shards=7)) == 7


@given(n_rows=st.integers(0, 10**9))
def test_shards_are_the_fewest_power_of_two_that_keeps_them_small(n_rows: int) -> None:
    n_shards = choose_shards(n_rows, AUTO)
    assert math.log2(n_shards).is_integer()
    assert n_rows <= n_shards * 100_000
    assert n_shards == 1 or n_rows > n_shards // 2 * 100_000


def test_a_row_keeps_its_shard_for_ever() -> None:
    # The published first outputs of SplitMix64 seeded with 1234567: its finaliser over multiples of the golden ratio.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + n * 0x9E3779B97F4A7C15) % 2**64 for n in (1, 2, 3, 4)]
    ids = np.array(states, np.uint64).view(np.int64)
    for n_shards in (1, 8, 1000, 2**31):
        assert shard_of(ids, n_shards).tolist() == [output % n_shards for output in outputs]


@given(ids=st.lists(st.integers(0, 2**63 - 1), max_size=50), n_shards=st.integers(1, 4096))
def test_a_rows_shard_does_not_depend_on_its_neighbours(ids: list[int], n_shards: int) -> None:
    together = shard_of(np.array(ids, np.int64), n_shards)
    alone = [shard_of(np.array([i]), n_shards)[0] for i in ids]
    assert together.tolist() == alone
    assert all(0 <= shard < n_shards for shard in alone)


@pytest.mark.parametrize("stride", [1, 8, 2**32])
def test_patterned_ids_spread_evenly(stride: int) -> None:
    counts = np.bincount(shard_of(np.arange(8_000) * stride, 8), minlength=8)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_doubling_the_count_only_splits_shards() -> None:
    ids = np.arange(1_000)
    assert (shard_of(ids, 16) % 8 == shard_of(ids, 8)).all()


def test_no_shards_is_refused() -> None:
    with pytest.raises(BadConfig, match="at least 1 shard"):
        shard_of(np.array([1]), 0)
