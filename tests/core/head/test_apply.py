"""The head in numpy against the same net in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from retrieval_core.arrays import Float32
from retrieval_core.errors import DimensionMismatch, ShardCorrupt
from retrieval_core.head.apply import boost, boosted_dim, load_head, predict, save_head


def draw_head(dim: int = 16, hidden_dim: int = 24) -> dict[str, Float32]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (dim,),
        "std": (dim,),
        "hidden.weight": (hidden_dim, dim),
        "hidden.bias": (hidden_dim,),
        "task.a.weight": (3, hidden_dim),
        "task.a.bias": (3,),
        "task.neck.weight": (2, hidden_dim),
        "task.neck.bias": (2,),
        "task.labels.weight": (5, hidden_dim),
        "task.labels.bias": (5,),
    }
    weights = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    weights["std"] = np.abs(weights["std"]) + np.float32(0.1)
    return weights


def draw_vectors(n_rows: int = 40, dim: int = 16) -> Float32:
    vectors = np.random.default_rng(1).normal(size=(n_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def torch_hidden(weights: dict[str, Float32], vectors: Float32) -> torch.Tensor:
    w = {key: torch.from_numpy(value) for key, value in weights.items()}
    standardised = (torch.from_numpy(vectors) - w["mean"]) / w["std"]
    return functional.relu(functional.linear(standardised, w["hidden.weight"], w["hidden.bias"]))


def draw_scaled_head() -> dict[str, Float32]:
    scales = {"scale.neck": 0.5, "scale.a": 0.3, "scale.labels": 0.4}
    return draw_head() | {key: np.array([scale], np.float32) for key, scale in scales.items()}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 39), st.integers(0, 39))
def test_a_product_of_boosted_vectors_adds_shared_classes_to_the_cosine(one: int, other: int) -> None:
    weights, vectors = draw_scaled_head(), draw_vectors()
    p, q = ({name: found[row] for name, found in predict(weights, vectors).items()} for row in (one, other))
    shared = {name: float(np.sqrt(p[name] * q[name]).sum()) for name in ("a", "neck")}
    roots = [np.sqrt(found["labels"]) / np.linalg.norm(np.sqrt(found["labels"])) for found in (p, q)]
    expected = vectors[one] @ vectors[other] + 0.3**2 * shared["a"] + 0.5**2 * shared["neck"]
    expected += 0.4**2 * float(roots[0] @ roots[1])
    boosted = boost(weights, vectors)
    np.testing.assert_allclose(np.linalg.norm(boosted, axis=1), 1, atol=1e-5)
    assert boosted[one] @ boosted[other] == pytest.approx(expected / (1 + 0.3**2 + 0.5**2 + 0.4**2), abs=1e-5)


def test_the_order_in_which_a_head_holds_its_weights_does_not_matter() -> None:
    weights = draw_scaled_head()
    turned = dict(reversed(weights.items()))
    np.testing.assert_array_equal(boost(turned, draw_vectors()), boost(weights, draw_vectors()))


@pytest.mark.parametrize(("weights", "expected"), [(draw_head(), 24), (draw_scaled_head(), 16 + 2 + 3 + 5)])
def test_the_width_of_boosted_vectors_is_known_from_the_head(weights: dict[str, Float32], expected: int) -> None:
    assert boosted_dim(weights) == expected == boost(weights, draw_vectors()).shape[1]


def test_boosted_vectors_of_a_head_without_scales_are_the_hidden_activations_of_torch() -> None:
    weights, vectors = draw_head(), draw_vectors()
    boosted = boost(weights, vectors)
    expected = functional.normalize(torch_hidden(weights, vectors)).numpy()
    assert boosted.dtype == np.float32
    np.testing.assert_allclose(boosted, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(boosted, axis=1), 1, atol=1e-5)


def test_predictions_are_those_of_torch() -> None:
    weights, vectors = draw_head(), draw_vectors()
    found, hidden = predict(weights, vectors), torch_hidden(weights, vectors)
    assert list(found) == ["a", "neck", "labels"]
    for name, probabilities in found.items():
        weight, bias = (torch.from_numpy(weights[f"task.{name}.{part}"]) for part in ("weight", "bias"))
        logits = functional.linear(hidden, weight, bias)
        expected = torch.sigmoid(logits) if name == "labels" else torch.softmax(logits, dim=1)
        np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


def test_extreme_activations_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        for probabilities in predict(draw_head(), draw_vectors() * np.float32(1e6)).values():
            assert np.isfinite(probabilities).all()


def test_a_vector_that_activates_no_unit_stays_zero() -> None:
    weights = draw_head()
    weights["hidden.bias"] = np.full(24, -1e6, np.float32)
    assert (boost(weights, draw_vectors()) == 0).all()


def test_no_vectors_give_no_boosted_vectors() -> None:
    assert boost(draw_head(), np.empty((0, 16), np.float32)).shape == (0, 24)
    assert boost(draw_scaled_head(), np.empty((0, 16), np.float32)).shape == (0, 26)


@pytest.mark.parametrize("shape", [(4, 15), (16,)])
def test_vectors_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch, match="width 16"):
        boost(draw_head(), np.zeros(shape, np.float32))


def test_a_saved_head_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weights = draw_scaled_head()
    weights["hidden.weight"] = weights["hidden.weight"][:, ::-1]  # not contiguous
    save_head(weights, tmp_path / "a")
    loaded = load_head(tmp_path / "a")
    assert loaded.keys() == weights.keys()
    np.testing.assert_array_equal(boost(loaded, draw_vectors()), boost(weights, draw_vectors()))
    save_head(loaded, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_head_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not weights")
    save_head({"mean": np.zeros(3, np.float32)}, tmp_path / "other")
    for name in ("text", "absent"):
        with pytest.raises(ShardCorrupt, match="train it again"):
            load_head(tmp_path / name)
    with pytest.raises(ShardCorrupt, match=r"lacks std, hidden\.weight, hidden\.bias"):
        load_head(tmp_path / "other")
