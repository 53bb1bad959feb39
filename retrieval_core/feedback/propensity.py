"""How likely a shopper looks at a hit, by its position: the power law 1 / position^eta, bounded below.

A hit that is chosen less often may only be looked at less often. With P(chosen) = P(looked at | position) * P(chosen |
looked at), the position-based model, the first factor is the propensity, and as a power law it has one parameter
(Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank with biased feedback", WSDM 2017, who take eta = 1).

eta is learned from items that one question showed at several positions, as different releases and growing catalogues
do ("intervention harvesting", Agarwal et al., "Estimating position bias without intrusive interventions", WSDM 2019).
How relevant such an item is cancels out: given that it was chosen C times, how these choices spread over its positions
is multinomial with probabilities in proportion to n_k / k^eta, where n_k counts how often position k showed it. So eta
maximises the conditional likelihood of all choices, which is concave.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64

ETA = 1.0  # where there are too few choices to learn from
MAX_ETA, ETA_STEP = 3.0, 0.01
MIN_CHOICES = 200  # of items that were shown at several positions; the standard error of eta is then about 0.1
MIN_PROPENSITY = 0.05  # bounds how much a choice far down counts


class PositionBias(NamedTuple):
    """The exponent, and from how many choices it was learned; 0 where it is the default."""

    eta: float
    n_choices: int = 0

    def propensity(self, positions: Int64) -> Float64:
        """Return the probability that a shopper looks at each of (n,) positions, counted from 1."""
        return np.maximum(positions.astype(np.float64) ** -self.eta, MIN_PROPENSITY)


def estimate_bias(impressions: pl.DataFrame) -> PositionBias:
    """Return the position bias in impressions: rows of question, item_id, position and is_chosen."""
    key = ["question", "item_id"]
    cells = impressions.group_by(*key, "position").agg(n_shown=pl.len(), n_chosen=pl.col("is_chosen").sum())
    several = cells.filter((pl.len().over(key) > 1) & (pl.col("n_chosen").sum().over(key) > 0))
    n_choices = int(several["n_chosen"].sum())
    if n_choices < MIN_CHOICES:
        return PositionBias(ETA)
    items = several.select(pl.struct(key).rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    logs = np.log(several["position"].to_numpy().astype(np.float64))
    n_shown, n_chosen = (several[name].to_numpy().astype(np.float64) for name in ("n_shown", "n_chosen"))
    chosen_of_item = np.bincount(items, n_chosen)

    def likelihood(eta: float) -> float:
        expected = np.bincount(items, n_shown * np.exp(-eta * logs))
        return float(-eta * (n_chosen * logs).sum() - (chosen_of_item * np.log(expected)).sum())

    etas = np.arange(0.0, MAX_ETA + ETA_STEP / 2, ETA_STEP)
    return PositionBias(float(etas[np.argmax([likelihood(eta) for eta in etas])]), n_choices)
