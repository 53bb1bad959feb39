"""The cost of each stage is compared with the run before, and with what was predicted."""

from retrieval_core.evaluate.analysis.run_history import PastRun
from retrieval_core.evaluate.analysis.stage_costs import collect_costs
from tests.core.sealed_runs import SealedRuns


def test_costs_are_compared_with_the_run_before_as_far_as_it_is_known(local_store, outputs_of):
    release = SealedRuns(local_store).seal(["a", "b"])
    last = PastRun(
        ended="2026-11-20T03:10:00+00:00",
        release="gone",
        gate="held",
        seconds={"embed": 10.0, "total": 12.0},
        embedded=5,
    )
    costs = collect_costs(local_store, outputs_of(release), [last])
    stages = {stage.stage: stage for stage in costs.stages}
    assert "total" not in stages
    assert (stages["embed"].seconds, stages["embed"].seconds_before, stages["embed"].n_pictures) == (30.0, 10.0, 60)
    assert stages["embed"].n_pictures_before is None
    assert stages["index"].n_bytes > 0
    assert stages["index"].seconds is None
    embedding = costs.predictions[0]
    assert (embedding.what, embedding.predicted, embedding.happened) == ("embedding 60 pictures", 120.0, 30.0)


def test_a_first_run_has_costs_and_no_earlier_ones(local_store, outputs_of):
    costs = collect_costs(local_store, outputs_of(SealedRuns(local_store).seal(["a"])), [])
    assert costs.before == ""
    assert all(stage.seconds_before is None and stage.n_bytes_before is None for stage in costs.stages)
    assert not [prediction for prediction in costs.predictions if prediction.unit == "s"]
