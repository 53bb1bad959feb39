"""`synthetic:FOLDER?products=300&views=4&seed=0&size_px=256`: a catalogue that is drawn when it is first read.

The pictures are drawings, not photographs. They have what it takes to run and show every stage: several views of each
product, named attributes, busy backgrounds, and masks that are exact to the pixel. They lack what makes real catalogues
hard: faces and bodies, real cloth, a lens, many shapes, wrong labels. A metric measured on them shows that the stages
work together and which of two configs is better on these drawings; it does not estimate quality on photographs. The
difficulty was chosen too: pose, light and haze of the default catalogue are set so that an untrained ResNet-18 reaches
a recall@1 of about 0.3 on the raw pictures and 0.65 on the masked ones.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image
from pydantic import Field, ValidationError

from retrieval_core import images
from retrieval_core.arrays import Bool
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid, ImageRefused
from retrieval_core.ingest.sources.base import conform
from retrieval_core.ingest.sources.files import split_query, write_whole
from retrieval_core.ingest.synthetic.figure import make_figure
from retrieval_core.ingest.synthetic.products import plan_product
from retrieval_core.ingest.synthetic.scene import SUPERSAMPLE, plan_view, shoot
from retrieval_core.store.uris import read_uri

DRAWING_VERSION = 1  # raise when the same seed draws different pictures
JPEG_QUALITY = 90
RECORD = "catalog.json"

log = logging.getLogger(__name__)


class Extent(Value):
    """A block of the catalogue: the first `products` products, each in its first `views` views."""

    products: int = Field(300, ge=1, le=100_000)
    views: int = Field(4, ge=1, le=100)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, DrawnItem) and item.product < self.products and item.view < self.views


class SyntheticQuery(Extent):
    """The query of the URI."""

    seed: int = Field(0, ge=0, lt=2**32)
    size_px: int = Field(256, ge=64, le=1024)


class DrawnRecord(Value):
    """The content of `catalog.json`: what was drawn into a folder. A missing picture of it was deleted on purpose."""

    about: str = "Drawn by Vitrine's synthetic source; these are not photographs."
    drawing_version: int
    seed: int
    size_px: int
    drawn: tuple[Extent, ...] = ()


class DrawnItem(NamedTuple):
    """A picture to draw: the number of its product, and of the view."""

    product: int
    view: int

    @property
    def item_id(self) -> str:
        return f"p{self.product:04d}-v{self.view}"


class SyntheticSource:
    """Drawn products with labels, attributes and exact masks. The same query draws the same pictures on any machine.

    The first `rows()` draws. From then on the folder is a catalogue like any other: a picture that is deleted, replaced
    or damaged stays so. A later query for more products or views draws only those. `n_threads` 0 takes every core; the
    number of threads does not change the pictures.

    Raises `BadConfig` for a URI without a folder, an unknown query key or a number out of bounds.
    """

    notes: tuple[str, ...] = ()
    n_passed_over: int = 0

    def __init__(self, uri: str, n_threads: int = 0) -> None:
        self.spec = f"synthetic:{uri}"
        folder, self._query = split_query(uri, SyntheticQuery, self.spec)
        if "://" in folder:
            raise BadConfig(f"{self.spec}: expected a local folder to draw into; e.g. synthetic:./drawn?products=300")
        self._folder = Path(folder).absolute()
        self._n_threads = n_threads or os.cpu_count() or 1

    def rows(self) -> pl.DataFrame:
        """Draw what was never drawn, and return one row per picture on disk, in `SOURCE_SCHEMA`; the split is null.

        Raises `BadConfig` when the folder cannot be written or holds drawings of another seed or size, `CatalogInvalid`
        when its `catalog.json` is damaged, and `SourceMissing` when every picture was deleted.
        """
        try:
            self._draw_missing()
        except OSError as error:
            raise BadConfig(
                f"{self.spec}: cannot draw into the folder ({error}); name one that can be written"
            ) from error
        pictures, masks = _names(self._folder / "images"), _names(self._folder / "masks")
        rows = []
        for product, items in groupby(self._items(), key=lambda item: item.product):
            present = [item for item in items if self._picture(item).name in pictures]
            metadata = self._metadata(product) if present else {}
            for item in present:
                mask = self._mask(item)
                uris = {"image_uri": str(self._picture(item)), "mask_uri": str(mask) if mask.name in masks else None}
                rows.append({"item_id": item.item_id, **uris, **metadata})
        return conform(pl.DataFrame(rows, infer_schema_length=None), self.spec)

    def read_mask(self, mask_uri: str) -> Bool:
        """Return the (size_px, size_px) bool mask, True on the product. Raises `NotFound`, `ImageRefused`."""
        try:
            mask: Bool = images.decode(read_uri(mask_uri))[..., 0] >= 128
        except ImageRefused as error:
            raise ImageRefused(f"mask {mask_uri} {error}; delete it to go without") from error
        return mask

    def _items(self) -> Iterator[DrawnItem]:
        return (DrawnItem(p, v) for p in range(self._query.products) for v in range(self._query.views))

    def _picture(self, item: DrawnItem) -> Path:
        return self._folder / "images" / f"{item.item_id}.jpg"

    def _mask(self, item: DrawnItem) -> Path:
        return self._folder / "masks" / f"{item.item_id}.png"

    def _metadata(self, number: int) -> dict[str, object]:
        product = plan_product(self._query.seed, number)
        return {
            "product_id": product.product_id,
            "category": product.category,
            "labels": product.labels,
            "attributes": [{"name": name, "value": value} for name, value in product.attributes.items()],
        }

    def _draw_missing(self) -> None:
        record = self._read_record()
        extent = Extent(products=self._query.products, views=self._query.views)
        if any(extent.products <= drawn.products and extent.views <= drawn.views for drawn in record.drawn):
            return
        for folder in ("images", "masks"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        self._write_record(record)  # first, so that drawing is never resumed with another seed or size
        pictures, masks = _names(self._folder / "images"), _names(self._folder / "masks")
        missing = [
            item
            for item in self._items()
            if not any(item in drawn for drawn in record.drawn)
            and not (self._picture(item).name in pictures and self._mask(item).name in masks)
        ]
        self._draw(missing)
        self._write_record(record.model_copy(update={"drawn": (*record.drawn, extent)}))

    def _draw(self, items: list[DrawnItem]) -> None:
        # Threads are enough: most of the time is spent in Pillow and numpy, which release the interpreter lock.
        log.info("%s: drawing %d pictures", self.spec, len(items))
        by_product = [list(group) for _, group in groupby(items, key=lambda item: item.product)]
        pool = ThreadPoolExecutor(self._n_threads)
        try:
            for _ in pool.map(self._draw_product, by_product):
                pass
        finally:
            pool.shutdown(cancel_futures=True)

    def _draw_product(self, items: list[DrawnItem]) -> None:
        seed, number = self._query.seed, items[0].product
        figure = make_figure(plan_product(seed, number), self._query.size_px * SUPERSAMPLE)
        for item in items:
            shot = shoot(figure, plan_view(seed, number, item.view))
            # The mask first, so that no picture lacks its mask.
            write_whole(self._mask(item), _encode(shot.mask, "PNG"))
            write_whole(self._picture(item), _encode(shot.picture, "JPEG"))

    def _read_record(self) -> DrawnRecord:
        query = self._query
        try:
            record = DrawnRecord.model_validate_json((self._folder / RECORD).read_bytes())
        except FileNotFoundError:
            return DrawnRecord(drawing_version=DRAWING_VERSION, seed=query.seed, size_px=query.size_px)
        except ValidationError as error:
            raise CatalogInvalid(
                f"{self._folder / RECORD} is damaged; delete it, and missing pictures are drawn"
            ) from error
        version, seed, size_px = record.drawing_version, record.seed, record.size_px
        if (version, seed, size_px) != (DRAWING_VERSION, query.seed, query.size_px):
            raise BadConfig(
                f"{self._folder} holds drawings of version={version} seed={seed} size_px={size_px}, not of "
                f"version={DRAWING_VERSION} seed={query.seed} size_px={query.size_px}; name another folder"
            )
        return record

    def _write_record(self, record: DrawnRecord) -> None:
        write_whole(self._folder / RECORD, json.dumps(record.model_dump(), indent=2).encode())


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _encode(pixels: npt.NDArray[np.generic], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=JPEG_QUALITY)
    return buffer.getvalue()
