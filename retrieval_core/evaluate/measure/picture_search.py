"""Search by pictures without embedding those again that an earlier run has embedded in the same way."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Report, content_id, fingerprint
from retrieval_core.artifacts.parts import read_kept
from retrieval_core.images import RGB
from retrieval_core.search.hits import Hit
from retrieval_core.search.release import OpenRelease
from retrieval_core.store.base import Store

SYNTHETIC_FILE = "synthetic_vectors.parquet"  # what the next run need not embed again
SCHEMA = {"encoder": pl.String(), "picture": pl.String(), "vector": pl.List(pl.Float32())}


class PictureSearch:
    """A release that is searched by pictures; `known` (`SCHEMA`) are vectors of an earlier run.

    A vector is taken from there where the same encoder made it of the same pixels.
    """

    def __init__(self, release: OpenRelease, known: pl.DataFrame) -> None:
        self._release, self._encoder = release, encoder_name(release)
        rows = known.filter(pl.col("encoder") == self._encoder).select("picture", "vector").iter_rows()
        self._known = {picture: np.array(vector, np.float32) for picture, vector in rows}
        self._used: dict[str, Float32] = {}

    def search(self, picture: RGB, k: int) -> list[Hit]:
        """Return the k items most like an upright (h, w, 3) uint8 picture, best first."""
        name = content_id(repr(picture.shape).encode() + picture.tobytes())
        vector = self._known.get(name)
        if vector is None:
            vector = self._release.encoder.embed_picture(picture)
        self._used[name] = vector
        return self._release.search_vector(vector, k)

    def vectors(self) -> pl.DataFrame:
        """Return the vectors (`SCHEMA`) of the pictures that were searched, for the next run."""
        columns = [[self._encoder] * len(self._used), list(self._used), [v.tolist() for v in self._used.values()]]
        return pl.DataFrame(columns, SCHEMA, orient="col")


def encoder_name(release: OpenRelease) -> str:
    """Return a name that is equal for releases that make the same vector of the same picture."""
    sealed = release.release
    config = sealed.nightly_config()
    settings = {name: getattr(config, name).model_dump(mode="json") for name in ("mask", "crop", "embed")}
    models = [sealed.backbone, sealed.head, sealed.segmenter, sealed.detector]
    names = [model.name if model else "" for model in models]
    return fingerprint("encoder", STAGE_VERSIONS["evaluate"], settings | {"variant": str(sealed.variant)}, names)


def read_known(store: Store, earlier: Report | None) -> pl.DataFrame:
    """Return the vectors (`SCHEMA`) that an earlier report kept; none where it has none or they are lost."""
    return read_kept(store, earlier, SYNTHETIC_FILE, SCHEMA)
