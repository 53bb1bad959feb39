"""The first screen answers in sentences, and every number in them is a fact of the report."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.hygiene import HygieneFacts
from retrieval_core.evaluate.analysis.quality import MetricFacts, QualityFacts
from retrieval_core.evaluate.analysis.release_diff import ConfigChange, GoneCategory, ModelChange, ReleaseDiffFacts
from retrieval_core.evaluate.analysis.run_history import n_held_in_a_row
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.gate.decide import CauseKind
from retrieval_core.evaluate.report.fix_list import ACTION_OF
from retrieval_core.evaluate.report.formatting import number, percent
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.evaluate.report.sentences import (
    IN_SHORT,
    LIKELIEST_FIRST,
    FirstScreen,
    first_screen,
    overruled_screen,
    pictures_of,
    unchanged_screen,
)
from tests.core.evaluate.report.sample_facts import LOSSES, analysed, change, full, minimal

COUNTS = st.integers(0, 2000)
PASSED = {"gate": "published", "reason": "No loss.", "causes": (), "kinds": ()}


def answer(facts: ReportFacts, question: str) -> str:
    return next(answer.text for answer in first_screen(facts).answers if answer.question.startswith(question))


def held_by(kind: CauseKind, cause: str, **changes: object) -> ReportFacts:
    return analysed(causes=(cause,), kinds=(kind,), **changes)


def diff(**changes: object) -> ReleaseDiffFacts:
    counts = {"added": 0, "changed": 0, "removed": 0}
    return ReleaseDiffFacts(**({"release": "r", "created": "2026-11-18T03:10:00+00:00", "counts": counts} | changes))


@st.composite
def any_facts(draw: st.DrawFn) -> ReportFacts:
    counts = {kind: draw(COUNTS) for kind in ("added", "changed", "removed")}
    kinds = draw(st.lists(st.sampled_from(LIKELIEST_FIRST), max_size=3, unique=True))
    row = change(difference=draw(st.sampled_from([-0.034, 0.0, 0.021])), p_holm=0.2, blocks="search" in kinds)
    return analysed(
        gate="held" if kinds else "published",
        kinds=tuple(kinds),
        causes=tuple(f"7 of 9 items are gone, more than 0.2 of them: {kind}" for kind in kinds),
        changes=(row,),
        since=diff(
            counts=counts,
            n_newly_unreadable=draw(st.integers(0, 4)),
            values=draw(st.dictionaries(st.sampled_from(["price", "category", "picture", "labels", "title"]), COUNTS)),
            gone=tuple(
                GoneCategory(category="hat", n_gone=n, n_before=2000) for n in draw(st.lists(COUNTS, max_size=2))
            ),
        ),
        hygiene=HygieneFacts(n_rows=9, n_asked=9, counts={problem: draw(COUNTS) for problem in ACTION_OF}),
        quarantine=(Reject(item_id="bad", image_uri="u", reason="truncated", last_seen=""),) * draw(st.integers(0, 4)),
        catalog=full().catalog.model_copy(update={"quarantined": draw(COUNTS)}),
    )  # fmt: skip


def numbers_in(text: str) -> set[str]:
    text = re.sub(r"\b(\d{1,2} [A-Z][a-z]+, \d\d:\d\d|[a-z_]+/?[a-z_]*@\d+)", "", text)  # moments and names of metrics
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?", text))


@given(any_facts())
@settings(max_examples=150, deadline=None)
def test_every_number_is_a_fact_of_the_report(facts: ReportFacts):
    counts = facts.hygiene.counts
    (row,) = facts.changes
    whole = [
        *facts.since.counts.values(), *facts.since.values.values(), len(facts.since.values) - 4, row.n_queries,
        *counts.values(), counts["category"] + counts["label"],
        counts["near_duplicate"] + counts["one_product"], sum(counts.values()) + len(facts.quarantine),
        len(facts.quarantine), facts.since.n_newly_unreadable, facts.catalog.quarantined, facts.catalog.rows, 7, 9,
        n_held_in_a_row(facts.nights) + 1,
        *(n for group in facts.since.gone for n in (group.n_gone, group.n_before)),
    ]  # fmt: skip
    allowed = {f"{n:,}" for n in whole} | {"0.2"}
    allowed |= {percent(value).rstrip("%") for value in (row.production, row.candidate)}
    allowed |= {number(facts.losses.lost)} if facts.losses else set()
    screen = first_screen(facts)
    for text in (screen.title, *(answer.text for answer in screen.answers)):
        assert numbers_in(text) <= allowed, text


@given(any_facts())
@settings(max_examples=60, deadline=None)
def test_a_screen_has_the_questions_of_its_verdict_and_fits_ten_lines(facts: ReportFacts):
    screen = first_screen(facts)
    questions = [answer.question for answer in screen.answers]
    assert questions[0] == "Was it published?"
    assert ("Likeliest cause" in questions) == bool(facts.kinds) == ("What to do" in questions)
    assert len(screen.as_lines()) + 2 <= 10, "the terminal adds where the release and the report are"
    assert screen.answers[0].text.startswith("No" if facts.gate == "held" else "Yes")
    assert not re.search(
        r"\b1 (items|pictures|things|pairs)\b|  |\.\.",
        " ".join(screen.as_lines()[:1] + [a.text for a in screen.answers]),
    )


def test_one_of_a_thing_is_singular_and_many_have_separators():
    since = diff(counts={"added": 1, "changed": 0, "removed": 1234})
    facts = full(**PASSED, since=since, quarantine=full().quarantine[:1])
    assert answer(facts, "What changed") == "1 item new and 1,234 gone."
    assert answer(facts, "Unreadable") == "1 picture cannot be read, none new. Nobody finds its item."


def test_nothing_that_changed_is_said_and_pictures_that_moved_only_if_nothing_else_did():
    assert answer(full(**PASSED, since=diff()), "What changed") == "No item came, went or changed."
    moved = diff(values={"address": 9})
    assert answer(full(**PASSED, since=moved), "What changed") == "9 items with another address."
    both = diff(values={"address": 9, "price": 2})
    assert answer(full(**PASSED, since=both), "What changed") == "2 items with another price."


def test_a_change_of_a_model_or_a_setting_is_named_unless_it_is_blamed():
    since = diff(
        models=(ModelChange(role="backbone", before="a", now="b"), ModelChange(role="reducer", before="a", now="b")),
        config=(ConfigChange(key="embed.weights", before='"pretrained"', now='"random:0"'),),
    )
    changed = (
        "No item came, went or changed. New: the backbone. 1 setting changed: embed.weights from "
        '"pretrained" to "random:0".'
    )
    assert answer(full(**PASSED, since=since), "What changed") == changed
    held = held_by("search", "recall@1 fell", since=since)
    assert answer(held, "What changed") == "No item came, went or changed."
    assert answer(held, "Likeliest cause") == 'Somebody changed embed.weights from "pretrained" to "random:0".'


def test_of_several_causes_the_one_that_explains_the_others_is_named():
    gone = "400 of 1,490 items are gone, more than 0.2 of them (gate.max_removed_fraction): repair the source"
    facts = analysed(causes=("recall@1 fell", gone), kinds=("search", "catalogue"))
    screen = first_screen(facts)
    assert (screen.tone, screen.title) == ("held", "Held back: 400 of 1,490 items are gone")
    assert answer(facts, "Likeliest") == "The shop's list is incomplete. Most of what is gone: dress (13 of 310)."
    assert "vitrine promote RELEASE --anyway" in answer(facts, "What to do")


def test_a_loss_is_blamed_on_a_setting_else_a_step_else_a_model_else_the_catalogue():
    model = diff(models=(ModelChange(role="heads", before="a", now="b"),))
    blamed = [
        answer(held_by("search", "recall@1 fell", since=since, losses=losses), "Likeliest cause")
        for since, losses in ((model, LOSSES), (model, None), (diff(), LossFacts(n_queries=9)))
    ]
    assert blamed == [
        "The step head loses 0.100 of recall@1, most of all steps.",
        "Trained or loaded anew: heads.",
        "No model and no setting changed, so it is what changed in the catalogue.",
    ]


@pytest.mark.parametrize("kind", IN_SHORT)
def test_every_kind_of_cause_has_a_title_a_cause_and_a_remedy(kind: CauseKind):
    facts = held_by(kind, "the index takes 9 GB, more than 4 GB (gate.max_index_gb): set index.memory_gb")
    screen = first_screen(facts)
    assert screen.title.startswith("Held back: ")
    assert kind in LIKELIEST_FIRST
    if kind == "index":
        assert answer(facts, "Likeliest") == "The index takes 9 GB, more than 4 GB (gate.max_index_gb)."
        assert answer(facts, "What to do") == "Set index.memory_gb."


def test_search_is_compared_where_both_releases_answered():
    same = change(difference=0.0, low=0.0, high=0.0, p_holm=1.0)
    assert answer(full(**PASSED, changes=(same,)), "Is search as good") == (
        "Yes, no loss beyond chance. In 500 test searches that both releases answered, the same product came first in "
        "72.8%, as before."
    )
    worse = change("map@5", p_holm=0.001, blocks=True)
    assert answer(full(changes=(worse,)), "Is search as good") == (
        "No. In 500 test searches that both releases answered, map@5 (how early relevant hits come, first 5) is 0.694; "
        "before, 0.728."
    )
    better = change(difference=0.05, low=0.03, high=0.07, p_holm=1.0)
    assert answer(full(**PASSED, changes=(better,)), "Is search as good").startswith("It is better.")
    few = held_by("queries", "only 7 queries can be compared", changes=(same,))
    assert answer(few, "Is search as good").startswith("Hard to tell: too few test searches can be compared.")


def test_what_is_not_known_is_said():
    assert answer(minimal(), "Is search as good") == "Not known: no picture was held out to search with."
    assert answer(minimal(n_queries=3, n_gallery=0), "Is search as good").startswith("Not known: every picture")
    assert answer(full(**PASSED, changes=()), "Is search as good").startswith("Not known: nothing could be compared")
    assert answer(full(**PASSED, since=None), "What changed").startswith("Not known")


def test_a_first_release_says_how_good_it_is():
    quality = QualityFacts(metrics=(MetricFacts(name="recall@1", value=0.694, n_queries=500),))
    assert answer(minimal(n_queries=500, quality=quality), "Is search as good") == (
        "There is nothing to compare with. The same product came first in 69.4% of 500 test searches."
    )
    assert first_screen(minimal()).title == "Published: the first release"


def test_a_release_that_waits_says_so():
    facts = full(causes=(), kinds=(), reason="Waits to be promoted: no loss.")
    assert first_screen(facts).title == "Waits for you"


def test_a_warning_is_neither_good_nor_held():
    screen = first_screen(full(gate="published"))
    assert (screen.tone, screen.title) == ("warning", "Published with a warning: search got worse")


def test_a_run_that_changed_no_search_keeps_what_there_is_to_fix():
    screen = first_screen(analysed())
    told = unchanged_screen(screen, full().catalog.model_copy(update={"refreshed": 3}))
    assert told.title == "Published: search is the same"
    texts = {answer.question: answer.text for answer in told.answers}
    assert texts["What changed?"] == "3 items with other fields, such as a price."
    assert texts["What to fix first?"] == screen.answers[-1].text
    assert "Likeliest cause" not in texts


def test_a_person_s_decision_overrules_the_gate_s():
    told = overruled_screen(first_screen(analysed()), "published", "ada: the loss is wanted")
    assert (told.tone, told.title) == ("good", "Published by a person")
    assert told.answers[0].text == "Yes. ada: the loss is wanted"


def test_two_pictures_show_what_it_speaks_of():
    facts = analysed()
    assert [picture.item_id for picture in pictures_of(facts)] == ["wrong-1", "near-1"]
    gone = held_by("catalogue", "7 of 9 items are gone", album=facts.album | {"gone-1": facts.album["near-1"]})
    assert pictures_of(gone)[0] == facts.album["near-1"]
    assert pictures_of(minimal()) == []


def test_lines_align_the_answers_and_leave_out_backticks():
    title, first, *_ = first_screen(full()).as_lines()
    assert title == "Held back: search got worse"
    assert re.match(r"Was it published\?  +No\. ", first)
    assert not any("`" in line for line in first_screen(full()).as_lines())
    assert FirstScreen(tone="good", title="t").as_lines() == ["t"]
