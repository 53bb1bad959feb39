"""Versions of the index: what production has is kept while it serves."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts.fingerprints import reduced_family
from retrieval_core.artifacts.manifests import IndexSet, Ref, Release, VectorSet
from retrieval_core.config import IndexConfig
from retrieval_core.index.versions import previous_candidates, quantizer_serves


@pytest.mark.parametrize(
    ("imbalance", "recall", "serves"),
    [
        (1.2, 0.995, True),
        (1.79, 0.995, True),  # half as uneven again is allowed
        (1.9, 0.995, False),
        (1.2, 0.986, True),  # within the noise of the measurement
        (1.2, 0.98, False),
    ],
)
def test_trained_lists_serve_until_they_are_uneven_or_find_less(imbalance: float, recall: float, serves: bool) -> None:
    index = an_index(imbalance, recall, when_new={"imbalance": 1.2, "recall": 0.995})
    assert quantizer_serves(index, IndexConfig(recall_target=0.99)) is serves


def test_lists_that_never_found_enough_are_not_trained_every_night() -> None:
    index = an_index(1.2, 0.7, when_new={"imbalance": 1.2, "recall": 0.7})
    assert quantizer_serves(index, IndexConfig(recall_target=0.99))


def an_index(imbalance: float, recall: float, when_new: dict[str, float]) -> IndexSet:
    return IndexSet(
        fingerprint="i",
        recipe="IVF16,Flat",
        dim=8,
        candidate_dim=8,
        rerank_depth=1,
        family="f",
        template="t",
        imbalance=imbalance,
        recall=recall,
        when_new=when_new,
    )


SETS = tuple(
    VectorSet(fingerprint=f"{dim}-of-c", family=family, variant="raw", dim=dim)
    for dim, family in (
        (32, "v"),
        (16, reduced_family("r", "v", 16)),
        (8, reduced_family("r", "v", 8)),
    )
)
NOWHERE = Ref(kind="", key="none/none")


def published(reducer: str = "r", **config: object) -> Release:
    """A release of catalogue "c", whose candidates are the vectors of 8 dimensions."""
    return Release(
        fingerprint="last", config={"index": IndexConfig.model_validate(config).model_dump(mode="json")},
        catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE, report=NOWHERE, variant="raw",
        gate="published", reducer=Ref(kind="Reducer", key=f"reducers/{reducer}"),
    )  # fmt: skip


def current(**parents: str) -> IndexSet:
    of = {"catalog": "c", "vectors": "32-of-c", "candidates": "8-of-c"}
    return IndexSet(
        fingerprint="i", recipe="Flat", dim=32, candidate_dim=8, rerank_depth=1, family="v", template="t",
        parents=of | parents,
    )  # fmt: skip


def test_candidates_are_kept_when_all_they_were_chosen_from_is_the_same() -> None:
    assert previous_candidates(published(), current(), "c", SETS, IndexConfig()) == SETS[2]
    assert previous_candidates(published(), current(candidates="32-of-c"), "c", SETS, IndexConfig()) == SETS[0]


@pytest.mark.parametrize(
    ("release", "index", "catalog", "sets", "config"),
    [
        (published(), current(), "other", SETS, IndexConfig()),
        (published(), current(vectors="others"), "c", SETS, IndexConfig()),
        (published(), current(candidates="gone"), "c", SETS, IndexConfig()),
        (published("other"), current(), "c", SETS, IndexConfig()),
        (published(), current(), "c", SETS, IndexConfig(recall_target=0.9)),
        (published(recall_target=0.9), current(), "c", SETS, IndexConfig()),
        (published().model_copy(update={"reducer": None}), current(), "c", SETS, IndexConfig()),
    ],
)
def test_candidates_are_chosen_anew_when_anything_differs(
    release: Release, index: IndexSet, catalog: str, sets: tuple[VectorSet, ...], config: IndexConfig
) -> None:
    assert previous_candidates(release, index, catalog, sets, config) is None
