"""The teacher of a distillation: a vector set of the store, row by row beside the pictures that train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import MANIFEST, Ref, VectorSet
from retrieval_core.artifacts.parts import iter_vectors
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store

ALIASES = (releases.PRODUCTION, releases.LATEST)
N_LISTED = 10


def find_teacher(store: Store, name: str) -> VectorSet:
    """The vector set of a fingerprint, of the unique start of one, or, by `production` or `latest`, a release's.

    Raises `BadConfig` that lists the sets there are.
    """
    release = releases.read_release(store, name) if name in ALIASES else None
    if release:
        return VectorSet.open(store, release.vectors)
    keys = [key.removesuffix(f"/{MANIFEST}") for key in store.list(f"{VectorSet.folder}/") if key.endswith(MANIFEST)]
    matches = [key for key in keys if name and key.rsplit("/", 1)[-1].startswith(name)]
    if len(matches) == 1:
        return _open(store, matches[0])
    listed = ", ".join(
        f"{made.fingerprint[:12]} ({made.variant})" for made in (_open(store, k) for k in keys[:N_LISTED])
    )
    problem = f"is ambiguous among {len(matches)} vector sets" if matches else "names no vector set"
    raise BadConfig(
        f"teacher {name!r} {problem} of {store.url}; give the fingerprint of one, or {releases.PRODUCTION}; "
        f"it has {listed or 'none'}"
    )


def teacher_vectors(store: Store, vectors: VectorSet, content_ids: Sequence[str]) -> Float32:
    """(len(content_ids), dim) float32 of unit length in the order asked, each id once; NaN where there is none."""
    row_of = {content_id: row for row, content_id in enumerate(content_ids)}
    found = np.full((len(content_ids), vectors.dim), np.nan, np.float32)
    for ids, part in iter_vectors(store, vectors):
        pairs = [(row_of[content_id], source) for source, content_id in enumerate(ids) if content_id in row_of]
        if pairs:
            rows, sources = zip(*pairs, strict=True)
            found[list(rows)] = part[list(sources)]
    return found


def _open(store: Store, key: str) -> VectorSet:
    return VectorSet.open(store, Ref(kind="VectorSet", key=key))
