"""Rows are divided among shards by their id alone, and a shard's name is a hash of its content."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.index.plan import name_shard, rows_to_change, split_rows

row_ids = st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=50)
SCHEMA = {"row_id": pl.Int64, "content_id": pl.String}


def table(ids: list[int]) -> pl.DataFrame:
    return pl.DataFrame([(row_id, f"c{row_id}") for row_id in ids], schema=SCHEMA, orient="row")


@given(row_ids, st.integers(1, 9))
def test_every_row_is_in_one_shard(ids: list[int], n_shards: int) -> None:
    shards = split_rows(table(ids), n_shards)
    assert len(shards) == n_shards
    assert sorted(row for shard in shards for row in shard["row_id"]) == sorted(ids)
    assert all(shard["row_id"].is_sorted() for shard in shards)


@given(row_ids.filter(bool), st.integers(1, 9), st.randoms(use_true_random=False))
def test_a_change_in_one_row_renames_one_shard(ids: list[int], n_shards: int, random) -> None:
    before = [name_shard(shard, ["t"]) for shard in split_rows(table(ids), n_shards)]
    shuffled = random.sample(ids, len(ids))
    assert [name_shard(shard, ["t"]) for shard in split_rows(table(shuffled), n_shards)] == before
    changed = table(ids).with_columns(
        content_id=pl.when(pl.col("row_id") == ids[0]).then(pl.lit("new")).otherwise("content_id")
    )
    after = [name_shard(shard, ["t"]) for shard in split_rows(changed, n_shards)]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    removed = [name_shard(shard, ["t"]) for shard in split_rows(table(ids[1:]), n_shards)]
    assert sum(a != b for a, b in zip(before, removed, strict=True)) == 1


def test_other_vectors_make_other_shards() -> None:
    assert name_shard(table([1, 2]), ["t", "v"]) != name_shard(table([1, 2]), ["t", "w"])


pictures = st.dictionaries(st.integers(0, 40), st.sampled_from("abc"), max_size=20)


@given(pictures, pictures)
def test_removing_and_adding_rows_makes_the_current_rows_of_the_previous_ones(
    before: dict[int, str], now: dict[int, str]
) -> None:
    tables = [pl.DataFrame(list(rows.items()), schema=SCHEMA, orient="row") for rows in (before, now)]
    removed, added = rows_to_change(*tables)
    made = {row: picture for row, picture in before.items() if row not in removed}
    assert made.keys().isdisjoint(added["row_id"])
    assert made | dict(added.iter_rows()) == now
    assert all(now.get(row) != before[row] for row in removed.tolist())
    assert added["row_id"].is_sorted()
