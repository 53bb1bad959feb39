"""Embedding drift: do tonight's vectors lie as those of the last release did?

Norms, distances to the nearest other item, and coordinates on the first principal components of the last release are
compared as distributions, of the whole catalogue and of what arrived since. Only vectors of one family compare: another
backbone or head makes another space.

A distribution has drifted where its population stability index is large and Kolmogorov and Smirnov's two-sample test
says that chance does not explain it: of two small samples of one distribution the index alone is often large. Index and
its thresholds as in Siddiqi, "Credit Risk Scorecards", Wiley 2006: below 0.1 no shift, from 0.25 on a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.measure.indexed_rows import Indexed, sample_rows
from retrieval_core.metrics.significance import holm
from retrieval_core.reduce.pca import Pca, fit_pca, project

MAX_SAMPLED = 2_000
MIN_ARRIVED = 20  # fewer say nothing about a distribution
N_COMPONENTS = 3
N_BINS = 20
N_QUANTILES = 10
MAX_EXACT = 100  # values up to which the exact distribution of the test statistic is cheap
DECIMALS = 5  # beyond them a float32 cosine is rounding
PSI_SOME, PSI_LARGE = 0.1, 0.25
ALPHA = 0.05

Shift = Literal["none", "some", "large"]


class Drift(Value):
    """One distribution then and now: (n + 1) shared `edges`, and the share of the rows in each of the n bins.

    `ks` is the largest difference of the two distribution functions, `p_holm` its p over all that were tested, `psi`
    the population stability index. On a night with nothing to compare there is only `now`, and no figure.
    """

    name: str
    n_then: int
    n_now: int
    edges: tuple[float, ...]
    then: tuple[float, ...] = ()
    now: tuple[float, ...]
    ks: float | None = None
    p_holm: float | None = None
    psi: float | None = None

    @property
    def shift(self) -> Shift:
        """How far it moved; "none" where chance explains what is seen."""
        if self.psi is None or self.p_holm is None or self.p_holm >= ALPHA or self.psi < PSI_SOME:
            return "none"
        return "large" if self.psi >= PSI_LARGE else "some"


class DriftFacts(Value):
    """`catalog`: the vectors of all items, then and now. `arrived`: those that are new or show another picture.

    All are measured on up to `MAX_SAMPLED` rows, `n_sampled` of `n_rows` now. `incomparable` says why then and now are
    not compared, `missing` why there is nothing at all.
    """

    n_rows: int
    n_sampled: int = 0
    n_arrived: int = 0
    catalog: tuple[Drift, ...] = ()
    arrived: tuple[Drift, ...] = ()
    incomparable: str = ""
    missing: str = ""

    @property
    def drifted(self) -> tuple[Drift, ...]:
        """What moved far, of catalogue and arrivals."""
        return tuple(drift for drift in (*self.catalog, *self.arrived) if drift.shift == "large")


class _Pair(NamedTuple):
    name: str
    then: Float64
    now: Float64


def find_drift(then: Indexed | None, now: Indexed, seed: int) -> DriftFacts:
    """Compare the vectors of two releases; without `then`, or in another space, tonight's distributions alone.

    Rows are drawn by hash, so that an item that stays is in both samples or in neither.
    """
    sample = now.sample(MAX_SAMPLED, seed)
    if len(sample) < 2:
        return DriftFacts(n_rows=len(now.items), missing="Fewer than two items have a vector.")
    incomparable = _incomparable(then, now)
    base = now if then is None or incomparable else then
    base_sample = base.sample(MAX_SAMPLED, seed)
    pca = _fit(base, base_sample)
    tonight = _measures(now, sample, pca)
    if incomparable:
        alone = tuple(_alone(name, values) for name, values in tonight.items())
        return DriftFacts(n_rows=len(now.items), n_sampled=len(sample), catalog=alone, incomparable=incomparable)
    before = _measures(base, base_sample, pca)
    arrived = _arrived(base.items, now.items)
    pairs = [_Pair(name, before[name], values) for name, values in tonight.items()]
    if len(arrived) >= MIN_ARRIVED:
        news = _measures(now, sample_rows(arrived, MAX_SAMPLED, seed), pca)
        pairs += [_Pair(name, before[name], values) for name, values in news.items()]
    drifts = compare_distributions(pairs)
    return DriftFacts(
        n_rows=len(now.items),
        n_sampled=len(sample),
        n_arrived=len(arrived),
        catalog=drifts[: len(tonight)],
        arrived=drifts[len(tonight) :],
    )


def compare_distributions(pairs: Sequence[tuple[str, Float64, Float64]]) -> tuple[Drift, ...]:
    """Each (name, values then, values now), any number of finite values each but at least one, compared; p by Holm.

    For what no index holds, such as norms before vectors were brought to unit length. Raises `BadConfig` for a side
    without values or with NaN or infinite ones.
    """
    tested = [_compare(_Pair(*pair)) for pair in pairs]
    adjusted = holm([p for _, p in tested])
    return tuple(
        drift.model_copy(update={"p_holm": p_holm}) for (drift, _), p_holm in zip(tested, adjusted, strict=True)
    )


def _incomparable(then: Indexed | None, now: Indexed) -> str:
    if then is None:
        return "There is no release to compare with."
    if then.family != now.family:
        return "The last release lies in another space: another backbone, view, mask or head made its vectors."
    return "" if len(then.items) > 1 else "The last release holds fewer than two items."


def _fit(side: Indexed, sample: Int64) -> Pca:
    vectors = side.index.vectors_of(sample)
    return fit_pca([vectors], min(N_COMPONENTS, vectors.shape[1]))


def _measures(side: Indexed, sample: Int64, pca: Pca) -> dict[str, Float64]:
    """(n,) float64 of each kind."""
    vectors = side.index.vectors_of(sample)
    scores, _ = side.nearest(sample, 1)
    coordinates = project(pca, vectors, len(pca.components))
    measures = {
        "norm": np.linalg.norm(vectors.astype(np.float64), axis=1),
        "distance to the nearest": _distance(scores),
    }
    measures |= {f"component {i + 1}": coordinates[:, i].astype(np.float64) for i in range(coordinates.shape[1])}
    return {name: np.round(values, DECIMALS) for name, values in measures.items()}


def _distance(scores: Float32) -> Float64:
    return np.asarray(np.maximum(1 - scores[:, 0].astype(np.float64), 0))


def _arrived(then: pl.DataFrame, now: pl.DataFrame) -> Int64:
    """Ascending row ids of the items that are new or show another picture."""
    return now.join(then, on=["row_id", "content_id"], how="anti")["row_id"].sort().to_numpy()


def _alone(name: str, values: Float64) -> Drift:
    edges = _edges(values)
    return Drift(name=name, n_then=0, n_now=len(values), edges=tuple(edges.tolist()), now=_shares(values, edges))


def _compare(pair: _Pair) -> tuple[Drift, float]:
    """The drift and its p, not corrected yet."""
    from scipy.stats import ks_2samp

    for values in (pair.then, pair.now):
        if not len(values) or not np.isfinite(values).all():
            raise BadConfig(f"{pair.name}: got {len(values)} values; a distribution wants one or more, all finite")
    edges = _edges(np.concatenate([pair.then, pair.now]))
    few = max(len(pair.then), len(pair.now)) <= MAX_EXACT
    tested = ks_2samp(pair.then, pair.now, method="exact" if few else "asymp")
    drift = Drift(
        name=pair.name,
        n_then=len(pair.then),
        n_now=len(pair.now),
        edges=tuple(edges.tolist()),
        then=_shares(pair.then, edges),
        now=_shares(pair.now, edges),
        ks=float(tested.statistic),
        psi=stability_index(pair.then, pair.now),
    )
    return drift, float(tested.pvalue)


def stability_index(then: Float64, now: Float64) -> float:
    """Population stability index of (n,) and (m,) values over the tenths of `then`: the sum of (p - q) ln(p / q).

    Half a row is added to every bin, so that an empty one does not make it infinite.
    """
    inner = np.unique(np.quantile(then, np.arange(1, N_QUANTILES) / N_QUANTILES))
    counts = [np.bincount(np.searchsorted(inner, values), minlength=len(inner) + 1) + 0.5 for values in (then, now)]
    p, q = (held / held.sum() for held in counts)
    return float(((q - p) * np.log(q / p)).sum())


def _edges(values: Float64) -> Float64:
    return np.asarray(np.histogram_bin_edges(values, N_BINS))


def _shares(values: Float64, edges: Float64) -> tuple[float, ...]:
    counts, _ = np.histogram(values, edges)
    return tuple((counts / len(values)).tolist())
