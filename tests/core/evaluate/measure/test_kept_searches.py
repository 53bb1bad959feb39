"""Searches that a report keeps are those of the run, and what a run has found it seeks no more."""

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.evaluate.measure.exact_search import indexed_gallery
from retrieval_core.evaluate.measure.kept_searches import KeptSearches, read_searches


@pytest.fixture
def open_gallery(catalog_items, draw_vectors, index_items):
    """`open_gallery(queries, gallery)` are these rows of 300 items."""
    release = index_items(catalog_items(300), draw_vectors(300))
    return lambda queries, gallery: indexed_gallery(release.index, "f", release.items, queries, gallery)


def seal(store, searches: KeptSearches) -> Report:
    parts = put_parts(store, "reports/r", searches.tables())
    return Report(fingerprint="r", parts=parts, gate="published", gate_reason="").seal(store)


def test_a_report_keeps_what_was_found(local_store, open_gallery):
    searches, few = KeptSearches(), open_gallery(np.arange(5), np.arange(250, 260))
    searches.nearest("gallery", open_gallery(np.arange(0, 200, 3), np.arange(1, 300, 2)), 10)
    searches.nearest("few", few, 10)  # lists that hold the whole gallery have no floor
    searches.nearest("nothing", open_gallery(np.arange(5), np.arange(0)), 10)
    read = read_searches(local_store, seal(local_store, searches))
    assert read.keys() == searches.now.keys() == {"gallery f", "few f", "nothing f"}
    for name, kept in searches.now.items():
        n_wide = read[name].found.shape[1]
        np.testing.assert_array_equal(read[name].found, kept.found[:, :n_wide])
        np.testing.assert_array_equal(read[name].scores, kept.scores[:, :n_wide])
        assert (kept.found[:, n_wide:] == -1).all()
        for column in ("gallery", "queries", "floors"):
            np.testing.assert_array_equal(getattr(read[name], column), getattr(kept, column))


def test_a_run_without_searches_keeps_none(local_store):
    assert read_searches(local_store, seal(local_store, KeptSearches())) == {}
    assert read_searches(local_store, None) == {}


def test_queries_that_were_asked_are_not_compared_again(open_gallery):
    everything, searches = np.arange(300), KeptSearches()
    searches.nearest("gallery", open_gallery(np.arange(0, 60, 2), everything), 10)
    asked = []
    for _ in range(2):
        gallery = open_gallery(np.arange(60), everything)
        counted = gallery._replace(load=lambda ids, load=gallery.load: asked.append(len(ids)) or load(ids))
        found = searches.nearest("gallery", counted, 10)
        np.testing.assert_array_equal(found, gallery.nearest(10))
    assert asked == [30 + 300]


def test_a_query_does_not_find_itself(open_gallery):
    gallery = open_gallery(np.arange(40, 80), np.arange(300))
    found = KeptSearches().nearest("gallery", gallery, 5, own=np.arange(40, 80))[1]
    np.testing.assert_array_equal(found, gallery.nearest(6)[1][:, 1:])
