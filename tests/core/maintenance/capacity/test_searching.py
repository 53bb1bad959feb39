"""What searching a catalogue takes, foreseen from its size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.capacity.searching import Searching, estimate_searching, searching_table

sizes = st.integers(1, 50_000_000)


@given(sizes, sizes, st.integers(1, 3))
def test_more_pictures_and_releases_never_take_less(some: int, more: int, n_releases: int) -> None:
    small, large = (estimate_searching(n, 1_000, n_releases, 5) for n in sorted((some, more)))
    both = estimate_searching(max(some, more), 1_000, n_releases + 1, 5)
    for name in ("disk_bytes", "memory_bytes"):
        assert getattr(small, name) <= getattr(large, name) * 1.3  # a larger one may have a smaller kind of index
        assert getattr(large, name) < getattr(both, name)


@given(sizes, st.floats(1, 64))
def test_what_fits_takes_no_more_than_the_machine_has(n_pictures: int, memory_gb: float) -> None:
    made = estimate_searching(n_pictures, memory_gb, 2, 1)
    assert made.memory_bytes <= memory_gb * 1e9
    assert (made.recipe is None) == (made.memory_bytes == 0)


def test_a_smaller_machine_gets_a_smaller_index_until_none_fits() -> None:
    keys = [made.recipe.key if (made := estimate_searching(10**8, gb, 1, 1)).recipe else "" for gb in (64, 14, 8)]
    assert ["SQ8" in keys[0], "PQ" in keys[1], keys[2]] == [True, True, ""]
    table = searching_table([estimate_searching(10**8, 8, 1, 1)])
    assert "does not fit" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_twice_the_queries_take_twice_the_cores() -> None:
    def cores(queries: float) -> int:
        return estimate_searching(10**7, 64, 2, queries).n_cores

    assert cores(0) == 0
    assert cores(200) == pytest.approx(2 * cores(100), abs=1)


@pytest.mark.parametrize("wrong", [(-1, 16, 2, 1), (1, 0, 2, 1), (1, 16, 0, 1), (1, 16, 2, -1)])
def test_impossible_numbers_are_refused(wrong: tuple[int, float, int, float]) -> None:
    with pytest.raises(BadConfig, match="at least 1 release"):
        estimate_searching(*wrong)


def test_a_catalogue_without_a_recipe_says_what_an_export_sends() -> None:
    made: Searching = estimate_searching(10**9, 16, 2, 1)
    assert (made.recipe, made.memory_bytes) == (None, 0)
    assert made.export_bytes > 2 * 10**12
