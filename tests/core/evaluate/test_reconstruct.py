"""The outputs of a run are reconstructed from the release that it sealed, or the release says what is missing."""

import json

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import MANIFEST, Ref, Reject, Report
from retrieval_core.artifacts.parts import put_part
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.publish import publish_release
from retrieval_core.evaluate.reconstruct import masks_of, reconstruct_outputs
from tests.core.sealed_runs import CONFIG

REPORT = "reports/r/metrics.json"
LATE = Reject(item_id="late", image_uri="/late.jpg", reason="truncated", last_seen="2026-01-01")
OF_THE_RUN_ALONE = {"n_shards_built", "seconds", "n_pictures", "sealed"}  # a release does not keep these


@pytest.fixture
def seal(local_store):
    """`seal(outputs)` is the release of these outputs; its report holds what `reconstruct_outputs` reads."""

    def make(outputs):
        facts = {
            "catalog": outputs.catalog_facts.model_dump(),
            "quarantine": [reject.model_dump() for reject in outputs.rejects],
        }
        part = put_part(local_store, REPORT, json.dumps(facts).encode(), 0)
        report = Report(fingerprint="r", parts=(part,), gate="published", gate_reason="").seal(local_store)
        publication = publish_release(local_store, outputs, report, None, CONFIG)
        return releases.get_release(local_store, publication.release)

    return make


def remove_views(store, refs: tuple[Ref, ...]) -> None:
    for ref in refs:
        store.delete(f"{ref.key}/{MANIFEST}")


def test_a_release_gives_back_the_outputs_that_sealed_it(local_store, labelled_run, seal):
    outputs = labelled_run()
    release = seal(outputs)
    reconstructed = reconstruct_outputs(local_store, release)
    assert reconstructed.model_dump(exclude=OF_THE_RUN_ALONE) == outputs.model_dump(exclude=OF_THE_RUN_ALONE)
    assert len(reconstructed.variants) == 3
    assert reconstructed.release_refs(local_store) == outputs.release_refs(local_store)
    assert reconstructed.sealed == release.created
    assert (reconstructed.seconds, reconstructed.n_shards_built) == ({}, 0)


def test_only_the_pictures_rejected_after_ingest_are_rejects_of_the_run(local_store, labelled_run, seal):
    outputs = labelled_run().model_copy(update={"rejects": (LATE,)})
    assert reconstruct_outputs(local_store, seal(outputs)).rejects == (LATE,)


def test_views_of_another_catalogue_are_passed_over(local_store, labelled_run, seal):
    outputs = labelled_run()
    release = seal(outputs)
    larger = labelled_run(27)
    assert not set(larger.variants) & set(outputs.variants)
    assert reconstruct_outputs(local_store, release).variants == outputs.variants


@pytest.mark.parametrize("position", range(3))
def test_a_release_whose_vectors_were_removed_cannot_be_reconstructed(local_store, labelled_run, seal, position):
    outputs = labelled_run()
    release = seal(outputs)
    remove_views(local_store, outputs.variants[position : position + 1])
    with pytest.raises(NotFound):
        reconstruct_outputs(local_store, release)


def test_a_removed_view_is_named_with_its_family_and_catalogue(local_store, labelled_run, seal):
    outputs = labelled_run()
    release = seal(outputs)
    remove_views(local_store, outputs.variants[:1])
    family = outputs.variants[0].key.split("/")[1]
    with pytest.raises(NotFound, match=f"no vectors {family} of catalogue {release.catalog.name}"):
        reconstruct_outputs(local_store, release)


@pytest.mark.parametrize("damaged", [b"{}", b"not json", b"[]", b'{"catalog": {}, "quarantine": []}'])
def test_damaged_metrics_of_the_report_are_corrupt(local_store, labelled_run, seal, damaged):
    release = seal(labelled_run())
    report = Report.open(local_store, release.report)
    part = put_part(local_store, "reports/damaged/metrics.json", damaged, 0)
    sealed = report.model_copy(update={"fingerprint": "damaged", "parts": (part,)}).seal(local_store)
    with pytest.raises(ShardCorrupt, match="cannot be read as the metrics of a report"):
        reconstruct_outputs(local_store, release.model_copy(update={"report": sealed.ref}))


def test_metrics_changed_since_they_were_sealed_are_corrupt(local_store, labelled_run, seal):
    release = seal(labelled_run())
    local_store.put(REPORT, local_store.get(REPORT) + b" ")
    with pytest.raises(ShardCorrupt, match=REPORT):
        reconstruct_outputs(local_store, release)


def test_a_release_without_a_reducer_is_not_one_of_a_run(local_store, labelled_run, seal):
    release = seal(labelled_run()).model_copy(update={"reducer": None})
    with pytest.raises(NotFound, match="names no reducer"):
        reconstruct_outputs(local_store, release)


def test_the_masks_of_a_release_are_those_its_pictures_were_shown_by(local_store, labelled_run, seal):
    outputs = labelled_run()
    release = seal(outputs)
    assert masks_of(local_store, release).ref == outputs.masks
    assert masks_of(local_store, release.model_copy(update={"segmenter": None})) is None
    remove_views(local_store, (outputs.masks,))
    with pytest.raises(NotFound, match="no masks"):
        masks_of(local_store, release)
