"""What a run has made by the time it is evaluated."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Value, VectorSet
from retrieval_core.evaluate.variant_choice import VariantChoice
from retrieval_core.store.base import Store


class CatalogFacts(Value):
    """How the rows of the catalogue were counted; `rows = indexed + quarantined = added + changed + unchanged`.

    Of the unchanged, `moved` counts those whose address differs, `refreshed` those with other fields, such as a price.
    `passed_over` counts the rows of the source that are not in the catalogue. `declared_removals` are the ids of the
    items that were listed as removed, so that their absence is no loss; `notes` say how the source was read and what
    was passed over.
    """

    source: str
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    indexed: int
    quarantined: int
    moved: int = 0
    refreshed: int = 0
    passed_over: int = 0
    declared_removals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reconciled(self) -> bool:
        return self.rows == self.indexed + self.quarantined == self.added + self.changed + self.unchanged


class RunOutputs(Value):
    """The artifacts of a run, complete but for its report and its release.

    `vectors` are to be published, for the reason that `choice` gives; `candidates` are the vectors, full or reduced,
    that find them in the index. `masks` are the masks, or the boxes of `detector`, that the published variant was shown
    by. `n_pictures` counts by stage the pictures that this run processed, `n_masked` those that it masked. `sealed` is
    the time of the release (ISO 8601) where a sealed release is evaluated again, else "".
    """

    source: str
    catalog: Ref
    fields: Ref | None = None
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
    choice: VariantChoice | None = None
    n_masked: int = 0
    n_pictures: dict[str, int] = {}
    sealed: str = ""

    def release_refs(self, store: Store) -> dict[str, Ref | None]:
        """Return what a release of this run names, by role; `head` is the one that boosted the published vectors."""
        published_by = VectorSet.open(store, self.vectors).parents.get("head")
        return {
            "catalog": self.catalog,
            "backbone": self.backbone,
            "segmenter": self.segmenter.ref if self.segmenter else None,
            "detector": self.detector,
            "classifier": self.classifier,
            "classes": self.classes,
            "head": next((head.ref for head in self.heads if head.ref.name == published_by), None),
            "reducer": self.reducer.ref,
            "vectors": self.vectors,
            "index": self.index,
            "fields": self.fields,
        }
