"""A card: everything that is known about a backbone before its weights are loaded."""

from __future__ import annotations

from typing import Any, Literal

from retrieval_core.artifacts.manifests import Value

Channels = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
PERMISSIVE_LICENCES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "mit")


class Card(Value):
    """What a backbone is, how it expects its pictures, and where its published weights are.

    `library` names the adapter, `model` and `tag` the network within that library, `dim` the width of its vectors.
    `mean` and `std` are for RGB in 0 to 1. A `resizable` network takes squares of any multiple of `size_step_px`.
    `unused_keys` are prefixes of published keys that no embedding needs, above all the classifier over `n_classes`
    classes. The pretrained weights are `hub_file` in `hub_repo` on the Hugging Face hub, or the file at `url` with
    `sha256`, published under `licence`; `OWNER/NAME@REVISION` names a commit of the repository. `commercial` is false
    where the licence forbids or limits commercial use. `model_cfg` is open_clip's description of a network that has no
    card of its own.
    """

    name: str
    library: str
    model: str
    tag: str
    dim: int
    size_px: int
    crop_fraction: float = 1.0
    crop: Literal["center", "squash"] = "center"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    resizable: bool = True
    size_step_px: int = 1
    unused_keys: tuple[str, ...] = ()
    n_classes: int = 0
    hub_repo: str = ""
    hub_file: str = "model.safetensors"
    url: str = ""
    sha256: str = ""
    licence: str = "apache-2.0"
    commercial: bool = True
    has_text: bool = False
    model_cfg: dict[str, Any] = {}
