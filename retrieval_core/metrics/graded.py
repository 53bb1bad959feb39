"""nDCG: how early the hits of highest grade come, over how early they could come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

K = 10


def ndcg(found: Sequence[int], judged: Sequence[int], k: int = K) -> float:
    """Return the nDCG of the first k grades of hits in their order, 0 to 1, against all judged grades at their best.

    A grade g gains 2^g - 1, and the hit of rank r counts 1 / log2(1 + r) of it (Järvelin and Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", TOIS 2002, with the gain of Burges et al., ICML 2005). 0 where no judged
    grade is above 0.
    """
    best = _dcg(sorted(judged, reverse=True)[:k])
    return _dcg(found[:k]) / best if best else 0.0


def _dcg(grades: Sequence[int]) -> float:
    gains = 2.0 ** np.array(grades, np.float64) - 1
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
