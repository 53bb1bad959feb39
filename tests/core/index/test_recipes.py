import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.recipes import Recipe, choose_recipe, choose_shards, scan_bytes, shard_of
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE

AUTO = IndexConfig()


@pytest.mark.parametrize(
    ("n_rows", "key"),
    [
        (0, "Flat"),
        (1, "Flat"),
        (20_000, "Flat"),
        (20_001, "IVF256,Flat"),
        (200_000, "IVF1024,Flat"),
        (200_001, "IVF1024,SQ8"),
        (1_000_000, "IVF2048,SQ8"),
    ],
)
def test_the_key_follows_from_the_size(n_rows: int, key: str) -> None:
    assert choose_recipe(n_rows, 64, 512, AUTO).key == key


@given(n_rows=st.integers(0, 10**9), dim=st.integers(1, 4096), sample_rows=st.integers(624, 10**5))
def test_a_chosen_recipe_can_always_be_trained(n_rows: int, dim: int, sample_rows: int) -> None:
    recipe = choose_recipe(n_rows, dim, dim, IndexConfig(sample_rows=sample_rows))
    nlist = int(recipe.key.split(",")[0].removeprefix("IVF")) if recipe.key.startswith("IVF") else 0
    assert nlist * 39 <= recipe.train_rows <= min(n_rows, sample_rows)
    assert recipe.nprobe <= nlist
    assert (recipe.nprobe == 0) == (nlist == 0)


def test_the_choice_is_explained_in_numbers() -> None:
    why = choose_recipe(50_000, 64, 512, AUTO).why
    assert "50,000 rows of 256 bytes (12.8 MB)" in why
    assert "512 lists of about 97 rows train on 32,768" in why
    assert "about 91 of them (17.8%) will be visited" in why


def test_a_small_sample_means_fewer_lists() -> None:
    assert choose_recipe(1_000_000, 64, 64, IndexConfig(sample_rows=5_000)).key == "IVF128,SQ8"


def test_a_sample_too_small_for_any_lists_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"index\.sample_rows 100 trains 2 inverted lists"):
        choose_recipe(50_000, 64, 64, IndexConfig(sample_rows=100))


def test_a_named_recipe_is_taken_as_it_is() -> None:
    recipe = choose_recipe(5_000, 64, 64, IndexConfig(recipe="IVF64,SQ8", nprobe=7))
    assert (recipe.key, recipe.nprobe, recipe.train_rows) == ("IVF64,SQ8", 7, 5_000)
    assert "index.recipe" in recipe.why
    assert "index.nprobe" in recipe.why


@pytest.mark.parametrize("key", ["Flat", "SQ8", "HNSW16", "PQ8", "PCA32,IVF16,Flat", "IVF16,Flat,RFlat"])
def test_kinds_outside_the_table_may_be_named(key: str) -> None:
    assert choose_recipe(10_000, 64, 64, IndexConfig(recipe=key)).key == key


@pytest.mark.parametrize("key", ["nonsense", "", "PQ7", "IVF64", "LSH", "IVF0,Flat", "IDMap2,Flat", "Flat "])
def test_a_key_faiss_cannot_make_is_refused_by_name(key: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        choose_recipe(10_000, 64, 64, IndexConfig(recipe=key))
    assert repr(key) in str(refusal.value)
    assert "faiss::" not in str(refusal.value)


def test_more_lists_than_the_catalogue_can_train_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"needs 39,936 training rows .* got 1,000; take at most 25 lists"):
        choose_recipe(1_000, 64, 64, IndexConfig(recipe="IVF1024,Flat"))


def test_nprobe_never_exceeds_the_lists() -> None:
    assert choose_recipe(50_000, 64, 64, IndexConfig(nprobe=10**6)).nprobe == 512


@pytest.mark.parametrize(("n_rows", "dim", "full_dim"), [(-1, 64, 64), (10, 0, 64), (10, 64, 0)])
def test_impossible_sizes_are_refused(n_rows: int, dim: int, full_dim: int) -> None:
    with pytest.raises(BadConfig, match="0 or more rows of 1 or more dimensions"):
        choose_recipe(n_rows, dim, full_dim, AUTO)


@pytest.mark.parametrize(
    ("memory_gb", "key"),
    [(0, "IVF512,Flat"), (1, "IVF512,Flat"), (0.03, "IVF512,Flat"), (0.01, "IVF512,SQ8"), (0.004, "IVF512,PQ32x4fs")],
)
def test_under_a_limit_the_most_accurate_kind_that_fits_is_chosen(memory_gb: float, key: str) -> None:
    recipe = choose_recipe(50_000, 64, 512, IndexConfig(memory_gb=memory_gb))
    assert recipe.key == key
    assert not memory_gb or recipe.memory_bytes <= memory_gb * 1e9


def test_a_kind_chosen_for_its_memory_names_what_the_better_kind_would_need() -> None:
    why = choose_recipe(50_000, 64, 512, IndexConfig(memory_gb=0.01)).why
    assert "IVF512,Flat would need 0.0137 GB of the 0.01 GB allowed" in why
    assert "would need" not in choose_recipe(50_000, 64, 512, IndexConfig(memory_gb=1)).why


@pytest.mark.parametrize(("n_rows", "recipe"), [(50_000, "auto"), (300, "auto"), (50_000, "HNSW32"), (0, "Flat")])
def test_an_index_that_does_not_fit_in_memory_is_refused_with_the_numbers(n_rows: int, recipe: str) -> None:
    with pytest.raises(BadConfig, match=rf"allows 1e-08 GB, and {n_rows:,} rows of 64 .* GB as .*fewer dimensions"):
        choose_recipe(n_rows, 64, 512, IndexConfig(memory_gb=1e-8, recipe=recipe))


@given(
    n_rows=st.integers(0, 10**7),
    dim=st.integers(1, 600),
    memory_gb=st.floats(0.001, 10),
    shards=st.sampled_from([0, 3]),
)
def test_a_recipe_keeps_its_memory_or_is_refused(n_rows: int, dim: int, memory_gb: float, shards: int) -> None:
    try:
        recipe = choose_recipe(n_rows, dim, dim, IndexConfig(memory_gb=memory_gb, shards=shards))
    except BadConfig as refusal:
        assert "index.memory_gb" in str(refusal)  # noqa: PT017
    else:
        assert recipe.memory_bytes <= memory_gb * 1e9


def built_bytes(recipe: Recipe, vectors: np.ndarray, full: np.ndarray, n_shards: int, folder: Path) -> tuple[int, int]:
    template = train_template(vectors, recipe, seed=0)
    row_ids = np.arange(len(vectors)) * 7
    shard = shard_of(row_ids, n_shards)
    for number in range(n_shards):
        rows = shard == number
        build_shard(template, row_ids[rows], vectors[rows], full[rows], folder / str(number))
    return tuple(sum(path.stat().st_size for path in folder.glob(f"*/{name}")) for name in (INDEX_FILE, VECTORS_FILE))


@pytest.mark.parametrize(("n_rows", "dim", "n_shards"), [(2_000, 32, 1), (5_000, 48, 4), (20_000, 17, 3)])
@pytest.mark.parametrize(
    "key", ["Flat", "IVF32,Flat", "IVF32,SQ8", "IVF32,PQ{m}x4fs", "HNSW8", "SQ8", "PCA8,IVF16,Flat"]
)
def test_predicted_bytes_are_those_that_are_written(
    key: str, n_rows: int, dim: int, n_shards: int, tmp_path: Path
) -> None:
    if key == "HNSW8":
        n_rows = min(n_rows, 3_000)
    rng = np.random.default_rng(n_rows)
    drawn = rng.standard_normal((20, dim))[rng.integers(0, 20, n_rows)] + rng.standard_normal((n_rows, dim))
    vectors = drawn.astype(np.float32)
    config = IndexConfig(recipe=key.format(m=dim // 2 if dim % 2 == 0 else dim), shards=n_shards, sample_rows=2_000)
    recipe = choose_recipe(n_rows, dim, 2 * dim, config)
    index_bytes, vector_bytes = built_bytes(recipe, vectors, np.hstack([vectors, vectors]), n_shards, tmp_path)
    assert recipe.index_bytes == pytest.approx(index_bytes, rel=0.03)
    assert recipe.vector_bytes == pytest.approx(vector_bytes, rel=0.001)
    assert recipe.memory_bytes >= recipe.index_bytes


def test_a_graph_is_said_to_be_static() -> None:
    assert "cannot give up rows" in choose_recipe(5_000, 64, 64, IndexConfig(recipe="HNSW16")).why
    assert "HNSW" not in choose_recipe(10**9, 64, 64, AUTO).key


def test_finding_candidates_reads_the_centroids_and_the_visited_share_of_the_rows() -> None:
    flat = choose_recipe(1_000, 64, 64, AUTO)
    assert scan_bytes(flat, 1_000, 64) == 1_000 * (4 * 64 + 8)
    lists = choose_recipe(50_000, 64, 64, IndexConfig(recipe="IVF128,SQ8", nprobe=32))
    assert scan_bytes(lists, 50_000, 64) == 128 * 4 * 64 + 50_000 * (64 + 8) * 32 // 128


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
