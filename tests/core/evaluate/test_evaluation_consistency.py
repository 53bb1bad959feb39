"""What a report says in two places it says alike: on the page, in its files, at the terminal's end and in explain."""

import csv
import hashlib
import io
import json
import re

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Reject, Report
from retrieval_core.evaluate.evaluation import evaluate_run
from retrieval_core.evaluate.publish import publish_release
from retrieval_core.evaluate.report.fix_list import ACTION_OF, HEADINGS
from retrieval_core.evaluate.report.formatting import duration, number, percent
from retrieval_core.evaluate.report.sentences import SUMMARY_FILE, FirstScreen
from retrieval_core.explain.explanation import explain
from retrieval_core.settings import Settings
from tests.core import sealed_runs
from tests.core.sealed_runs import CONFIG

N = 90


@pytest.fixture
def settings(local_store):
    return Settings.load(store=local_store.url, threads=1, device="cpu")


def kind_of(content_id: str) -> int:
    """What a picture shows: one of two kinds, far from each other."""
    return int(content_id, 16) % 2


def draw_vector(content_id: str) -> np.ndarray:
    drawn = np.random.default_rng(int(content_id, 16)).normal(size=sealed_runs.DIM, scale=0.1).astype(np.float32)
    drawn[kind_of(content_id)] += 1
    return drawn / np.linalg.norm(drawn)


@pytest.fixture
def reported(local_store, settings, labelled_run, monkeypatch):
    """The report of a run of which three items have the category of the other kind, and its release."""
    monkeypatch.setattr(sealed_runs, "_vector", draw_vector)
    names = [f"item-{number:02}" for number in range(N)]
    kinds = [kind_of(hashlib.sha256(name.encode()).hexdigest()[:32]) for name in names]
    said = [("hat", "shoe")[kind if row % 40 else 1 - kind] for row, kind in enumerate(kinds)]
    category = pl.col("item_id").replace_strict(names, said)
    outputs = labelled_run(N, category=category).model_copy(
        update={
            "seconds": {"ingest": 1.5, "embed": 60.25},
            "rejects": (Reject(item_id="bad", image_uri="bad.jpg", reason="truncated", last_seen="2026-11-21"),),
        }
    )
    report = evaluate_run(settings, outputs, CONFIG)
    release = publish_release(local_store, outputs, report, None, CONFIG).release
    return report, releases.get_release(local_store, release)


@pytest.fixture
def read(local_store, reported):
    """`read(name)` is a file of the report."""

    def text(name: str) -> str:
        return local_store.get(reported[0].part(name).key).decode("utf-8-sig")

    return text


def test_the_page_repeats_the_sentences_that_terminal_and_messages_show(read, read_page):
    page, screen = read_page(read("report.html")), FirstScreen.model_validate_json(read(SUMMARY_FILE))
    spaced = re.sub(r"\s+", " ", page.text)
    for line in screen.as_lines():
        assert re.sub(r"\s+", " ", line) in spaced


def test_every_figure_of_the_page_is_that_of_the_document(read, read_page):
    page, facts = read_page(read("report.html")), json.loads(read("metrics.json"))
    for name, value in facts["metrics"].items():
        if "/" not in name and not name.endswith(("_random", "_std")):
            assert f"{name} {number(value)}" in page.text, "in the table of every measure"
    recall = next(fact for fact in facts["quality"]["metrics"] if fact["name"] == "recall@1")
    assert recall["value"] == facts["metrics"]["recall@1"]
    assert f"came first in {percent(recall['value'])} of {recall['n_queries']} test searches" in page.text


def test_page_lists_and_sentence_count_the_same_things_to_fix(local_store, reported, read, read_page):
    page, screen = read_page(read("report.html")), FirstScreen.model_validate_json(read(SUMMARY_FILE))
    rows = list(csv.DictReader(io.StringIO(read("fixes.csv"))))
    part = reported[0].part("fixes.parquet")
    fixes = pl.read_parquet(local_store.local_path(part.key, part.sha256))
    quarantine = json.loads(read("metrics.json"))["quarantine"]
    assert len(rows) == len(fixes) + len(quarantine) > 0
    assert f"{len(rows)} thing" in screen.answers[-1].text
    assert f"{len(rows)} entr" in read_page(read("fixes.html")).text
    for action in {row["action"] for row in rows}:
        assert f"{HEADINGS[action]} {sum(row['action'] == action for row in rows)}" in page.text
    assert {ACTION_OF[problem] for problem in fixes["problem"]} <= {row["action"] for row in rows}


def test_seconds_add_up_to_the_total_on_the_first_screen(read, read_page):
    page, seconds = read_page(read("report.html")), json.loads(read("metrics.json"))["seconds"]
    assert seconds.keys() == {"ingest", "embed", "evaluate"}
    assert page.text.count(f"{duration(sum(seconds.values()))} until this page was written") == 2
    for stage, taken in seconds.items():
        assert f"{stage} {duration(taken)}" in page.text


def test_explain_and_the_page_give_the_same_evidence(local_store, settings, reported, read, read_page):
    page, release = read_page(read("report.html")), reported[1]
    part = Report.open(local_store, release.report).part("fixes.parquet")
    fixes = pl.read_parquet(local_store.local_path(part.key, part.sha256)).filter(pl.col("problem") == "category")
    assert len(fixes)
    for item_id, evidence, suggestion in fixes.select("item_id", "evidence", "suggestion").head(3).iter_rows():
        (problem,) = [
            one for one in explain(local_store, release, item_id, settings).problems if one.problem == "category"
        ]
        assert (problem.evidence, problem.suggestion) == (evidence, suggestion)
        assert "nearest pictures of other products" in evidence, "and explain lists those of its own product, too"
        assert evidence in page.text


def test_the_page_denies_no_loss_that_it_marks(read, read_page):
    text = read_page(read("report.html")).text
    assert not ("No step loses" in text and "▼ loses" in text)
