"""What a run has made by the time it is measured, and where its rows went."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Value


class CatalogFacts(Value):
    """Where the night's rows went: `rows = indexed + quarantined`, and `rows = added + changed + unchanged`."""

    source: str
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    indexed: int
    quarantined: int

    @property
    def reconciled(self) -> bool:
        return self.rows == self.indexed + self.quarantined == self.added + self.changed + self.unchanged


class RunOutputs(Value):
    """What a run has made by the time it is measured: `vectors` are published, `candidates` find them in the index.

    `masks` are what the published variant was masked with or cropped to, the boxes of `detector` among them.
    `n_pictures` a stage are those it looked at tonight, of the stages that count them. `sealed` is when its release
    was, of a night that is measured again.
    """

    source: str
    catalog: Ref
    catalog_facts: CatalogFacts
    backbone: Ref
    segmenter: Fitted | None
    detector: Ref | None
    masks: Ref | None
    classifier: Ref | None
    classes: Ref | None
    heads: tuple[Fitted, ...]
    reducer: Fitted
    variants: tuple[Ref, ...]
    vectors: Ref
    candidates: Ref
    index: Ref
    n_shards_built: int
    rejects: tuple[Reject, ...]
    seconds: dict[str, float]
    n_pictures: dict[str, int] = {}
    sealed: str = ""
