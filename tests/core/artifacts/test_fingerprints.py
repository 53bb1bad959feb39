"""The same question has the same name, another question another; a model serves while little has changed."""

from pathlib import Path

import polars as pl
import pytest

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import changed_fraction
from retrieval_core.artifacts.manifests import Catalog, IndexSet, Reducer, Ref, Release, VectorSet, fingerprint
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.config import CropConfig, EmbedConfig, HeadConfig, IndexConfig, MaskConfig, ReduceConfig
from retrieval_core.embed.backbones import backbone_fingerprint
from retrieval_core.errors import WeightsInvalid
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

# Of EmbedConfig(), and of vectors of backbone "b" raw and under masks "masks", since the first release.
BACKBONE = "b6c6a7089f1c05c5995601f1c01c67d4"
RAW, MASKED = "b364212faa5199c923f9a5ab83ca6f8a", "acf5925636dddb4b6d79182eca55a61d"


def test_a_fingerprint_depends_on_all_of_the_question_and_its_order() -> None:
    names = {
        fingerprint("a", 1, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("b", 1, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("a", 2, {"x": 1, "y": 2}, ["p", "q"]),
        fingerprint("a", 1, {"x": 1, "y": 3}, ["p", "q"]),
        fingerprint("a", 1, {"x": 1, "y": 2}, ["q", "p"]),
    }
    assert len(names) == 5
    assert fingerprint("a", 1, {"y": 2, "x": 1}, ["p", "q"]) in names


def test_how_work_is_cut_does_not_change_what_it_makes() -> None:
    assert fingerprints.segmenter_fingerprint(MaskConfig(shard_rows=7), "c") == fingerprints.segmenter_fingerprint(
        MaskConfig(), "c"
    )
    assert fingerprints.head_fingerprint(HeadConfig(refit_after_change=0.9), "c", "v") == fingerprints.head_fingerprint(
        HeadConfig(), "c", "v"
    )
    assert backbone_fingerprint(EmbedConfig(batch_size=1)) == backbone_fingerprint(EmbedConfig())


def test_what_changes_the_output_changes_the_name() -> None:
    assert fingerprints.segmenter_fingerprint(MaskConfig(seed=1), "c") != fingerprints.segmenter_fingerprint(
        MaskConfig(), "c"
    )
    assert fingerprints.mask_family(MaskConfig(min_area=0.1), "s") != fingerprints.mask_family(MaskConfig(), "s")
    assert fingerprints.vector_family("b", None) != fingerprints.vector_family("b", "masks")
    assert backbone_fingerprint(EmbedConfig(size_px=64)) != backbone_fingerprint(EmbedConfig())
    assert backbone_fingerprint(EmbedConfig(framing="squash")) != backbone_fingerprint(EmbedConfig())


def test_a_view_of_its_own_has_a_family_of_its_own() -> None:
    crops = [fingerprints.vector_family("b", "masks", "crop", margin) for margin in (0.1, 0.2)]
    assert len({*crops, fingerprints.vector_family("b", "masks"), fingerprints.vector_family("b", None)}) == 4
    assert fingerprints.vector_family("b", "masks", "masked", 0.3) == fingerprints.vector_family("b", "masks")
    assert fingerprints.vector_family("b", None, "raw", 0.3) == fingerprints.vector_family("b", None)


def test_names_of_what_stores_hold_already_stay() -> None:
    assert backbone_fingerprint(EmbedConfig()) == BACKBONE
    assert fingerprints.vector_family("b", None) == RAW
    assert fingerprints.vector_family("b", "masks", "masked") == MASKED


def test_boxes_are_named_by_their_detector_and_what_it_has_to_be_sure_of() -> None:
    config = CropConfig(detector="ssdlite320", weights="random:0")
    detector, boxes = fingerprints.detector_fingerprint(config), fingerprints.detections_family(config, "d")
    for change in ({"margin": 0.5}, {"shard_rows": 3}):
        other = config.model_copy(update=change)
        assert (fingerprints.detector_fingerprint(other), fingerprints.detections_family(other, "d")) == (
            detector,
            boxes,
        )
    for change in ({"detector": "fasterrcnn320"}, {"weights": "random:1"}):
        assert fingerprints.detector_fingerprint(config.model_copy(update=change)) != detector
    assert fingerprints.detections_family(config.model_copy(update={"min_score": 0.5}), "d") != boxes
    assert len({fingerprints.detections_family(config, "e"), boxes, fingerprints.mask_family(MaskConfig(), "d")}) == 3


def test_classes_are_named_by_the_backbone_under_their_classifier() -> None:
    classifiers = {fingerprints.classifier_fingerprint(name) for name in "ab"}
    assert len(classifiers | {fingerprints.class_family(name) for name in classifiers} | {"a", "b"}) == 6


def test_weights_from_a_file_are_named_by_its_content(tmp_path: Path) -> None:
    for name, data in (("a.bin", b"one"), ("b.bin", b"one"), ("c.bin", b"two")):
        (tmp_path / name).write_bytes(data)
    names = [backbone_fingerprint(EmbedConfig(weights=f"file:{tmp_path / name}.bin")) for name in "abc"]
    assert names[0] == names[1] != names[2]
    with pytest.raises(WeightsInvalid, match="absent"):
        backbone_fingerprint(EmbedConfig(weights=f"file:{tmp_path / 'absent'}"))


def items(*content_ids: str) -> pl.DataFrame:
    rows = [(f"i{n}", content_id) for n, content_id in enumerate(content_ids)]
    return pl.DataFrame(rows, schema={"item_id": pl.String, "content_id": pl.String}, orient="row")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (items(*"abcd"), 0.0),
        (items(*"abcx"), 0.25),
        (items(*"abc"), 0.25),
        (items(*"abcde"), 0.2),
        (items(), 1.0),
    ],
)
def test_change_is_the_share_of_items_that_are_not_as_they_were(now: pl.DataFrame, expected: float) -> None:
    assert changed_fraction(items(*"abcd"), now) == pytest.approx(expected)
    assert changed_fraction(now, items(*"abcd")) == pytest.approx(expected)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    part = put_part(store, "catalogs/then/items.parquet", table_bytes(items(*"abcdefghij")), 10)
    Catalog(fingerprint="then", parts=(part,)).seal(store)
    return store


def fitted(config: ReduceConfig, catalog: str = "then") -> Reducer:
    parents = {"catalog": catalog, "vectors": "family"}
    question = fingerprints.reducer_question(config)
    return Reducer(fingerprint="r", config=question, parents=parents, input_dim=8, dims=(4,))


def serves(store: Store, reducer: Reducer, config: ReduceConfig, now: pl.DataFrame, vectors: str = "family") -> bool:
    question = fingerprints.reducer_question(config)
    return fingerprints.still_serves(store, reducer, question, {"vectors": vectors}, config, now)


def test_a_model_serves_until_too_much_has_changed(store: Store) -> None:
    config = ReduceConfig(refit_after_change=0.2)
    assert serves(store, fitted(config), config, items(*"abcdefghxy"))
    assert not serves(store, fitted(config), config, items(*"abcdefgxyz"))


def test_a_model_of_another_question_or_other_vectors_never_serves(store: Store) -> None:
    config, same = ReduceConfig(), items(*"abcdefghij")
    assert serves(store, fitted(config), config, same)
    assert not serves(store, fitted(ReduceConfig(whiten=True)), config, same)
    assert not serves(store, fitted(config), config, same, vectors="other")
    assert not serves(store, fitted(config, catalog="vacuumed"), config, same)


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
    assert fingerprints.quantizer_serves(index, IndexConfig(recall_target=0.99)) is serves


def test_lists_that_never_found_enough_are_not_trained_every_night() -> None:
    index = an_index(1.2, 0.7, when_new={"imbalance": 1.2, "recall": 0.7})
    assert fingerprints.quantizer_serves(index, IndexConfig(recall_target=0.99))


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
        (16, fingerprints.reduced_family("r", "v", 16)),
        (8, fingerprints.reduced_family("r", "v", 8)),
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


def standing(**parents: str) -> IndexSet:
    of = {"catalog": "c", "vectors": "32-of-c", "candidates": "8-of-c"}
    return IndexSet(
        fingerprint="i", recipe="Flat", dim=32, candidate_dim=8, rerank_depth=1, family="v", template="t",
        parents=of | parents,
    )  # fmt: skip


def test_a_choice_of_candidates_is_known_where_all_it_was_made_from_is_the_same() -> None:
    assert fingerprints.known_candidates(published(), standing(), "c", SETS, IndexConfig()) == SETS[2]
    assert (
        fingerprints.known_candidates(published(), standing(candidates="32-of-c"), "c", SETS, IndexConfig()) == SETS[0]
    )


@pytest.mark.parametrize(
    ("release", "index", "catalog", "sets", "config"),
    [
        (published(), standing(), "other", SETS, IndexConfig()),
        (published(), standing(vectors="others"), "c", SETS, IndexConfig()),
        (published(), standing(candidates="gone"), "c", SETS, IndexConfig()),
        (published("other"), standing(), "c", SETS, IndexConfig()),
        (published(), standing(), "c", SETS, IndexConfig(recall_target=0.9)),
        (published(recall_target=0.9), standing(), "c", SETS, IndexConfig()),
        (published().model_copy(update={"reducer": None}), standing(), "c", SETS, IndexConfig()),
    ],
)
def test_a_choice_of_candidates_from_anything_else_is_made_anew(
    release: Release, index: IndexSet, catalog: str, sets: tuple[VectorSet, ...], config: IndexConfig
) -> None:
    assert fingerprints.known_candidates(release, index, catalog, sets, config) is None
