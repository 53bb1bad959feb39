"""The defaults that every objective inherits, and the targets of the rows that are not held out."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import HELD_OUT, SPLITS
from retrieval_core.head.targets import UNKNOWN, build_targets
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.objectives.base import LinearObjective, Objective, TrainingData, accuracy

CATEGORIES, LABELS = ("coat", "hat", None), ("blue", "red", "striped")
ROWS = st.lists(
    st.tuples(
        st.sampled_from(CATEGORIES), st.sets(st.sampled_from(LABELS)), st.sampled_from([*SPLITS, None])
    ),
    min_size=1,
    max_size=40,
)  # fmt: skip


def catalogue(rows):
    ids = [f"{number:03}" for number in range(len(rows))]
    categories, labels, splits = zip(*rows, strict=True)
    columns = {"item_id": ids, "image_uri": ids, "category": categories, "labels": [sorted(names) for names in labels]}
    return conform(pl.DataFrame(columns | {"split": splits}, schema_overrides={"split": pl.String}), "drawn")


class Unscored(Objective):
    """Only what the base class defines."""

    def loss(self, pixels, rows):
        raise NotImplementedError

    outputs = score = loss


@given(ROWS)
def test_targets_are_those_of_the_trainable_rows_alone(rows):
    data = TrainingData(catalogue(rows))
    is_held_out = np.array([split in HELD_OUT for *_, split in rows])
    assert data.is_trainable.tolist() == (~is_held_out).tolist()
    assert data.trainable_items.equals(data.items.filter(~is_held_out))
    expected, targets = build_targets(data.items.filter(~is_held_out), 2), data.targets(2)
    assert targets.tasks == expected.tasks
    for name, codes in targets.single.items():
        assert codes[~is_held_out].tolist() == expected.single[name].tolist()
        assert (codes[is_held_out] == UNKNOWN).all()
    assert (targets.multi is None) == (expected.multi is None)
    if targets.multi is not None:
        np.testing.assert_array_equal(targets.multi[~is_held_out], expected.multi)
        assert np.isnan(targets.multi[is_held_out]).all()


@given(st.integers(0, 40), st.integers(2, 9), st.integers(0, 5))
def test_an_epoch_shows_every_row_once_but_for_a_last_batch_of_one(n_rows, size, seed):
    rows = np.arange(100, 100 + n_rows)
    batches = Unscored(None).batches(rows, size, np.random.default_rng(seed))
    shown = [row for batch in batches for row in batch.tolist()]
    assert len(set(shown)) == len(shown) == n_rows - (n_rows % size == 1)
    assert set(shown) <= set(rows.tolist())
    assert all(2 <= len(batch) <= size for batch in batches)


def test_by_default_all_rows_teach_and_nothing_is_kept():
    objective, rows = Unscored(None), np.array([3, 1])
    assert objective.learnable(rows).tolist() == objective.watchable(np.array([0]), rows).tolist() == [3, 1]
    assert (objective.layers(), objective.classes()) == ({}, [])


def test_a_linear_layer_is_kept_only_where_its_outputs_are_classes(tiny_embedder, coloured):
    class Named(LinearObjective):
        loss = Unscored.loss
        score = Unscored.score

        def classes(self):
            return ["coat", "hat"]

    class Unnamed(Named):
        classes = Objective.classes

    objective, pixels = Named(tiny_embedder(), 2, seed=0), torch.from_numpy(coloured([0, 1, 2]))
    layer = objective.layers()
    assert {name: tuple(value.shape) for name, value in layer.items()} == {"weight": (2, 16), "bias": (2,)}
    assert not any(value.requires_grad for value in layer.values())
    torch.testing.assert_close(
        objective.outputs(pixels), objective.embedder(pixels) @ layer["weight"].T + layer["bias"]
    )
    assert Unnamed(tiny_embedder(), 2, seed=0).layers() == {}


@pytest.mark.parametrize(("codes", "share"), [([1, 0, 1], 1.0), ([1, 1, 0], 1 / 3)])
def test_accuracy_is_the_share_of_rows_whose_largest_logit_is_their_class(codes, share):
    logits = torch.tensor([[0.0, 2.0], [0.5, -1.0], [1.0, 3.0]])
    assert accuracy(logits, torch.tensor(codes)) == pytest.approx(share)
