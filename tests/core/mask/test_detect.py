"""The product's box: which one is chosen, how it is kept, and weights that cannot be used."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from retrieval_core.config.stages import CropConfig
from retrieval_core.errors import BadConfig, WeightsInvalid, WeightsUnavailable
from retrieval_core.images import crop_to_mask
from retrieval_core.mask.detect import (
    GRID_PX,
    WEIGHTS_FILE,
    Box,
    DetectorEngine,
    choose_box,
    detect,
    load_detector,
    published_file,
    save_detector,
)

CONFIG = CropConfig(detector="ssdlite320", weights="random:0")
MODELS = ("ssdlite320", "fasterrcnn320")


def sure_of_one_box(model: str) -> torch.nn.Module:
    """A detector that is sure of a person wherever it looks at all: SSDlite at its one largest default box."""
    network = load_detector(CropConfig(detector=model, weights="random:0"))
    with torch.no_grad():
        if model == "ssdlite320":
            for head in network.head.classification_head.module_list[:-1]:
                head[1].bias.view(-1, 91)[:, 0] = 20  # background
            network.head.classification_head.module_list[-1][1].bias.view(-1, 91)[0, 1] = 20
            for head in network.head.regression_head.module_list:
                head[1].weight.zero_()
                head[1].bias.zero_()
        else:
            network.roi_heads.box_predictor.cls_score.bias[1] = 20
    return network


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DetectorEngine:
    folder = tmp_path_factory.mktemp(request.param)
    save_detector(sure_of_one_box(request.param), folder)
    return DetectorEngine(request.param, folder / WEIGHTS_FILE, "cpu", threads=1)


@pytest.fixture(scope="module")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> DetectorEngine:
    folder = tmp_path_factory.mktemp("one")
    save_detector(sure_of_one_box("ssdlite320"), folder)
    return DetectorEngine("ssdlite320", folder / WEIGHTS_FILE, "cpu", threads=1)


def chosen(*boxes: tuple[float, float, float, float], scores: list[float] | None = None) -> Box | None:
    return choose_box(np.array(boxes).reshape(-1, 4), np.array(scores or [0.9] * len(boxes)), 0.3)


class TestChoosingABox:
    def test_the_larger_of_two_in_the_middle_is_the_product(self) -> None:
        small, large = (0.4, 0.4, 0.6, 0.6), (0.3, 0.3, 0.7, 0.7)
        assert chosen(small, large) == large

    def test_a_larger_box_at_the_edge_loses_to_one_in_the_middle(self) -> None:
        middle, edge = (0.35, 0.3, 0.65, 0.7), (0.0, 0.1, 0.15, 0.95)
        assert chosen(edge, middle) == middle

    def test_how_sure_the_detector_is_does_not_count_above_the_bound(self) -> None:
        small, large = (0.4, 0.4, 0.6, 0.6), (0.3, 0.3, 0.7, 0.7)
        assert chosen(small, large, scores=[0.99, 0.31]) == large
        assert chosen(small, large, scores=[0.99, 0.29]) == small

    def test_there_is_none_where_nothing_scores_or_has_an_area(self) -> None:
        assert chosen() is None
        assert chosen((0.1, 0.1, 0.9, 0.9), scores=[0.2]) is None
        assert chosen((0.5, 0.1, 0.5, 0.9)) is None
        assert chosen((float("nan"),) * 4) is None
        assert chosen((0.1, 0.1, 0.9, 0.9), scores=[float("nan")]) is None

    def test_a_box_ends_where_the_picture_does(self) -> None:
        assert chosen((-0.2, 0.1, 1.1, 0.9)) == (0.0, 0.1, 1.0, 0.9)

    @given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8))
    def test_no_other_box_is_both_larger_and_nearer_to_the_middle(self, corners: list[tuple[float, ...]]) -> None:
        boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        away = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5).T)
        box = chosen(*boxes)
        if box is None:
            assert area.max() == pytest.approx(0, abs=1e-200)
            return
        (own, *_) = np.flatnonzero((boxes == box).all(axis=1))
        assert not ((area > area[own] * (1 + 1e-9)) & (away < away[own] - 1e-9)).any()


def test_a_box_covers_every_cell_that_it_touches() -> None:
    rows, columns = np.nonzero(Box(0.1, 0.25, 0.501, 1.0).mask())
    assert (rows.min(), rows.max()) == (80, GRID_PX - 1)
    assert (columns.min(), columns.max()) == (32, 160)


def test_a_detector_finds_a_box_within_the_picture(engine: DetectorEngine) -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    box = engine.box(image, CONFIG)
    assert box is not None
    assert 0 <= box.left < box.right <= 1
    assert 0 <= box.top < box.bottom <= 1
    assert engine.box(image, CONFIG) == box


@pytest.mark.parametrize("shape", [(1, 900), (700, 2), (3, 3), (2000, 1000)])
def test_no_shape_of_a_picture_is_too_odd(engine: DetectorEngine, shape: tuple[int, int]) -> None:
    box = engine.box(np.zeros((*shape, 3), np.uint8), CONFIG)
    assert box is None or crop_to_mask(np.zeros((*shape, 3), np.uint8), box.mask(), 0.1).size > 0


def test_the_box_is_in_shares_of_the_picture(ssdlite: DetectorEngine) -> None:
    """SSDlite's last default box is centred and square, and larger than any other."""
    for shape in ((100, 300), (640, 480)):
        box = ssdlite.box(np.zeros((*shape, 3), np.uint8), CONFIG)
        assert box == pytest.approx((0.025, 0.025, 0.975, 0.975), abs=1e-3)


def test_a_box_comes_as_a_mask_that_is_trusted(ssdlite: DetectorEngine) -> None:
    for shape in ((100, 300), (640, 480), (900, 64)):
        mask, reason = detect(ssdlite, CONFIG, np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
        rows, columns = np.nonzero(mask)
        assert (mask.shape, reason) == ((GRID_PX, GRID_PX), "")
        assert np.count_nonzero(mask) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_where_nothing_scores_enough_the_whole_picture_is_kept_and_the_reason_given(ssdlite: DetectorEngine) -> None:
    strict = CONFIG.model_copy(update={"min_score": 1.0})
    mask, reason = detect(ssdlite, strict, np.zeros((60, 40, 3), np.uint8))
    assert mask.all()
    assert reason == "no box scores 1 or more"


class TestWeights:
    def test_random_ones_follow_their_seed_alone(self) -> None:
        before = torch.get_rng_state()
        first, again, other = (
            load_detector(CONFIG.model_copy(update={"weights": f"random:{seed}"})).state_dict() for seed in (0, 0, 1)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_a_published_file_is_read_whatever_its_form(self, tmp_path: Path, suffix: str) -> None:
        """As torchvision publishes Faster R-CNN: frozen norms, which count no steps."""
        state = load_detector(CONFIG.model_copy(update={"weights": "random:7"})).state_dict()
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        path = tmp_path / f"detector.{suffix}"
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        loaded = load_detector(CONFIG.model_copy(update={"weights": f"file:{path}"})).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())

    def test_those_of_another_model_are_refused_with_the_keys(self, tmp_path: Path) -> None:
        state = load_detector(CONFIG).state_dict()
        del state["head.classification_head.module_list.0.1.bias"]
        torch.save(state | {"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
        with pytest.raises(WeightsInvalid, match=r"is not a ssdlite320: keys 1 missing \(head.*1 unknown \(fc\.weight"):
            load_detector(CONFIG.model_copy(update={"weights": f"file:{tmp_path / 'other.pth'}"}))
        with pytest.raises(WeightsInvalid, match="is not a fasterrcnn320"):
            DetectorEngine("fasterrcnn320", tmp_path / "other.pth", "cpu", threads=1)

    def test_a_file_that_is_absent_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsInvalid, match=r"absent\.pth"):
            load_detector(CONFIG.model_copy(update={"weights": f"file:{tmp_path / 'absent.pth'}"}))

    @pytest.mark.parametrize("weights", ["", "random:", "random:x", "file:", "artifact:a", "pretrained:1"])
    def test_unknown_kinds_are_refused(self, weights: str) -> None:
        with pytest.raises(BadConfig, match="expected pretrained, random:SEED or file:PATH"):
            load_detector(CONFIG.model_copy(update={"weights": weights}))

    def test_masks_are_no_detector(self) -> None:
        with pytest.raises(BadConfig, match="'masks' is no detector"):
            load_detector(CropConfig(detector="masks", weights="random:0"))


class TestPublishedFiles:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        (tmp_path / "checkpoints").mkdir()
        return tmp_path / "checkpoints"

    def test_a_cached_file_is_used_if_it_is_what_its_name_says(self, cache: Path) -> None:
        name = f"detector_coco-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
        (cache / name).write_bytes(b"weights")
        assert published_file(f"https://models.invalid/{name}") == cache / name
        (cache / name).write_bytes(b"others")
        with pytest.raises(WeightsInvalid, match="delete it"):
            published_file(f"https://models.invalid/{name}")

    def test_one_that_cannot_be_fetched_says_the_way_out(self, cache: Path) -> None:
        with pytest.raises(WeightsUnavailable, match=r"crop\.weights=file:PATH"):
            published_file("http://127.0.0.1:9/detector-00000000.pth")
        assert not list(cache.iterdir())

    def test_one_is_fetched_once_and_only_if_it_is_what_its_name_says(self, cache: Path, tmp_path: Path) -> None:
        good, bad = f"good-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth", "bad-00000000.pth"
        for name in (good, bad):
            (tmp_path / name).write_bytes(b"weights")
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            assert published_file(f"{url}/{good}").read_bytes() == b"weights"
            (tmp_path / good).unlink()
            assert published_file(f"{url}/{good}") == cache / good
            with pytest.raises(WeightsUnavailable, match="invalid hash value"):
                published_file(f"{url}/{bad}")
            with pytest.raises(WeightsUnavailable, match="404"):
                published_file(f"{url}/absent-00000000.pth")
            server.shutdown()
        assert [path.name for path in cache.iterdir()] == [good]

    @pytest.mark.parametrize("model", MODELS)
    def test_pretrained_weights_are_looked_for_under_torchvisions_name(self, cache: Path, model: str) -> None:
        name = {
            "ssdlite320": "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
            "fasterrcnn320": "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
        }[model]
        (cache / name).write_bytes(b"not the published file")
        with pytest.raises(WeightsInvalid, match=name):
            load_detector(CropConfig(detector=model))
