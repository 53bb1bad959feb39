"""`ccp:DIR`: Clothing Co-Parsing in the dataset's own layout (Yang, Luo, Lin, CVPR 2014)."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.folder import absolute_uri, is_picture, list_files
from retrieval_core.ingest.labels import normalise_labels
from retrieval_core.ingest.sources import conform
from retrieval_core.store import read_uri

NOT_APPAREL = frozenset({"null", "hair", "skin"})
PIXEL_LEVEL = "annotations/pixel-level"
IMAGE_LEVEL = "annotations/image-level"


class CcpSource:
    """Photos with the apparel on them: a label number per pixel for some, the numbers present for others.

    The item_id is the photo's number, labels are the apparel labels present, and a photo annotated per pixel has a
    mask: every label but null (background), hair and skin. A photo without annotation has no labels.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"ccp:{uri}"
        root = absolute_uri(uri)
        self._uris = dict(list_files(root, self.spec))
        self._photos = [path for path in self._uris if path.startswith("photos/") and is_picture(path)]
        if not self._photos:
            raise SourceMissing(f"{self.spec} holds no photos/NNNN.jpg; expected the layout of Clothing Co-Parsing")
        if "label_list.mat" not in self._uris:
            raise CatalogInvalid(f"{self.spec} lacks label_list.mat, which names the labels; copy it from the dataset")

    def rows(self) -> pl.DataFrame:
        item_ids = [PurePosixPath(path).stem for path in self._photos]
        masks = [self._uris.get(f"{PIXEL_LEVEL}/{item_id}.mat") for item_id in item_ids]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            labels = list(pool.map(self._labels, item_ids))
        frame = pl.DataFrame(
            {
                "item_id": item_ids,
                "image_uri": [self._uris[path] for path in self._photos],
                "mask_uri": pl.Series(masks, dtype=pl.String),
                "labels": pl.Series(labels, dtype=pl.List(pl.String)),
            }
        )
        return conform(frame, self.spec)

    def read_mask(self, mask_uri: str) -> npt.NDArray[np.bool_]:
        is_apparel = np.zeros(256, bool)
        is_apparel[: len(self._names)] = [name not in NOT_APPAREL for name in self._names]
        mask: npt.NDArray[np.bool_] = is_apparel[self._numbers(mask_uri, "groundtruth")]
        return mask

    @cached_property
    def _names(self) -> Sequence[str]:
        """Label names; a name's position is its number."""
        cells = _read_mat(self._uris["label_list.mat"], "label_list").ravel()
        return [str(np.squeeze(cell)) for cell in cells]

    def _labels(self, item_id: str) -> list[str]:
        if uri := self._uris.get(f"{PIXEL_LEVEL}/{item_id}.mat"):
            numbers = np.flatnonzero(np.bincount(self._numbers(uri, "groundtruth").ravel(order="K")))
        elif uri := self._uris.get(f"{IMAGE_LEVEL}/{item_id}.mat"):
            numbers = np.unique(self._numbers(uri, "tags"))
        else:
            return []
        if len(numbers) and numbers[-1] >= len(self._names):
            raise CatalogInvalid(f"{uri} has label {numbers[-1]}, but label_list.mat names {len(self._names)}")
        return normalise_labels({self._names[int(number)] for number in numbers} - NOT_APPAREL)

    def _numbers(self, uri: str, variable: str) -> npt.NDArray[np.uint8]:
        numbers = _read_mat(uri, variable)
        if numbers.dtype.kind not in "ui" or (numbers.size and not 0 <= numbers.min() <= numbers.max() <= 255):
            raise CatalogInvalid(f"{uri}: {variable} is {numbers.dtype}; expected label numbers of 0 to 255")
        return numbers.astype(np.uint8, copy=False)


def _read_mat(uri: str, variable: str) -> npt.NDArray[Any]:
    """A variable of a MATLAB file. Raises `NotFound`; `CatalogInvalid` when the file or the variable cannot be read."""
    from scipy.io import loadmat

    data = read_uri(uri)
    try:
        return np.asarray(loadmat(io.BytesIO(data), variable_names=[variable])[variable])
    except Exception as error:  # scipy's reader fails in many ways on a damaged file
        raise CatalogInvalid(f"{uri} has no readable MATLAB variable {variable!r}; restore the annotation") from error
