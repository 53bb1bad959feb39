"""Runs in a row over an unchanged catalogue, each judged against production and the anchor, as a pipeline's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gate.planted_releases import RIGHT, draw_products, of_product, table

if TYPE_CHECKING:
    import polars as pl

    from retrieval_core.arrays import Bool
    from retrieval_core.evaluate.gate.decide import Verdict

DRIFT = 0.005  # of recall@1, lost in a run
ANCHOR = "a" * 32


class RunsInARow:
    """The releases of a search that answers a share `anew` of the products anew in each run, and drifts if told to."""

    def __init__(self, seed: int, views: int = 1, anew: float = 0.05, n_queries: int = 500) -> None:
        self.rng, self.anew, self.has_anchor = np.random.default_rng(seed), anew, True
        self.products = draw_products(self.rng, n_queries, views)
        self.share = self.rng.beta(2 * RIGHT, 2 * (1 - RIGHT), self.products[-1] + 1)[self.products, None]
        self.known = self._answers()
        self.is_lost = np.zeros(n_queries, np.bool_)
        self._due = 0.0
        self.production = self.anchor = self.search()
        self.lost_in_production = 0.0

    def search(self) -> pl.DataFrame:
        """Return what a release finds: recall@1 and map@5 of each query."""
        is_anew = (self.rng.random(self.products[-1] + 1) < self.anew)[self.products, None]
        hits = np.where(is_anew, self._answers(), self.known) & ~self.is_lost[:, None]
        precision = (hits * hits.cumsum(axis=1) / np.arange(1, 6)).sum(axis=1) / 5
        return table(self.products, **{"recall@1": hits[:, 0].astype(float), "map@5": precision})

    def drift(self) -> None:
        """Lose `DRIFT` of recall@1 for good, product by product; what is less than a product waits."""
        self._due += DRIFT * len(self.products)
        while True:
            is_right = self.known[:, 0] & ~self.is_lost
            product = self.products[self.rng.choice(np.flatnonzero(is_right))]
            rows = is_right & (self.products == product)
            if rows.sum() > self._due:
                return
            self.is_lost |= rows
            self._due -= rows.sum()

    def run(self) -> Verdict:
        """Judge a new release, and publish it if the gate lets it through."""
        from retrieval_core.config.stages import GateConfig
        from retrieval_core.evaluate.gate.anchor_comparison import AnchorFigures
        from retrieval_core.evaluate.gate.decide import ReleaseFigures, decide

        challenger, anchor = self.search(), AnchorFigures(ANCHOR)
        if self.has_anchor and self.anchor is not self.production:
            anchor = anchor._replace(challenger=challenger, anchor=self.anchor)
        verdict = decide(ReleaseFigures(challenger, {}), ReleaseFigures(self.production, {}), GateConfig(), anchor)
        if verdict.gate == "published":
            self.production, self.lost_in_production = challenger, float((self.known[:, 0] & self.is_lost).mean())
            self.anchor = challenger if verdict.is_anchor else self.anchor
        return verdict

    def drift_until_held(self, max_runs: int = 20) -> bool:
        """Drift and run until a release is held; return whether one was."""
        for _ in range(max_runs):
            self.drift()
            if self.run().gate == "held":
                return True
        return False

    def _answers(self) -> Bool:
        return np.asarray(np.column_stack([of_product(self.rng, self.products) for _ in range(5)]) < self.share)
