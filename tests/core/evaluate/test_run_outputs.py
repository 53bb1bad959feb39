"""What a run hands to its evaluation: the count of its catalogue's rows, and the artifacts that a release names."""

import pytest

from retrieval_core.artifacts.manifests import Fitted, Ref
from retrieval_core.evaluate.run_outputs import CatalogFacts

RECONCILED = {"rows": 9, "added": 2, "changed": 3, "removed": 5, "unchanged": 4, "indexed": 8, "quarantined": 1}
OTHER_HEAD = Fitted(ref=Ref(kind="Head", key="heads/other"), trained=True)


def test_the_rows_of_a_catalogue_are_reconciled_where_both_sums_give_them():
    assert CatalogFacts(source="folder:x", **RECONCILED).reconciled


@pytest.mark.parametrize("name", sorted(RECONCILED.keys() - {"removed"}))
def test_a_row_counted_twice_or_not_at_all_is_not_reconciled(name):
    assert not CatalogFacts(source="folder:x", **RECONCILED | {name: RECONCILED[name] + 1}).reconciled


def test_removed_rows_are_outside_the_catalogue():
    assert CatalogFacts(source="folder:x", **RECONCILED | {"removed": 100}).reconciled


def test_a_release_names_the_head_that_boosted_its_vectors(local_store, labelled_run):
    outputs = labelled_run(3)
    (boosting,) = outputs.heads
    refs = outputs.model_copy(update={"heads": (OTHER_HEAD, boosting)}).release_refs(local_store)
    assert refs["head"] == boosting.ref
    assert (refs["vectors"], refs["index"], refs["reducer"]) == (outputs.vectors, outputs.index, outputs.reducer.ref)
    assert (refs["catalog"], refs["backbone"]) == (outputs.catalog, outputs.backbone)


def test_a_release_of_vectors_that_are_not_boosted_names_no_head(local_store, labelled_run):
    outputs = labelled_run(3)
    plain = outputs.model_copy(update={"vectors": outputs.variants[0], "heads": (OTHER_HEAD, *outputs.heads)})
    assert plain.release_refs(local_store)["head"] is None


def test_a_release_names_no_segmenter_where_the_run_had_none(local_store, labelled_run):
    outputs = labelled_run(3)
    assert outputs.release_refs(local_store)["segmenter"] == outputs.segmenter.ref
    assert outputs.model_copy(update={"segmenter": None}).release_refs(local_store)["segmenter"] is None
