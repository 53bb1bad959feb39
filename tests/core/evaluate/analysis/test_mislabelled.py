"""A code is doubted if its neighbours contradict it more than its kind of neighbourhood explains, and only then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval_core.evaluate.analysis.mislabelled import MIN_MEMBERS, suspect_codes, suspect_labels


def test_an_item_amid_many_categories_belongs_to_none_of_them():
    codes = np.repeat(np.arange(4), 30)
    neighbours = np.repeat(codes[:, None], 10, axis=1)
    neighbours[0] = [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert suspect_codes(codes, neighbours).rows.tolist() == []
    neighbours[0] = 1
    suspects = suspect_codes(codes, neighbours)
    assert (suspects.rows.tolist(), suspects.suggested.tolist()) == ([0], [1])
    assert (suspects.n_agree.tolist(), suspects.n_suggested.tolist(), suspects.n_neighbours.tolist()) == (
        [0],
        [10],
        [10],
    )


def test_a_code_of_too_few_items_is_neither_doubted_nor_suggested():
    codes = np.repeat([0, 1, 2], [30, 30, MIN_MEMBERS - 1])
    neighbours = np.repeat(codes[:, None], 10, axis=1)
    neighbours[0] = 2
    neighbours[-1] = 0
    assert suspect_codes(codes, neighbours).rows.tolist() == []


def test_codes_that_are_always_mixed_are_doubted_less_than_codes_that_never_are():
    apart, mixed = np.repeat([0, 1], 50), np.repeat([0, 1], 50)
    neighbours_apart = np.repeat(apart[:, None], 10, axis=1)
    neighbours_mixed = np.random.default_rng(0).integers(0, 2, (100, 10))
    neighbours_apart[0] = neighbours_mixed[0] = [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    neighbours_apart[1] = 1
    assert 1 in suspect_codes(apart, neighbours_apart).rows
    assert suspect_codes(mixed, neighbours_mixed).rows.tolist() == []


def test_a_missing_and_a_superfluous_label_are_told_apart():
    given = np.repeat([[True, False], [False, True]], 30, axis=0)
    neighbours = np.stack([(np.arange(60) // 30) * 30 + (np.arange(60) + shift) % 30 for shift in range(1, 11)], axis=1)
    given[0] = [False, True]
    first, second = suspect_labels(csr_array(given), neighbours)
    assert (first.rows.tolist(), first.suggested.tolist()) == ([0], [1])
    assert (second.rows.tolist(), second.suggested.tolist()) == ([0], [0])
    assert first.probability[0] == pytest.approx(second.probability[0])


@given(st.integers(0, 2**32 - 1), st.integers(15, 80), st.integers(1, 6), st.integers(1, 10))
def test_labels_are_judged_as_codes_of_one_label_after_another(seed, n, n_labels, k):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, n)
    held = (rng.random((n, n_labels)) < 0.1) ^ (kind[:, None] == np.arange(n_labels))
    neighbours = np.stack([rng.permutation(n)[np.argsort(kind[rng.permutation(n)] != own)][:k] for own in kind])
    neighbours[rng.random(neighbours.shape) < 0.1] = -1
    for column, suspects in enumerate(suspect_labels(csr_array(held), neighbours)):
        codes = held[:, column].astype(np.int64)
        expected = suspect_codes(codes, np.where(neighbours < 0, -1, codes[neighbours]))
        for found, wanted in zip(suspects, expected, strict=True):
            np.testing.assert_allclose(found, wanted)


def test_codes_without_neighbours_have_no_suspects():
    empty = suspect_codes(np.zeros(0, np.int64), np.zeros((0, 10), np.int64))
    lonely = suspect_codes(np.arange(20) % 2, np.full((20, 10), -1))
    assert len(empty.rows) == len(lonely.rows) == 0
    assert suspect_labels(csr_array(np.zeros((0, 3), bool)), np.zeros((0, 10), np.int64))[0].rows.tolist() == []
