"""Each section of the page shows what its analysis found, or says in a sentence why there is nothing."""

import re

import polars as pl
import pytest

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.drift import DriftFacts
from retrieval_core.evaluate.analysis.embedding_map import MapFacts, MapPoint
from retrieval_core.evaluate.analysis.hygiene import FIX_SCHEMA, FixExample, HygieneFacts
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts, MovedItem
from retrieval_core.evaluate.analysis.quality import CategoryFacts, Confusion, QualityFacts
from retrieval_core.evaluate.analysis.release_diff import (
    ConfigChange,
    GoneCategory,
    ItemChange,
    ReleaseDiffFacts,
    ValueChange,
)
from retrieval_core.evaluate.analysis.stage_costs import CostFacts
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.measure.confidence import ConfidenceBin, ConfidenceFacts
from retrieval_core.evaluate.report.fix_list import entries
from retrieval_core.evaluate.report.formatting import MINUS
from retrieval_core.evaluate.report.render import render, render_fix_list
from retrieval_core.evaluate.report.schema import ItemWords, QueryGrid, ReportFacts
from retrieval_core.evaluate.thumbnails import Thumbnail
from tests.core.evaluate.report.sample_facts import ATTACK, analysed, drift, full, metric, minimal, picture


def text_of(read_page, facts: ReportFacts) -> str:
    return read_page(render(facts)).text


def test_the_page_says_why_and_since_when_a_release_is_held(read_page):
    facts = analysed(causes=("recall@1 fell", "too many rows are quarantined"), kinds=("search", "pictures"))
    page = read_page(render(facts))
    assert "Held, for 2 reasons: recall@1 fell too many rows are quarantined" in page.text
    assert "Shoppers still search the release of 18 November, 03:10. Held 3 runs in a row." in page.text
    sparks = [svg["aria-label"] for svg in page.all("svg") if "runs: from" in (svg.get("aria-label") or "")]
    assert sparks == [
        "recall@1 over the last 12 runs: from 0.710 to 0.694, lowest 0.694, highest 0.720",
    ]


def test_the_choice_of_the_published_representation_is_shown_with_its_figures(read_page):
    text = read_page(render(full())).text
    assert "masked stays . None of these queries is among those above." in text
    assert "raw 0.500 0.500 -0.100 -0.150 to -0.050 masked 0.600 0.600 published" in text


def test_the_confidence_of_searches_is_shown_beside_what_came_true(read_page):
    bins = (ConfidenceBin(n=300, predicted=0.125, observed=0.15), ConfidenceBin(n=100, predicted=0.875, observed=0.86))
    checked = ConfidenceFacts(
        kind="product", n_learned=900, n_checked=400, auc=0.9, cosine_auc=0.7, brier=0.1, ece=0.0225, bins=bins
    )
    text = read_page(render(full(confidence=checked))).text
    assert "With a relevant hit Searches 0.125 0.150 300 0.875 0.860 100" in text
    missing = ConfidenceFacts(missing="Fewer than 30.")
    assert "No match Fewer than 30." in read_page(render(full(confidence=missing))).text


def test_a_headline_figure_has_its_interval(read_page):
    assert "0.694 0.728 to 0.694 where both answered, worse 95% interval 0.652 to 0.733" in text_of(
        read_page, analysed()
    )


def test_what_changed_is_counted_shown_and_named(read_page):
    page = read_page(render(analysed()))
    assert "12 items new, 15 gone, 3 with another price and 1 with another picture." in page.text
    assert "other-1 picture another one price 19.00 EUR → 15.20 EUR" in page.text
    assert "gone-1: dress, the picture cannot be read" in [span.get("aria-label") for span in page.all("span")]
    assert f"heads {'a' * 12} {'b' * 12}" in page.text
    assert "head.max_epochs 60 1" in page.text
    assert "new-1: dress" in [image.get("alt") for image in page.all("img")]


def test_a_catalogue_that_is_the_same_says_so(read_page):
    same = analysed().since.model_copy(
        update={
            "counts": dict.fromkeys(("added", "changed", "removed"), 0),
            "values": {}, "named": (), "models": (), "config": (),
        }
    )  # fmt: skip
    text = text_of(read_page, analysed(since=same))
    assert "No item came, went or changed." in text
    assert "Models and settings" not in text


def test_a_category_of_one_query_claims_no_interval(read_page):
    text = text_of(read_page, analysed())
    assert "dress 300 0.694 0.652 to 0.733" in text
    assert "hat 1 0.694 one query" in text


def test_confusion_names_the_most_frequent_mistakes_with_their_counts(read_page):
    assert "dress is answered by hat 10 of 300 times; hat is answered by dress 1 of 1 times" in text_of(
        read_page, analysed()
    )


def test_the_worst_query_is_shown_with_its_figures(read_page):
    text = text_of(read_page, analysed())
    assert "query-bad 0 of 1 hits: same product" in text
    assert "The 1 that went best" in text


def test_queries_that_need_no_labels_have_intervals(read_page):
    text = text_of(read_page, analysed())
    assert "synthetic: crop found again after: a window 0.310 0.228 to 0.406 100" in text
    assert re.search(r"golden/hit@1 .{1,80} 0\.900 0\.686 to 0\.971 19", text)
    assert "Of the 20 golden queries in golden.csv , 19 were used" in text


def test_the_step_that_lost_most_is_marked_once(read_page):
    page = read_page(render(analysed()))
    assert "head loses most: 0.100 of recall@1, more than chance explains" in page.text
    assert page.text.count("▼ loses most") == 1
    assert f"{MINUS}0.100 ({MINUS}0.140 to {MINUS}0.060) ▼ loses most" in page.text
    assert "the same for every query" in page.text
    said = [svg["aria-label"] for svg in page.all("svg") if "along the chain" in (svg.get("aria-label") or "")]
    assert said == [
        "recall@1 along the chain: raw 0.800, boosted 0.700, index 0.700, reranked 0.694; head loses most",
    ]


def test_churn_is_split_and_the_neighbours_before_and_after_are_shown(read_page):
    page = read_page(render(analysed()))
    assert "25% of the ten nearest neighbours changed, over all 1,475 items" in page.text
    assert "5% by the catalogue, 20% by the model" in page.text
    assert (
        "Neighbours that went: 30 were removed from the catalogue, 2 show another picture, 400 were crowded out"
        in page.text
    )
    assert "near-1 left now near-2 came" in page.text
    sampled = analysed().churn.model_copy(update={"n_asked": 800, "low": 0.22, "high": 0.28})
    text = text_of(read_page, analysed(churn=sampled))
    assert "(95% interval 22% to 28%), over a fixed random sample of 800 of the 1,475 items" in text


def test_the_fix_list_is_named_counted_and_shown(read_page):
    text = text_of(read_page, analysed())
    assert "77 things to look at. First the category or label of 2 items" in text
    assert "category shoe instead of hat , 93% sure: 9 of 10 neighbours are shoe, 0 are hat" in text
    assert text.count("% sure") == 1  # of an orphan, nobody measured how often it is one
    assert "Not looked for: wrong labels (No item has a label)." in text


def test_an_item_is_linked_in_the_search_page_and_in_the_shop(read_page):
    shop = {"wrong-1": ItemWords(title="A hat", link="https://shop.example/hat")}
    page = read_page(render(analysed(shop=shop, app_url="https://vitrine.example/?item=")))
    links = [link["href"] for link in page.all("a")]
    assert {"https://vitrine.example/?item=wrong-1", "https://shop.example/hat"} <= set(links)
    assert "wrong-1 A hat" in page.text
    assert all(link["rel"] == "noreferrer" for link in page.all("a") if link["href"].startswith("https:"))


def test_the_printed_list_holds_every_entry_by_what_a_person_does(read_page):
    facts = analysed()
    fixes = pl.DataFrame(
        [("wrong-1", "category", "9 of 10 neighbours are shoe", ATTACK, 0.93)], schema=FIX_SCHEMA, orient="row"
    )
    html = render_fix_list(facts, entries(facts, fixes))
    page = read_page(html)
    assert "61 entries" in page.text
    assert page.text.index("Correct the category or label") < page.text.index("Replace the picture")
    assert "bad-59" in page.text
    assert "<script" not in html


def test_costs_are_compared_with_the_run_before_and_with_the_plan(read_page):
    text = text_of(read_page, analysed())
    assert "embed 10 min 12 s before 40.0 s 15 before 1 3 MB before 2.9 MB" in text
    assert "embedding 15 pictures 10 min 00 s 10 min 12 s 102%" in text


def test_only_drifted_distributions_are_called_drifted(read_page):
    text = text_of(read_page, analysed())
    assert "1 of the catalogue's 3 distributions drifted far" in text
    assert "A large shift: stability index 0.31, largest gap of the distributions 0.30 (p 0.001)" in text
    assert "No shift beyond chance: stability index 0.02" in text
    assert "Not drawn, because every item has the same value: norm 0" in text
    arrived = DriftFacts(n_rows=9, n_sampled=9, n_arrived=30, catalog=(drift(psi=0.01),), arrived=(drift(),))
    text = text_of(read_page, analysed(drift=arrived))
    assert "No distribution of the catalogue drifted far" in text
    assert "The items that arrived differ from the last release in 1 of 1 distributions" in text


def test_the_map_says_that_it_samples_and_how_far_to_trust_it(read_page):
    page = read_page(render(analysed()))
    assert "2 of 1,000,000 items, a fixed random sample" in page.text
    assert "trust it only for large groups" in page.text
    assert "map-1 · dress" in page.text
    assert "map-1: dress" in [image.get("alt") for image in page.all("img")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"production": None, "since": None, "churn": None}, "First run: there is no earlier release to compare"),
        ({"since": None}, "was removed from the store, so what changed since cannot be listed"),
        ({"churn": None}, "so its neighbours cannot be compared"),
        ({"churn": ChurnFacts(n_shared=0, n_unchanged=0, missing="Nothing in common.")}, "Nothing in common."),
        ({"losses": LossFacts(n_queries=0, missing="No picture is held out.")}, "No picture is held out."),
        ({"quality": QualityFacts()}, "No query has a category"),
        ({"worst": (), "best": ()}, "No search can be judged"),
        ({"drift": DriftFacts(n_rows=1, missing="Fewer than two items.")}, "Fewer than two items."),
        (
            {"drift": DriftFacts(n_rows=9, n_sampled=9, catalog=(drift(psi=None, p_holm=None, then=()),),
                                 incomparable="Another space.")},
            "Another space. The distributions of this run are shown alone",
        ),
        ({"map": MapFacts(n_rows=2, missing="A map wants three items.")}, "A map wants three items."),
        ({"hygiene": HygieneFacts(n_rows=0, n_asked=0)}, "there is nothing to compare an item with"),
        ({"costs": CostFacts(), "seconds": {}}, "No stage was timed"),
    ],
)  # fmt: skip
def test_a_section_without_facts_says_why(read_page, changes, expected):
    assert expected in text_of(read_page, analysed(**changes))


def test_the_first_run_of_an_unlabelled_catalogue_is_a_useful_page(read_page):
    page = read_page(render(minimal()))
    for sentence in (
        "Everything is new: 3 items.",
        "there is no earlier release",
        "The chain was not measured",
        "There were no searches",
    ):
        assert sentence in page.text


@pytest.mark.parametrize(
    "facts", [analysed(), analysed(production=None, since=None, churn=None)], ids=["held", "first"]
)
def test_the_page_stays_self_contained_and_readable_without_sight(read_page, facts):
    page = read_page(render(facts))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(image.get("alt") for image in page.all("img"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {link["href"] for link in page.all("a")} - {"fixes.csv", "fixes.html"}
    assert links <= {f"#{name}" for name in ids}


def test_text_from_the_analyses_never_becomes_markup(read_page):
    plain = analysed()
    shown = picture(ATTACK, ATTACK)
    facts = analysed(
        album={ATTACK: shown, "gone-1": Thumbnail(item_id=ATTACK, caption=ATTACK, jpeg="")},
        causes=(ATTACK, ATTACK),
        kinds=("catalogue", "search"),
        since=ReleaseDiffFacts(
            release=ATTACK,
            created=ATTACK,
            counts={"added": 1, "changed": 0, "removed": 0},
            values={ATTACK: 1},
            gone=(GoneCategory(category=ATTACK, n_gone=1, n_before=1),),
            named=(
                ItemChange(
                    item_id=ATTACK, what="added", differs=(ValueChange(what=ATTACK, before=ATTACK, now=ATTACK),)
                ),
            ),
            config=(ConfigChange(key=ATTACK, before=ATTACK, now=ATTACK),),
        ),
        quality=QualityFacts(
            metrics=(metric(),),
            categories=(CategoryFacts(category=ATTACK, n_queries=1, metrics=(metric(ATTACK),)),),
            confusion=Confusion(n_queries=1, asked=(ATTACK,), found=(ATTACK, "x"), counts=((0, 1),)),
        ),
        worst=(QueryGrid(query=shown, hits=(shown,), note=ATTACK),),
        churn=plain.churn.model_copy(
            update={"moved": (MovedItem(item_id=ATTACK, churn=1, by_model=0, before=(ATTACK,), after=(ATTACK,)),)}
        ),
        hygiene=plain.hygiene.model_copy(
            update={
                "examples": (
                    FixExample(
                        item_id=ATTACK, problem="orphan", evidence=ATTACK, suggestion=ATTACK, score=1, beside=(ATTACK,)
                    ),
                )
            }
        ),
        drift=plain.drift.model_copy(update={"catalog": (drift(ATTACK),)}),
        map=plain.map.model_copy(
            update={"points": (MapPoint(item_id=ATTACK, x=0, y=0, category=0),) * 2, "categories": (ATTACK,)}
        ),
        quarantine=(Reject(item_id=ATTACK, image_uri=ATTACK, reason=ATTACK, last_seen=ATTACK),),
    )
    html = render(facts)
    page = read_page(html)
    assert "<script" not in html
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))


def test_a_large_catalogue_with_many_thumbnails_stays_under_five_megabytes():
    album = {f"item-{i}": picture(f"item-{i}") for i in range(60)}
    names = list(album)
    moved = tuple(
        MovedItem(item_id=names[i], churn=1, by_model=1, before=tuple(names[:5]), after=tuple(names[5:10]))
        for i in range(12)
    )
    hits = tuple(picture(f"hit-{i}", "dress", 0.9, True) for i in range(5))
    grids = tuple(QueryGrid(query=picture(f"query-{i}"), hits=hits) for i in range(16))
    points = tuple(
        MapPoint(item_id=names[i % 60], x=(i % 50) / 50, y=(i // 50) / 40, category=i % 8) for i in range(2_000)
    )
    facts = analysed(
        album=album,
        worst=grids[:8],
        best=grids[8:12],
        grids=grids[12:],
        churn=analysed().churn.model_copy(update={"moved": moved}),
        map=analysed().map.model_copy(update={"points": points, "categories": tuple("abcdefgh")}),
    )
    html = render(facts)
    assert html.count("data:image/jpeg;base64,") > 190
    assert len(html.encode()) < 5_000_000


def test_the_same_facts_give_the_same_page_after_a_round_trip():
    assert render(analysed()) == render(ReportFacts.model_validate_json(analysed().model_dump_json()))


def test_a_published_run_does_not_mention_holding(read_page):
    text = text_of(read_page, full(gate="published", reason="No loss.", changes=(), causes=(), kinds=()))
    assert "Held" not in text.partition("What the words mean Published, held back")[0]
