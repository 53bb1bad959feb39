"""Embedding drift: are the current vectors distributed as those of the previous release were?

Three kinds of number are compared as distributions: norms, distances to the nearest other item, and coordinates on the
first principal components of the previous release. They are compared for the whole catalogue, and for the items that
arrived since. Only vectors of one family are comparable: another backbone or head spans another space.

A distribution counts as drifted if its population stability index (PSI) is large and the two-sample Kolmogorov-Smirnov
test rules out chance; the PSI alone is often large between two small samples of one distribution. The PSI and its
thresholds follow Siddiqi, "Credit Risk Scorecards", Wiley 2006: below 0.1 no shift, from 0.25 a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems, ReleasePair, sample_rows
from retrieval_core.metrics.significance import holm
from retrieval_core.reduce.pca import Pca, fit_pca, project

MAX_SAMPLED = 2_000
MIN_ARRIVED = 20  # fewer say nothing about a distribution
N_COMPONENTS = 3
N_BINS = 20
N_QUANTILES = 10
DECIMALS = 5  # a float32 cosine has no meaning beyond these
PSI_SOME, PSI_LARGE = 0.1, 0.25
ALPHA = 0.05

Nearest = Callable[[Int64, int], tuple[Float32, Int64]]
Shift = Literal["none", "some", "large"]


class Drift(Value):
    """One distribution in the previous (`then`) and in the current release (`now`).

    `edges` are the n + 1 bin edges that both share; `then` and `now` are the shares of rows in each of the n bins.
    `ks` is the largest difference of the two distribution functions, `p_holm` its Holm-corrected p, `psi` the
    population stability index. Without a previous release, `then` is empty and the statistics are None.
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
    def is_constant(self) -> bool:
        """Whether every item has the same value, in both releases."""
        return max(self.now) == 1 and (not self.then or self.then == self.now)

    @property
    def shift(self) -> Shift:
        """Size of the shift; "none" if chance explains it."""
        if self.psi is None or self.p_holm is None or self.p_holm >= ALPHA or self.psi < PSI_SOME:
            return "none"
        return "large" if self.psi >= PSI_LARGE else "some"


class DriftFacts(Value):
    """Drift of the whole `catalog`, and of the `arrived` items: those that are new or show another picture.

    Each is measured on at most `MAX_SAMPLED` rows: `n_sampled` of the `n_rows` in the current release. `incomparable`
    says why there is no comparison, `missing` why nothing was measured.
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
        """The distributions with a large shift, in the catalogue and among the arrivals."""
        return tuple(drift for drift in (*self.catalog, *self.arrived) if drift.shift == "large")


class _Pair(NamedTuple):
    name: str
    before: Float64
    after: Float64


def find_drift(pair: ReleasePair, seed: int) -> DriftFacts:
    """Compare the vectors of two releases, or describe the current ones alone if the two are not comparable.

    Rows are sampled by their hash, so that an item that both releases have is in both samples or in neither.
    """
    previous, current = pair.previous, pair.current
    sample = current.sample(MAX_SAMPLED, seed)
    if len(sample) < 2:
        return DriftFacts(n_rows=len(current.items), missing="Fewer than two items have a vector.")
    incomparable = _incomparable(previous, current)
    base = current if previous is None or incomparable else previous
    base_sample = base.sample(MAX_SAMPLED, seed)
    pca = _fit(base, base_sample)
    after = _measures(current, sample, pair.now, pca)
    if incomparable:
        alone = tuple(_without_comparison(name, values) for name, values in after.items())
        return DriftFacts(n_rows=len(current.items), n_sampled=len(sample), catalog=alone, incomparable=incomparable)
    before = _measures(base, base_sample, pair.before, pca)
    arrived = _arrived(base.items, current.items)
    pairs = [_Pair(name, before[name], values) for name, values in after.items()]
    if len(arrived) >= MIN_ARRIVED:
        of_arrived = _measures(current, sample_rows(arrived, MAX_SAMPLED, seed), pair.now, pca)
        pairs += [_Pair(name, before[name], values) for name, values in of_arrived.items()]
    drifts = compare_distributions(pairs)
    return DriftFacts(
        n_rows=len(current.items),
        n_sampled=len(sample),
        n_arrived=len(arrived),
        catalog=drifts[: len(after)],
        arrived=drifts[len(after) :],
    )


def compare_distributions(pairs: Sequence[tuple[str, Float64, Float64]]) -> tuple[Drift, ...]:
    """Compare each (name, values before, values after) and Holm-correct the p values of all.

    It also serves values that no index holds, such as norms of vectors before they are brought to unit length. Raises
    `BadConfig` for a side without values, or with NaN or infinite ones.
    """
    tested = [_compare(_Pair(*pair)) for pair in pairs]
    adjusted = holm([p for _, p in tested])
    return tuple(
        drift.model_copy(update={"p_holm": p_holm}) for (drift, _), p_holm in zip(tested, adjusted, strict=True)
    )


def _incomparable(previous: IndexedItems | None, current: IndexedItems) -> str:
    if previous is None:
        return "There is no release to compare with."
    if previous.family != current.family:
        return "The last release lies in another space: another backbone, view, mask or head made its vectors."
    return "" if len(previous.items) > 1 else "The last release holds fewer than two items."


def _fit(release: IndexedItems, sample: Int64) -> Pca:
    vectors = release.index.vectors_of(sample)
    return fit_pca([vectors], min(N_COMPONENTS, vectors.shape[1]))


def _measures(release: IndexedItems, sample: Int64, nearest: Nearest, pca: Pca) -> dict[str, Float64]:
    """Return (n,) float64 values of the sampled rows for each distribution, by its name."""
    vectors = release.index.vectors_of(sample)
    scores, _ = nearest(sample, 1)
    coordinates = project(pca, vectors, len(pca.components))
    measures = {
        "norm": np.linalg.norm(vectors.astype(np.float64), axis=1),
        "distance to the nearest": _distance(scores),
    }
    measures |= {f"component {i + 1}": coordinates[:, i].astype(np.float64) for i in range(coordinates.shape[1])}
    return {name: np.round(values, DECIMALS) for name, values in measures.items()}


def _distance(scores: Float32) -> Float64:
    return np.asarray(np.maximum(1 - scores[:, 0].astype(np.float64), 0))


def _arrived(previous: pl.DataFrame, current: pl.DataFrame) -> Int64:
    """Return the row ids of items that are new or show another picture, ascending."""
    key = ["item_id", "content_id"]
    return current.select("row_id", *key).join(previous.select(key), on=key, how="anti")["row_id"].sort().to_numpy()


def _without_comparison(name: str, values: Float64) -> Drift:
    edges = _edges(values)
    return Drift(name=name, n_then=0, n_now=len(values), edges=tuple(edges.tolist()), now=_shares(values, edges))


def _compare(pair: _Pair) -> tuple[Drift, float]:
    """Return the drift of one pair, and its p before correction."""
    for values in (pair.before, pair.after):
        if not len(values) or not np.isfinite(values).all():
            raise BadConfig(f"{pair.name}: got {len(values)} values; a distribution needs at least one, all finite")
    edges = _edges(np.concatenate([pair.before, pair.after]))
    ks, p = kolmogorov_smirnov(pair.before, pair.after)
    drift = Drift(
        name=pair.name,
        n_then=len(pair.before),
        n_now=len(pair.after),
        edges=tuple(edges.tolist()),
        then=_shares(pair.before, edges),
        now=_shares(pair.after, edges),
        ks=ks,
        psi=stability_index(pair.before, pair.after),
    )
    return drift, p


def kolmogorov_smirnov(before: Float64, after: Float64) -> tuple[float, float]:
    """Return the largest difference of the distribution functions of (n,) and (m,) values, and its p.

    The p is that of the limit for large samples; between small ones it is too large rather than too small.
    """
    from scipy.special import kolmogorov  # scipy.stats would take half a second to import

    every = np.concatenate([before, after])
    below = [np.searchsorted(np.sort(values), every, "right") / len(values) for values in (before, after)]
    ks = float(np.abs(below[0] - below[1]).max())
    return ks, float(kolmogorov(ks * np.sqrt(len(before) * len(after) / len(every))))


def stability_index(before: Float64, after: Float64) -> float:
    """Return the population stability index, the sum of (q - p) ln(q / p) over the deciles of `before`.

    `before` and `after` are (n,) and (m,) values, p and q their shares in each decile. Half a row is added to every
    bin, so that an empty one does not make the index infinite.
    """
    inner = np.unique(np.quantile(before, np.arange(1, N_QUANTILES) / N_QUANTILES))
    counts = [np.bincount(np.searchsorted(inner, values), minlength=len(inner) + 1) + 0.5 for values in (before, after)]
    p, q = (count / count.sum() for count in counts)
    return float(((q - p) * np.log(q / p)).sum())


def _edges(values: Float64) -> Float64:
    return np.asarray(np.histogram_bin_edges(values, N_BINS))


def _shares(values: Float64, edges: Float64) -> tuple[float, ...]:
    counts, _ = np.histogram(values, edges)
    return tuple((counts / len(values)).tolist())
