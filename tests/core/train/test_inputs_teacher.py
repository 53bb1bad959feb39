"""The teacher of a distillation is found by name, and its vectors are in the order of the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Ref, Release, VectorSet
from retrieval_core.artifacts.parts import put_part, vectors_bytes
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store
from retrieval_core.train.inputs import find_teacher, teacher_vectors

FIRST, SECOND = "aa11" + "0" * 28, "aa22" + "0" * 28


def keep(store: Store, fingerprint: str, family: str, parts: dict[str, list[list[float]]]) -> VectorSet:
    """A sealed set of two dimensions; `parts` maps ids, as "ab", to their vectors."""
    made = [
        put_part(store, f"vectors/{family}/parts/{n}.parquet", vectors_bytes(list(ids), np.array(rows, np.float32)), 1)
        for n, (ids, rows) in enumerate(parts.items())
    ]
    return VectorSet(fingerprint=fingerprint, family=family, variant="raw", dim=2, parts=tuple(made)).seal(store)


@pytest.fixture
def store(local_store: Store) -> Store:
    keep(local_store, FIRST, "f1", {"ab": [[1, 0], [0, 1]], "cd": [[-1, 0], [0, -1]]})
    keep(local_store, SECOND, "f2", {"a": [[0, 1]]})
    return local_store


@pytest.mark.parametrize("name", [FIRST, FIRST[:4], FIRST[:12]])
def test_a_teacher_is_named_by_a_prefix_of_its_fingerprint(store: Store, name: str) -> None:
    assert find_teacher(store, name).fingerprint == FIRST


def test_production_names_the_vectors_of_the_published_release(store: Store) -> None:
    vectors = find_teacher(store, SECOND)
    ref = Ref(kind="x", key="x/x")
    release = Release(
        kind="Release", fingerprint="r", catalog=ref, backbone=ref, vectors=vectors.ref, index=ref, report=ref,
        variant="raw", gate="published",
    )  # fmt: skip
    release.seal(store)
    releases.point_alias(store, releases.PRODUCTION, "r")
    assert find_teacher(store, "production").fingerprint == SECOND


@pytest.mark.parametrize(
    ("name", "says"), [("aa", "ambiguous among 2"), ("bb", "names no vector set"), ("", "aa11"), ("production", "aa22")]
)
def test_a_name_without_a_single_match_is_refused_with_a_list_of_the_sets(store: Store, name: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        find_teacher(store, name)


def test_an_empty_store_has_no_teacher(local_store: Store) -> None:
    with pytest.raises(BadConfig, match="it has none"):
        find_teacher(local_store, "aa")


def test_vectors_are_in_the_order_of_the_ids_and_nan_if_missing(store: Store) -> None:
    rows = teacher_vectors(store, find_teacher(store, FIRST), ["d", "x", "a", "b"])
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[0, -1], [np.nan, np.nan], [1, 0], [0, 1]])
