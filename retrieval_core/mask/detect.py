"""Find the product with a torchvision detector of COCO objects: the box that a picture is cropped to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Float64
from retrieval_core.config.stages import CropConfig
from retrieval_core.errors import BadConfig, WeightsInvalid, WeightsUnavailable
from retrieval_core.images import RGB, shrink
from retrieval_core.mask.quality import Mask
from retrieval_core.store.files import file_sha256

if TYPE_CHECKING:
    from torch import nn


WEIGHTS_FILE = "weights.safetensors"
MAX_SIDE_PX = 640  # no detector here uses more, and a larger picture would only fill the memory
GRID_PX = 320  # side of the masks that boxes are stored as, and of the squares that detectors search
CENTRE_SPREAD = 0.25


class _Model(NamedTuple):
    """Names in `torchvision.models.detection`."""

    builder: str
    weights: str


_MODELS = {
    "ssdlite320": _Model("ssdlite320_mobilenet_v3_large", "SSDLite320_MobileNet_V3_Large_Weights"),
    "fasterrcnn320": _Model("fasterrcnn_mobilenet_v3_large_320_fpn", "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights"),
}


class Box(NamedTuple):
    """A box in shares of the picture's sides: 0 at its left and top, 1 at its right and bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def mask(self) -> Mask:
        """Return (GRID_PX, GRID_PX) bool, True on every cell that the box touches."""
        first = np.floor(np.array([self.top, self.left]) * GRID_PX).astype(int)
        last = np.ceil(np.array([self.bottom, self.right]) * GRID_PX).astype(int)
        mask = np.zeros((GRID_PX, GRID_PX), np.bool_)
        mask[first[0] : last[0], first[1] : last[1]] = True
        return mask


def choose_box(boxes: Float64, scores: Float64, min_score: float) -> Box | None:
    """Return the product's box among (n, 4) boxes, left, top, right and bottom in shares of the sides, by (n,) scores.

    It is the box with the largest A·exp(-d²/2s²) of those that score `min_score` or more: A is its area, d the distance
    of its centre from the picture's, s a quarter of a side. A product fills the middle of its picture; a larger box
    that an edge cuts off is a backdrop or another product, so an area centred on an edge counts a seventh. None where
    no box with an area scores enough.
    """
    boxes = np.clip(boxes, 0, 1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5
    weight = area * np.exp(-np.square(offset).sum(axis=1) / (2 * CENTRE_SPREAD**2))
    weight[~((scores >= min_score) & np.isfinite(weight))] = 0
    return Box(*boxes[np.argmax(weight)].tolist()) if (weight > 0).any() else None


class DetectorEngine:
    """A detector of the model that `CropConfig.detector` names, with weights that `save_detector` wrote.

    One picture uses `threads` CPU threads (0: every core). Raises `WeightsInvalid` for weights of another model.
    """

    def __init__(self, model: str, weights: Path, device: str, threads: int) -> None:
        import torch

        from retrieval_core.state_dict import fill, read_state

        network = _build(model)
        fill(network, read_state(weights), weights.name, f"a {model}")
        torch.set_num_threads(threads or os.cpu_count() or 1)
        self._network, self._device = network.eval().to(device), device

    def box(self, image: RGB, config: CropConfig) -> Box | None:
        """Return the product's box in an upright (h, w, 3) uint8 picture; None where none scores `config.min_score`.

        It takes one picture at a time: in a batch, its padding and so its boxes would depend on the others. SSDlite
        itself drops boxes that score below 0.001, Faster R-CNN those below 0.05.
        """
        import torch

        small = shrink(image, MAX_SIDE_PX)
        pixels = torch.from_numpy(np.ascontiguousarray(small)).to(self._device).permute(2, 0, 1).float() / 255
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            (output,) = self._network([pixels])
        height, width = small.shape[:2]
        boxes = output["boxes"].cpu().numpy().astype(np.float64) / (width, height, width, height)
        return choose_box(boxes, output["scores"].cpu().numpy().astype(np.float64), config.min_score)


def detect(engine: DetectorEngine, config: CropConfig, image: RGB) -> tuple[Mask, str]:
    """Return the product's box in an upright (h, w, 3) uint8 picture as a rectangular mask, and "".

    Where no box scores enough the mask covers the whole picture, and the text says so.
    """
    box = engine.box(image, config)
    if box is None:
        return np.ones((GRID_PX, GRID_PX), np.bool_), f"no box scores {config.min_score:g} or more"
    return box.mask(), ""


def load_detector(config: CropConfig) -> nn.Module:
    """Return the configured detector with exactly the weights that the config names; its 91 classes are COCO's.

    The global random state is left as it was. Raises `BadConfig` (weights of an unknown kind), `WeightsInvalid` (a file
    that is absent, altered or of another model) and `WeightsUnavailable` (no internet and nothing cached).
    """
    import torch

    from retrieval_core.state_dict import fill, read_state

    kind, _, value = config.weights.partition(":")
    if not (config.weights == "pretrained" or (kind == "file" and value) or (kind == "random" and value.isdecimal())):
        raise BadConfig(f"crop.weights is {config.weights!r}; expected pretrained, random:SEED or file:PATH")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value) if kind == "random" else 0)
        network = _build(config.detector)
    if kind != "random":
        path = Path(value) if kind == "file" else published_file(_published_url(config.detector))
        fill(network, read_state(path), path.name, f"a {config.detector}")
    return network


def save_detector(network: nn.Module, folder: Path) -> None:
    """Write `weights.safetensors`; equal weights give equal bytes."""
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, folder / WEIGHTS_FILE)


def published_file(url: str) -> Path:
    """Return a file that torchvision publishes, from torch's cache or downloaded into it.

    Its name ends in the first digits of its sha256, which are checked every time. Raises `WeightsInvalid` for an
    altered file, `WeightsUnavailable` where it cannot be downloaded.
    """
    from retrieval_core.state_dict import cached_download

    expected = Path(url).stem.rsplit("-", 1)[-1]
    try:
        path = cached_download(url, expected)
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"cannot fetch pretrained weights from {url}: {error}; give a copy of the file as "
            "--set crop.weights=file:PATH, or crop to the segmenter's masks by --set crop.detector=masks"
        ) from error
    actual = file_sha256(path)
    if not actual.startswith(expected):
        raise WeightsInvalid(f"{path} has sha256 {actual}, but its name promises {expected}…; delete it and run again")
    return path


def _published_url(model: str) -> str:
    from torchvision.models import detection

    return getattr(detection, _MODELS[model].weights).COCO_V1.url


def _build(model: str) -> nn.Module:
    from torchvision.models import detection

    if model not in _MODELS:
        raise BadConfig(f"crop.detector {model!r} is no detector; expected one of {', '.join(_MODELS)}")
    network: nn.Module = getattr(detection, _MODELS[model].builder)(weights=None, weights_backbone=None)
    return network
