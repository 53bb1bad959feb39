"""The page shows every fact once, copes with missing ones, and trusts no catalogue row."""

import re

import pytest

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.near_duplicates import DuplicateFacts
from retrieval_core.evaluate.analysis.stage_losses import LinkFacts, LossFacts
from retrieval_core.evaluate.measure.index_quality import CurvePoint
from retrieval_core.evaluate.measure.mask_quality import MaskFacts
from retrieval_core.evaluate.measure.measure import VariantFacts
from retrieval_core.evaluate.report.formatting import number
from retrieval_core.evaluate.report.render import prose, render
from retrieval_core.evaluate.report.schema import QueryGrid, ReportFacts, TrainingFacts
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.metrics.registry import definitions
from tests.core.evaluate.report.sample_facts import ATTACK, FILTERED, change, duplicate, full, minimal, picture, step


def test_the_first_screen_answers_in_sentences_that_lead_on(read_page):
    page = read_page(render(full()))
    assert "Held back: search got worse Was it published? No. Shoppers still search another one." in page.text
    assert "Is search as good? No. In 500 test searches that both releases answered," in page.text
    assert {"#quality", "#changed", "#unreadable", "#fixes"} <= {link["href"] for link in page.all("a")}
    assert "Published: the first release Was it published? Yes." in read_page(render(minimal())).text


@pytest.mark.parametrize("facts", [minimal(), full()], ids=["minimal", "full"])
def test_the_page_is_valid_and_self_contained(read_page, facts: ReportFacts):
    html = render(facts)
    page = read_page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,", "fixes."))
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"url\(|@import", html)
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies
    assert "default-src 'none'" in policies[0]


@pytest.mark.parametrize("facts", [minimal(), full()], ids=["minimal", "full"])
def test_the_page_can_be_read_without_seeing_it(read_page, facts: ReportFacts):
    page = read_page(render(facts))
    assert len(page.all("h1")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    links = {link["href"] for link in page.all("a")} - {"fixes.csv", "fixes.html"}
    assert links <= {f"#{attributes.get('id')}" for _, attributes in page.tags}


def test_a_command_is_shown_as_code_and_a_catalogue_s_text_as_text():
    assert str(prose("Undo <b>. Run `vitrine plan` first.")) == (
        "<strong>Undo &lt;b&gt;.</strong> Run <code>vitrine plan</code> first."
    )
    assert str(prose("Nothing.")).strip() == "<strong>Nothing.</strong>"


def test_missing_facts_are_explained(read_page):
    text = read_page(render(minimal())).text
    for sentence in (
        "First run: nothing is in production yet",
        "Not known: no picture was held out to search with.",
        "No masks in this run",
        "No model was fitted",
        "No stage was timed",
        "Every picture of the catalogue could be read",
    ):
        assert sentence in text
    assert "No metric is defined: the catalogue names no products" in read_page(render(minimal(n_queries=3))).text
    assert "nothing was compared" in read_page(render(minimal(production="77ac"))).text


def test_every_fact_can_be_emptied_alone(read_page):
    for name, empty in (("changes", ()), ("metrics", {}), ("variants", ()), ("training", ()), ("masks", MaskFacts())):
        read_page(render(full(**{name: empty})))
    for name in ("definitions", "seconds"):
        read_page(render(full(**{name: {}})))
    for name in ("quarantine", "grids"):
        read_page(render(full(**{name: ()})))


def test_every_metric_of_every_representation_is_there(read_page):
    facts = full()
    page = read_page(render(facts))
    filters = {chosen.name for chosen in FILTERED}
    for name, value in facts.metrics.items():
        variant, _, plain = name.rpartition("/")
        assert variant in filters or variant in page.text
        assert plain.removesuffix("_random").removesuffix("_std") in page.text
        assert number(value) in page.text
    for name, definition in definitions().items():
        assert name in page.text
        assert definition in page.text


def test_the_best_representation_of_a_metric_is_marked_and_equal_ones_are_not(read_page):
    text = read_page(render(full())).text
    assert text.count("best: ") == 1
    assert "best: 0.707" in text


def test_a_figure_stands_against_random_and_against_production(read_page):
    text = read_page(render(full())).text
    assert "6.9 times as good as chance (0.100)" in text
    assert "0.728 to 0.694 where both answered, worse" in text
    assert "0.728 to 0.731 where both answered, within chance" in text
    same = full(changes=(change(difference=0.0, low=0.0, high=0.0, p_holm=1.0),), causes=(), kinds=(), gate="published")
    assert "the same where both answered" in read_page(render(same)).text
    worse_than_random = full(metrics={"recall@1": 0.1, "recall@1_random": 0.2})
    assert "no better than by chance (0.200)" in read_page(render(worse_than_random)).text


def test_without_a_gallery_the_page_says_that_there_is_nothing_to_find(read_page):
    text = read_page(render(minimal(n_queries=3, n_gallery=0))).text
    assert "Not known: every picture is searched with and none is left to be found." in text
    assert "Name a gallery in the source, or lower evaluate.queries" in text
    assert "none is left" not in read_page(render(minimal(n_queries=3, n_gallery=1))).text


def test_a_search_of_a_part_of_the_gallery_names_the_part(read_page):
    classified = VariantFacts(name="classified", dim=64, metrics={"recall@1": 0.7}, note="in the 3 likeliest classes")
    assert "classified in the 3 likeliest classes" in read_page(render(full(variants=(classified,)))).text


def test_the_metric_that_blocks_is_named_in_its_row(read_page):
    text = read_page(render(full())).text
    assert re.search(
        r"recall@1 0\.728 0\.694 \S+0\.034 difference .{1,60} 0\.0021 0\.049 500 of 180 products \S blocks", text
    )
    assert text.count(" blocks ") == 1


def test_the_rows_add_up_in_sight_or_the_page_says_so(read_page):
    text = read_page(render(full())).text
    assert "1,550 rows = 1,490 searchable + 60 unreadable" in text
    assert "do not add up" not in text
    lost = full().catalog.model_copy(update={"indexed": 1489})
    assert "The rows do not add up" in read_page(render(full(catalog=lost))).text


def test_hits_and_misses_differ_by_more_than_colour(read_page):
    page = read_page(render(full()))
    icons = [use["href"] for use in page.all("use")]
    assert (icons.count("#hit"), icons.count("#miss")) == (3, 2)
    labels = [svg.get("aria-label") for svg in page.all("svg")]
    assert (labels.count("relevant"), labels.count("not relevant")) == (3, 2)
    assert "3 of 5 hits: same category" in page.text
    unjudged = QueryGrid(query=picture(), hits=(picture(score=0.9),))
    assert "not judged" in read_page(render(full(grids=(unjudged,)))).text


def test_an_unreadable_picture_leaves_a_labelled_gap(read_page):
    gone = Thumbnail(item_id="gone", caption="dress", jpeg="")
    bare = full(grids=(QueryGrid(query=gone, hits=()),), masks=MaskFacts(), duplicates=DuplicateFacts())
    page = read_page(render(bare))
    assert not page.all("img")
    assert "query gone: dress, the picture cannot be read" in [span.get("aria-label") for span in page.all("span")]


def test_models_are_trained_in_this_run_or_kept(read_page):
    page = read_page(render(full()))
    assert "U-Net segmenter kept from 17 November 2026" in page.text
    assert "head trained in this run" in page.text
    said = [svg["aria-label"] for svg in page.all("svg") if "by epoch" in (svg.get("aria-label") or "")]
    assert said == [
        "Loss of U-Net segmenter by epoch; loss ends at 0.250",
        "Validation of U-Net segmenter by epoch; val_iou is best at epoch 4 with 0.750; val_iou ends at 0.750",
        "Loss of head by epoch; val_loss is best at epoch 3 with 1.000; train_loss ends at 0.667; "
        "val_loss ends at 1.000",
    ]


def test_a_long_ledger_is_cut_and_says_how_much(read_page):
    text = read_page(render(full())).text
    assert "bad-49" in text
    assert "bad-50" not in text
    assert "The first 50 of 60 are shown; all are in the fix list" in text
    assert "truncated (60)" in text


def test_the_published_search_setting_is_named_and_drawn(read_page):
    page = read_page(render(full()))
    assert "nprobe 16, rerank 4 is published, the cheapest setting that finds 0.99 of the true ten nearest" in page.text
    assert "published: nprobe 16, rerank 4 0.9912 131 kB 0.41 ms" in page.text
    assert "nprobe 32, rerank 1 0.9680 150 kB not timed" in page.text
    said = [svg["aria-label"] for svg in page.all("svg") if "search settings" in (svg.get("aria-label") or "")]
    assert said == [
        "recall@10 against kB a query, 6 search settings; the target is 0.99; "
        "published is nprobe 16, rerank 4 with 0.9912 at 131",
        "recall@10 against ms a query, 5 search settings; the target is 0.99; "
        "published is nprobe 16, rerank 4 with 0.9912 at 0.41",
    ]


def test_a_target_that_nothing_reached_is_named(read_page):
    missed = full().index.model_copy(update={"recall_target": 0.9999, "nprobe": 32, "rerank_depth": 8})
    text = read_page(render(full(index=missed))).text
    assert "nprobe 32, rerank 8 is published: no setting that was tried finds 0.9999 of the true ten nearest" in text


def test_a_single_setting_is_listed_and_not_drawn(read_page):
    alone = minimal().index.model_copy(
        update={"curve": (CurvePoint(nprobe=0, rerank_depth=1, recall=1.0, query_bytes=6144, latency_ms=0.1),)}
    )
    page = read_page(render(minimal(index=alone)))
    assert "1 search setting as a table" in page.text
    assert "published: rerank 1 1.0000 6.14 kB 0.1 ms" in page.text
    assert not [svg for svg in page.all("svg") if "search settings" in (svg.get("aria-label") or "")]
    assert "Tuning" not in read_page(render(minimal())).text


def test_the_bytes_taken_stand_beside_those_predicted(read_page):
    text = read_page(render(minimal())).text
    assert "index files 6.19 kB predicted 6.14 kB" in text
    assert "full vectors 6.95 kB predicted 6.17 kB" in text


def test_recall_under_filters_is_a_table_and_no_representation(read_page):
    page = read_page(render(full()))
    assert "50% of the rows 745 0.993 0.5 ms by the index" in page.text
    assert "category dress 212 0.903 below the target 0.2 ms row by row" in page.text
    assert "where50" not in page.text


def test_a_loss_that_reranking_wins_back_is_not_denied(read_page):
    links = (
        LinkFacts(name="masked", step="", metrics={"recall@1": 0.8}),
        LinkFacts(name="pca64", step="PCA", metrics={"recall@1": 0.7}, changes=(step(-0.1, -0.14, -0.06, 0.001),)),
        LinkFacts(name="reranked", step="rerank", metrics={"recall@1": 0.8}, changes=(step(0.1, 0.06, 0.14, 1.0),)),
    )
    text = read_page(render(full(losses=LossFacts(n_queries=500, links=links)))).text
    assert "PCA loses more than chance explains, and reranking wins it back" in text
    assert "No step loses" not in text


def test_a_catalogue_row_never_becomes_markup(read_page):
    plain = full()
    hostile = full(
        production=ATTACK,
        gate="held",
        reason=ATTACK,
        causes=(ATTACK, ATTACK),
        kinds=("index", "search"),
        created=ATTACK,
        catalog=plain.catalog.model_copy(update={"source": ATTACK}),
        changes=(change(ATTACK, blocks=True),),
        metrics={ATTACK: 0.5, f"{ATTACK}/recall@1": 0.5},
        definitions={ATTACK: ATTACK},
        variants=(VariantFacts(name=ATTACK, dim=1, metrics={"recall@1": 0.5, "x" + ATTACK: 0.1}),),
        training=(
            TrainingFacts(
                name=ATTACK, trained=False, fitted=ATTACK, metrics={ATTACK: 1.0}, history=({ATTACK: 1.0},) * 2
            ),
        ),
        masks=MaskFacts(
            n_masks=1, n_fallback=1, reasons={ATTACK: 1}, examples=((picture(ATTACK), picture(ATTACK, ATTACK)),)
        ),
        index=plain.index.model_copy(
            update={
                "variant": ATTACK,
                "recipe": ATTACK,
                "why": ATTACK,
                "filters": (FILTERED[0].model_copy(update={"meaning": ATTACK}),),
            }
        ),
        duplicates=DuplicateFacts(n_rows=2, n_asked=2, n_pairs=1, pairs=(duplicate(ATTACK, (ATTACK, ATTACK)),)),
        seconds={ATTACK: 1.0},
        quarantine=(Reject(item_id=ATTACK, image_uri=ATTACK, reason=ATTACK, last_seen=ATTACK),),
        grids=(
            QueryGrid(
                query=Thumbnail(item_id=ATTACK, caption=ATTACK, jpeg=ATTACK),
                hits=(picture(ATTACK, ATTACK, 1.0, True),),
                note=ATTACK,
            ),
        ),
        backbone=ATTACK,
        weights=ATTACK,
    )
    html = render(hostile)
    page = read_page(html)
    assert "<script" not in html
    assert not {"script"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert "{{ 7 * 7 }}" in page.text
    assert ATTACK in page.text


def test_the_same_facts_give_the_same_page():
    assert render(full()) == render(ReportFacts.model_validate_json(full().model_dump_json()))


def test_two_hundred_thumbnails_stay_under_five_megabytes():
    hits = tuple(picture(f"hit-{i}", "dress", 0.9, True) for i in range(5))
    grids = tuple(QueryGrid(query=picture(f"query-{i}"), hits=hits) for i in range(34))
    html = render(full(grids=grids))
    assert html.count("data:image/jpeg;base64,") > 200
    assert len(html.encode()) < 5_000_000


def test_figures_that_are_no_numbers_are_a_dash(read_page):
    facts = full(metrics={"recall@1": float("nan"), "raw/recall@1": float("inf")})
    assert "nan" not in read_page(render(facts)).text
    broken = TrainingFacts(
        name="head", trained=True, fitted="", history=({"epoch": 1, "val_loss": float("nan")}, {"epoch": 2})
    )
    assert "nan" not in read_page(render(full(training=(broken,)))).text


def test_a_certain_change_too_small_to_show_is_not_called_better(read_page):
    moved = change(low=0.0001, high=0.0004).model_copy(update={"difference": 0.0003})
    assert "negligible" in read_page(render(full(changes=(moved,)))).text
