"""The facts of a report are the document `metrics.json`."""

import json

from retrieval_core.evaluate.report.schema import ReportFacts
from tests.core.evaluate.report.sample_facts import analysed, full, minimal


def test_the_document_keeps_its_keys():
    document = json.loads(analysed().model_dump_json())
    assert set(document) == {
        "report", "production", "production_since", "created", "gate", "reason", "causes", "kinds", "changes", "anchor",
        "category_changes", "n_shared_gallery", "catalog", "metrics", "definitions", "n_queries", "n_gallery",
        "variants", "choice", "training", "masks", "index", "duplicates", "seconds", "quarantine", "grids", "backbone",
        "weights", "quality", "best", "worst", "nights", "since", "losses", "churn", "golden", "synthetic",
        "confidence", "hygiene", "drift", "map", "costs", "album", "shop", "app_url",
    }  # fmt: skip
    assert set(document["since"]) == {
        "release",
        "created",
        "counts",
        "values",
        "gone",
        "n_newly_unreadable",
        "named",
        "models",
        "config",
    }
    assert set(document["nights"][0]) == {"ended", "release", "gate", "metrics", "seconds", "embedded"}
    assert set(document["churn"]) >= {"n_shared", "n_asked", "by_catalogue", "by_model", "left", "entered", "moved"}
    assert set(document["drift"]["catalog"][0]) == {
        "name", "n_then", "n_now", "edges", "then", "now", "ks", "p_holm", "psi",
    }  # fmt: skip


def test_facts_survive_a_round_trip():
    facts = analysed()
    assert ReportFacts.model_validate_json(facts.model_dump_json()) == facts


def test_the_chosen_setting_is_the_published_point_of_the_curve():
    chosen = full().index.chosen
    assert chosen is not None
    assert (chosen.nprobe, chosen.rerank_depth, chosen.recall) == (16, 4, 0.9912)
    assert minimal().index.chosen is None, "nothing was tuned"
