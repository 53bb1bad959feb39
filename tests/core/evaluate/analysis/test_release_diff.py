"""What changed since production is told of items, models and configuration by name, and what the night cost."""

import pytest

from retrieval_core.artifacts.manifests import Fitted, Release
from retrieval_core.config import EvaluateConfig, HeadConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.release_diff import find_since
from retrieval_core.evaluate.analysis.run_history import PastNight
from retrieval_core.evaluate.analysis.stage_costs import find_costs
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.nights import CONFIG, Nights, named


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path))


def night_of(release: Release, **more) -> RunOutputs:
    """The night that made a release, as it was before the release was sealed."""
    n = release.counts["rows"]
    values = {
        "source": "folder:x",
        "catalog": release.catalog,
        "catalog_facts": CatalogFacts(
            source="folder:x", rows=n, added=n, changed=0, removed=0, unchanged=0, indexed=n, quarantined=0
        ),
        "backbone": release.backbone,
        "segmenter": Fitted(ref=release.segmenter, trained=False) if release.segmenter else None,
        "detector": None,
        "masks": None,
        "classifier": None,
        "classes": None,
        "heads": tuple(Fitted(ref=ref, trained=False) for ref in release.heads),
        "reducer": Fitted(ref=release.reducer, trained=False),
        "variants": (release.vectors,),
        "vectors": release.vectors,
        "candidates": release.vectors,
        "index": release.index,
        "n_shards_built": 2,
        "rejects": (),
        "seconds": {"ingest": 1.0, "embed": 30.0},
        "n_pictures": {"embed": 60},
    }
    return RunOutputs(**(values | more))


def test_items_that_came_went_or_show_another_picture_are_named(store):
    nights = Nights(store)
    before = nights.run(["a", "b", "c"])
    after = nights.run(["a", "b@2", "d"])
    since = find_since(store, before, night_of(after), CONFIG)
    assert since.facts.counts == {"added": 1, "changed": 1, "removed": 1}
    assert [(one.what, one.item_id, one.differs) for one in since.facts.named] == [
        ("added", "d", ()),
        ("changed", "b", ("address", "picture")),
        ("removed", "c", ()),
    ]
    assert since.before["item_id"].to_list() == ["a", "b", "c"]
    assert (since.facts.models, since.facts.config) == ((), ())


def test_many_changes_are_counted_and_a_few_named_the_same_every_time(store):
    nights = Nights(store)
    before = nights.run(["a"])
    after = nights.run(["a", *(f"new-{i:02}" for i in range(40))])
    first, again = (find_since(store, before, night_of(after), CONFIG).facts for _ in range(2))
    assert first.counts["added"] == 40
    assert len(first.named) == 8
    assert first == again
    assert [one.item_id for one in first.named] != [f"new-{i:02}" for i in range(8)]


def test_models_and_config_that_changed_are_told_with_what_they_were(store):
    nights = Nights(store)
    before, after = nights.run(["a"]), nights.run(["a"], backbone="c")
    config = CONFIG.model_copy(update={"head": HeadConfig(max_epochs=1)})
    facts = find_since(store, before, night_of(after, segmenter=None), config).facts
    changes = {one.role: (one.before, one.now) for one in facts.models}
    assert changes["backbone"] == (named("b"), named("c"))
    assert changes["segmenter"] == (named("segmenter"), "")
    assert {"heads", "reducer"} <= changes.keys()
    assert "detector" not in changes
    assert [(one.key, one.before, one.now) for one in facts.config] == [("head.max_epochs", "60", "1")]


def test_a_key_that_the_older_release_did_not_have_is_no_value(store):
    before = Nights(store).run(["a"])
    evaluate = {key: value for key, value in before.config["evaluate"].items() if key != "queries"}
    older = before.model_copy(update={"config": before.config | {"evaluate": evaluate}})
    facts = find_since(store, older, night_of(before), before.nightly_config()).facts
    assert [(one.key, one.before, one.now) for one in facts.config] == [
        ("evaluate.queries", "", str(EvaluateConfig().queries))
    ]


def test_a_catalogue_that_is_gone_is_not_found(store):
    nights = Nights(store)
    before = nights.run(["a"])
    gone = before.model_copy(update={"catalog": before.catalog.model_copy(update={"key": "catalogs/none"})})
    with pytest.raises(NotFound):
        find_since(store, gone, night_of(before), CONFIG)


def test_costs_stand_against_the_last_night_where_it_is_known(store):
    release = Nights(store).run(["a", "b"])
    last = PastNight(
        ended="2026-11-20T03:10:00+00:00",
        release="gone",
        gate="held",
        seconds={"embed": 10.0, "total": 12.0},
        embedded=5,
    )
    costs = find_costs(store, night_of(release), [last])
    stages = {stage.stage: stage for stage in costs.stages}
    assert "total" not in stages
    assert (stages["embed"].seconds, stages["embed"].seconds_before, stages["embed"].n_pictures) == (30.0, 10.0, 60)
    assert stages["embed"].n_pictures_before is None
    assert stages["index"].n_bytes > 0
    assert stages["index"].seconds is None
    embedding = costs.predictions[0]
    assert (embedding.what, embedding.predicted, embedding.happened) == ("embedding 60 pictures", 120.0, 30.0)


def test_a_first_night_has_costs_and_nothing_before(store):
    costs = find_costs(store, night_of(Nights(store).run(["a"])), [])
    assert costs.before == ""
    assert all(stage.seconds_before is None and stage.n_bytes_before is None for stage in costs.stages)
    assert not [one for one in costs.predictions if one.unit == "s"]
