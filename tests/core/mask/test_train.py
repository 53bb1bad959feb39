"""Training the segmenter on drawn shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from retrieval_core.config.stages import MaskConfig, NightlyConfig
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch
from retrieval_core.mask.apply import SegmenterEngine
from retrieval_core.mask.quality import example_iou
from retrieval_core.mask.train import ONNX_FILE, WEIGHTS_FILE, SegmentationData, square_mask, train_segmenter
from retrieval_core.mask.unet import rebuild_unet

BRIEF = MaskConfig(encoder="resnet18", weights="random:0", size_px=64, max_epochs=1, batch_size=4, learning_rate=2e-3)


def predict(trained, pixels):
    with torch.inference_mode():
        return (rebuild_unet(trained.state, "resnet18")(torch.from_numpy(pixels)) > 0.5).numpy()


def test_a_few_epochs_on_drawn_shapes_find_the_product(trained, config, shapes):
    assert trained.val_iou > 0.8
    unseen = shapes(16, seed=2)
    assert example_iou(predict(trained, unseen.pixels), unseen.masks).mean() > 0.8


def test_training_stops_once_the_target_is_reached(trained, config):
    *before, last = [row["val_iou"] for row in trained.history]
    assert last >= config.target_iou > max(before)
    assert len(trained.history) < config.max_epochs


def test_training_stops_when_validation_falls_and_keeps_the_best_weights(shapes):
    # The truth of this validation set is the background: the better the product is found, the lower its IoU.
    train, val = shapes(16, seed=0), shapes(8, seed=1)
    inverted = SegmentationData(val.pixels, ~val.masks)
    config = BRIEF.model_copy(update={"max_epochs": 12, "patience": 1})
    trained = train_segmenter(train, inverted, config)
    scores = [row["val_iou"] for row in trained.history]
    assert len(scores) < config.max_epochs
    assert max(scores) == scores[-2] > scores[-1]
    assert trained.val_iou == max(scores)
    assert example_iou(predict(trained, val.pixels), inverted.masks).mean() == pytest.approx(trained.val_iou, abs=1e-3)


def test_each_epoch_is_reported_as_it_ends(shapes):
    seen = []
    trained = train_segmenter(
        shapes(4, 0), shapes(4, 1), BRIEF.model_copy(update={"max_epochs": 2}), "cpu", seen.append
    )
    assert tuple(seen) == trained.history
    assert [row["epoch"] for row in seen] == [1, 2]
    assert all(row.keys() == {"epoch", "size_px", "loss", "val_iou", "seconds"} for row in seen)
    assert all(0 <= row["loss"] <= 1 and 0 <= row["val_iou"] <= 1 and row["seconds"] > 0 for row in seen)


def test_training_begins_at_half_size_and_ends_at_full_size(shapes):
    config = MaskConfig(size_px=128, max_epochs=2, batch_size=2)
    trained = train_segmenter(shapes(2, 0, 128), shapes(2, 1, 128), config)
    assert [row["size_px"] for row in trained.history] == [64, 128]
    assert trained.val_iou == trained.history[-1]["val_iou"]


def test_the_same_data_and_config_give_the_same_weights_and_another_seed_others(shapes):
    def state(**changes):
        return train_segmenter(shapes(8, 0), shapes(4, 1), BRIEF.model_copy(update=changes)).state

    first = state()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = state()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "segmentation_head.0.weight"
    assert not torch.equal(first[name], state(seed=1)[name])
    assert not torch.equal(first[name], state(weights="random:1")[name])


def test_a_single_picture_can_be_learnt_from(shapes):
    assert 0 <= train_segmenter(shapes(1, 0), shapes(1, 1), BRIEF).val_iou <= 1


def test_pictures_without_product_are_learnt_from_beside_others(shapes):
    data = shapes(4, 0)
    data.masks[::2] = False
    assert np.isfinite(train_segmenter(data, shapes(4, 1), BRIEF).history[-1]["loss"])


@pytest.mark.parametrize(("name", "n"), [("training", 0), ("training", 4), ("validation", 0), ("validation", 4)])
def test_a_set_without_any_product_is_refused_by_name(shapes, name, n):
    bare = SegmentationData(np.zeros((n, 64, 64, 3), np.uint8), np.zeros((n, 64, 64), np.bool_))
    good = shapes(4, 0)
    with pytest.raises(CatalogInvalid, match=f"none of the {n} {name} pictures"):
        train_segmenter(*((bare, good) if name == "training" else (good, bare)), BRIEF)


def test_pictures_of_another_size_than_the_config_are_refused(shapes):
    with pytest.raises(DimensionMismatch, match=r"validation .* expected \(n, 64, 64, 3\)"):
        train_segmenter(shapes(2, 0), shapes(2, 1, 96), BRIEF)


def test_a_training_that_diverges_says_so(shapes):
    with pytest.raises(BadConfig, match=r"diverged in epoch 1: its loss is nan; lower mask\.learning_rate"):
        train_segmenter(shapes(8, 0), shapes(2, 1), BRIEF.model_copy(update={"learning_rate": 1e30}))


def test_the_stored_model_equals_the_trained_one_for_any_number_of_pictures(trained, folder, config, shapes):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    unet = rebuild_unet(load_file(folder / WEIGHTS_FILE), config.encoder)
    for n in (1, 3):
        pixels = shapes(n, seed=n).pixels
        (probability,) = session.run(["probability"], {"pixels": pixels})
        with torch.inference_mode():
            expected = unet(torch.from_numpy(pixels)).numpy()
        assert probability.dtype == np.float32
        assert probability.shape == (n, 64, 64)
        assert probability == pytest.approx(expected, abs=1e-4)


def test_the_stored_model_reaches_the_reported_iou(trained, folder, config, shapes):
    val = shapes(16, seed=1)
    engine = SegmenterEngine(folder / ONNX_FILE, config.size_px, threads=1)
    assert example_iou(engine.predict(val.pixels), val.masks).mean() == pytest.approx(trained.val_iou, abs=1e-3)


def test_storing_writes_two_files_and_nothing_to_stdout(folder):
    assert {path.name for path in folder.iterdir()} == {WEIGHTS_FILE, ONNX_FILE, "stdout.txt"}
    assert (folder / "stdout.txt").read_text() == ""


def test_the_stored_model_names_no_file_of_the_machine_that_trained_it(folder):
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()


def test_a_mask_is_squashed_like_its_picture_by_what_covers_most_of_each_pixel():
    mask = np.zeros((100, 200), np.bool_)
    mask[:, :130] = True
    square = square_mask(mask, 10)
    assert square.dtype == np.bool_
    assert square[:, :6].all()
    assert not square[:, 7:].any()


def test_an_empty_and_a_full_mask_stay_so():
    for value in (False, True):
        assert (square_mask(np.full((37, 91), value), 64) == value).all()


def test_the_recipe_of_an_earlier_report_is_a_config():
    path = Path(__file__).parents[3] / "configs" / "segmenter" / "retrieval_report.toml"
    recipe = NightlyConfig.load(path, []).mask
    assert (recipe.encoder, recipe.weights, recipe.size_px) == ("resnet18", "pretrained", 224)
