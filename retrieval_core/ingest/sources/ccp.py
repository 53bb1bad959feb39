"""`ccp:DIR?category=largest`: Clothing Co-Parsing in the dataset's own layout (Yang, Luo, Lin, CVPR 2014)."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.arrays import Bool, UInt8
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import conform
from retrieval_core.ingest.sources.files import absolute_uri, is_picture, split_query
from retrieval_core.ingest.sources.labels import normalise_labels
from retrieval_core.ingest.sources.listing import list_dataset, passed_over_notes
from retrieval_core.store.traffic import counting
from retrieval_core.store.uris import read_uri

NOT_APPAREL = frozenset({"null", "hair", "skin"})
PIXEL_LEVEL = "annotations/pixel-level"
IMAGE_LEVEL = "annotations/image-level"


class CcpQuery(Value):
    """The query of the URI; `largest` takes the label that covers the most pixels as the category."""

    category: Literal["largest"] | None = None


class Annotation(NamedTuple):
    """The apparel labels of a photo, and the one that covers the most pixels, None where that is unknown."""

    labels: list[str]
    largest: str | None


class CcpSource:
    """Photos of dressed people: some annotated with a label number per pixel, others with the numbers present.

    The item_id is the photo's number and the labels are the apparel labels present, none for a photo without
    annotation. A photo annotated per pixel has a mask: every label but null (background), hair and skin.

    With `?category=largest` the category of a photo annotated per pixel is the apparel label that covers the most
    pixels, of two equal ones that with the lower number. Raises `BadConfig` for any other query.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"ccp:{uri}"
        folder, self._query = split_query(uri, CcpQuery, self.spec)
        root = absolute_uri(folder)
        listing = list_dataset(root, self.spec)
        self.notes, self.n_passed_over = passed_over_notes(listing.passed_over), listing.passed_over.total()
        self._uris = {path: f"{root.rstrip('/')}/{path}" for path in listing.paths}
        self._photos = [path for path in self._uris if path.startswith("photos/") and is_picture(path)]
        if not self._photos:
            raise SourceMissing(f"{self.spec} holds no photos/NNNN.jpg; expected the layout of Clothing Co-Parsing")
        if "label_list.mat" not in self._uris:
            raise CatalogInvalid(f"{self.spec} lacks label_list.mat, which names the labels; copy it from the dataset")

    def rows(self) -> pl.DataFrame:
        item_ids = [PurePosixPath(path).stem for path in self._photos]
        masks = [self._uris.get(f"{PIXEL_LEVEL}/{item_id}.mat") for item_id in item_ids]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            annotations = list(pool.map(counting(self._annotation), item_ids))
        categories = [photo.largest if self._query.category else None for photo in annotations]
        frame = pl.DataFrame(
            {
                "item_id": item_ids,
                "image_uri": [self._uris[path] for path in self._photos],
                "mask_uri": pl.Series(masks, dtype=pl.String),
                "category": pl.Series(categories, dtype=pl.String),
                "labels": pl.Series([photo.labels for photo in annotations], dtype=pl.List(pl.String)),
            }
        )
        return conform(frame, self.spec)

    def read_mask(self, mask_uri: str) -> Bool:
        mask: Bool = self._is_apparel[self._numbers(mask_uri, "groundtruth")]
        return mask

    @cached_property
    def _names(self) -> Sequence[str]:
        """Label names by label number."""
        cells = _read_mat(self._uris["label_list.mat"], "label_list").ravel()
        return [str(np.squeeze(cell)) for cell in cells]

    @cached_property
    def _is_apparel(self) -> Bool:
        """(256,) bool, by label number."""
        is_apparel = np.zeros(256, bool)
        is_apparel[: len(self._names)] = [name not in NOT_APPAREL for name in self._names]
        return is_apparel

    def _annotation(self, item_id: str) -> Annotation:
        if uri := self._uris.get(f"{PIXEL_LEVEL}/{item_id}.mat"):
            n_pixels = np.bincount(self._numbers(uri, "groundtruth").ravel(order="K"))
            labels = self._apparel(np.flatnonzero(n_pixels), uri)
            n_pixels[~self._is_apparel[: len(n_pixels)]] = 0
            return Annotation(labels, self._names[int(n_pixels.argmax())].strip() if n_pixels.any() else None)
        if uri := self._uris.get(f"{IMAGE_LEVEL}/{item_id}.mat"):
            return Annotation(self._apparel(np.unique(self._numbers(uri, "tags")), uri), None)
        return Annotation([], None)

    def _apparel(self, numbers: npt.NDArray[np.integer[Any]], uri: str) -> list[str]:
        """Return the names of the apparel among these ascending label numbers of the file `uri`."""
        if len(numbers) and numbers[-1] >= len(self._names):
            raise CatalogInvalid(f"{uri} has label {numbers[-1]}, but label_list.mat names {len(self._names)}")
        return normalise_labels({self._names[int(number)] for number in numbers} - NOT_APPAREL)

    def _numbers(self, uri: str, variable: str) -> UInt8:
        numbers = _read_mat(uri, variable)
        if numbers.dtype.kind not in "ui" or (numbers.size and not 0 <= numbers.min() <= numbers.max() <= 255):
            raise CatalogInvalid(f"{uri}: {variable} is {numbers.dtype}; expected label numbers of 0 to 255")
        return numbers.astype(np.uint8, copy=False)


def _read_mat(uri: str, variable: str) -> npt.NDArray[Any]:
    """Read a variable of a MATLAB file. Raises `NotFound`; `CatalogInvalid` when file or variable are unreadable."""
    from scipy.io import loadmat

    data = read_uri(uri)
    try:
        return np.asarray(loadmat(io.BytesIO(data), variable_names=[variable])[variable])
    except Exception as error:  # scipy's reader fails in many ways on a damaged file
        raise CatalogInvalid(f"{uri} has no readable MATLAB variable {variable!r}; restore the annotation") from error
