"""A store, and the outputs of a run whose release is sealed in it."""

import pytest

from retrieval_core.artifacts.manifests import MANIFEST, Fitted, IndexSet, Ref, Release
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def outputs_of(store):
    """`outputs_of(release)` are the outputs of the run that made a release, from before the release was sealed."""

    def make(release: Release, **more) -> RunOutputs:
        n = release.counts["rows"]
        candidates = IndexSet.open(store, release.index).parents["candidates"]
        manifest = next(key for key in store.list("vectors/") if key.endswith(f"/{candidates}/{MANIFEST}"))
        values = {
            "source": "folder:x",
            "catalog": release.catalog,
            "catalog_facts": CatalogFacts(
                source="folder:x", rows=n, added=n, changed=0, removed=0, unchanged=0, indexed=n, quarantined=0
            ),
            "backbone": release.backbone,
            "segmenter": Fitted(ref=release.segmenter, trained=False) if release.segmenter else None,
            "detector": None,
            "masks": None,
            "classifier": None,
            "classes": None,
            "heads": tuple(Fitted(ref=ref, trained=False) for ref in release.heads),
            "reducer": Fitted(ref=release.reducer, trained=False),
            "variants": (release.vectors,),
            "vectors": release.vectors,
            "candidates": Ref(kind="VectorSet", key=manifest.removesuffix(f"/{MANIFEST}")),
            "index": release.index,
            "n_shards_built": 2,
            "rejects": (),
            "seconds": {"ingest": 1.0, "embed": 30.0},
            "n_pictures": {"embed": 60},
        }
        return RunOutputs(**(values | more))

    return make
