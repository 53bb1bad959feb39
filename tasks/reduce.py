"""PCA: fit it on a random sample of the published vectors, apply it to all of them."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from prefect.logging import get_run_logger

from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import derive_vectors, sample_vectors
from retrieval_core.artifacts.manifests import Fitted, Reducer, Ref, VectorSet
from retrieval_core.artifacts.parts import put_part_file
from retrieval_core.artifacts.variants import Reduced
from retrieval_core.config import ReduceConfig
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, fit_pca, load_pca, save_pca
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("fit reducer")
def fit_reducer(settings: Settings, catalog: Ref, vectors: Ref, config: ReduceConfig) -> Fitted:
    """The reducer to use on these vectors tonight: an earlier one while it serves, else one fitted on a sample."""
    store, logger = settings.open_store(), get_run_logger()
    vector_set = VectorSet.open(store, vectors)
    name = fingerprints.reducer_fingerprint(config, catalog.name, vector_set.family)
    items = load_items(store, catalog.name)
    known = Reducer.find(store, name)
    release = releases.read_reference(store)
    if known is None and release and release.reducer:
        earlier = Reducer.open(store, release.reducer)
        parents = {"vectors": vector_set.family}
        if fingerprints.still_serves(store, earlier, fingerprints.reducer_question(config), parents, config, items):
            known = earlier
    if known:
        return Fitted(ref=known.ref, trained=False)
    # More dimensions than the data spans would be noise: a small or narrow catalogue gets fewer.
    dims = tuple(dim for dim in config.dims if dim <= vector_set.dim) or (vector_set.dim,)
    if dims != config.dims:
        logger.warning("vectors have %d dimensions: reducing to %s instead of %s", vector_set.dim, dims, config.dims)
    pca = fit_pca(sample_vectors(store, vector_set, config.sample_rows, config.seed), max(dims))
    with tempfile.TemporaryDirectory() as folder:
        save_pca(pca, Path(folder, PCA_FILE))
        part = put_part_file(store, f"{Reducer.folder}/{name}/{PCA_FILE}", Path(folder, PCA_FILE), 0)
    explained = {str(dim): float(pca.variances[:dim].sum() / max(pca.total_variance, 1e-12)) for dim in dims}
    reducer = Reducer(
        fingerprint=name,
        config=fingerprints.reducer_question(config),
        parents={"catalog": catalog.name, "vectors": vector_set.family},
        parts=(part,),
        input_dim=vector_set.dim,
        dims=dims,
        explained_variance=explained,
    ).seal(store)
    return Fitted(ref=reducer.ref, trained=True)


@stage("apply reducer")
def apply_reducer(settings: Settings, vectors: Ref, reducer: Ref, config: ReduceConfig) -> list[Ref]:
    """A set reduced to each of the reducer's dimensions, unit length; parts reduced before are kept."""
    store = settings.open_store()
    source, fitted = VectorSet.open(store, vectors), Reducer.open(store, reducer)
    pca = load_pca(store.local_path(fitted.part(PCA_FILE).key, fitted.part(PCA_FILE).sha256))
    refs = []
    for dim in fitted.dims:
        family = fingerprints.reduced_family(fitted.fingerprint, source.family, dim)
        reduce = partial(apply_pca, pca, dim=dim, whiten=config.whiten)
        refs.append(derive_vectors(store, source, family, Reduced(dim), dim, reduce).ref)
    return refs
