"""The comparison's page shows every figure, copes with missing ones, and escapes catalogue and config."""

import json
import re

import pytest

from retrieval_core.evaluate.compare.build import gather_facts
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.compare.paired import PairedTest
from retrieval_core.evaluate.compare.render import effect, render_comparison
from retrieval_core.evaluate.compare.schema import (
    ComparisonFacts,
    CropBand,
    CropExample,
    CropFacts,
    Front,
    MeasuredVariant,
    ModelFacts,
    SideBySide,
)
from retrieval_core.evaluate.compare.tables import Cell, Row, Table
from retrieval_core.evaluate.report.formatting import MINUS, number, signed
from retrieval_core.evaluate.report.schema import QueryGrid
from retrieval_core.evaluate.thumbnails import Thumbnail

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}|`"

CHOICES = {"kind", "contrast", "cost", "background", "framing", "mode", "precision"}
FIELDS = {
    field
    for model in (
        *(ComparisonFacts, MeasuredVariant, VariantConfig, ModelFacts, Front, SideBySide, QueryGrid, Thumbnail),
        *(CropFacts, CropBand, CropExample, Table, Row, Cell, PairedTest),
    )
    for field in model.model_fields
}


@pytest.fixture
def bare(open_shop, configured) -> ComparisonFacts:
    """Two variants of a catalogue without queries."""
    shop = open_shop(n=4, split="train")
    variants = [shop.variant("a", shop.vectors(1.0)), shop.variant("b", shop.vectors(1.0))]
    config = configured(variants, {"metrics": ("map@5",), "baseline": "a"})
    return gather_facts(shop.store, shop.inputs(*variants), shop.compare(*variants), config, "bare")


@pytest.mark.parametrize("facts", ["full", "bare"])
def test_the_page_is_complete_and_self_contained(read_page, request, facts) -> None:
    html = render_comparison(request.getfixturevalue(facts))
    page = read_page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)


@pytest.mark.parametrize("facts", ["full", "bare"])
def test_the_page_can_be_read_without_seeing_it(read_page, request, facts) -> None:
    page = read_page(render_comparison(request.getfixturevalue(facts)))
    assert len(page.all("h1")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    links = {(link["href"] or "")[1:] for link in page.all("a")}
    assert links == {attributes.get("id") for tag, attributes in page.tags if tag == "section"} - {"outcome"}


def test_every_figure_of_every_table_is_there(read_page, full) -> None:
    text = read_page(render_comparison(full)).text
    for table in full.tables:
        assert f"{table.title} {table.note}".strip() in text
        for row in table.rows:
            assert f"{row.n_bytes_per_item:,}" in text
            for cell in row.cells:
                assert number(cell.value) in text
                if cell.test:
                    assert f"{signed(cell.test.low)} to {signed(cell.test.high)}" in text
                    assert f"p {cell.test.p_holm:.2g}" in text or f" {cell.test.p_holm:.2g} " in text
        for remark in table.remarks:
            assert remark in text
    for name, definition in full.definitions.items():
        assert f"{name} {definition}" in text


def test_the_outcome_comes_first(read_page, full) -> None:
    text = read_page(render_comparison(full)).text
    best = full.ranked[0]
    assert f"“{best.name}” ranks first by map@5: {best.metrics['map@5']:.3f}" in text
    assert "the fastest, “chance”, takes 3 ms and reaches" in text
    assert text.index("ranks first") < text.index("Table 0")


def test_a_difference_is_coloured_only_beyond_chance(read_page, full) -> None:
    verdicts = {row.variant: effect(row.cells[0]) for row in full.tables[0].rows}
    assert verdicts == {"raw": "", "boosted": "better", "sorted": "better", "cropped": "better", "chance": "worse"}
    html = render_comparison(full)
    assert html.count('<small class="better">') >= 3
    assert f'<small class="worse">{MINUS}' in html
    equal = full.tables[0].rows[1].cells[0].test.model_copy(update={"p_holm": 0.2})
    assert effect(full.tables[0].rows[1].cells[0].model_copy(update={"test": equal})) == "same"


def test_pairs_have_one_line_for_each_metric_and_untested_ones_are_marked(read_page, full) -> None:
    pair = full.tables[1].rows[0]
    text = read_page(render_comparison(full)).text
    first, second = pair.cells
    assert f"boosted against raw map@5 {first.reference:.3f} {first.value:.3f} {signed(first.difference)}" in text
    assert f"boosted against raw f1_example {second.reference:.3f} {second.value:.3f} 0.000" in text
    assert "not tested" in text


def test_a_training_that_collapsed_is_marked(read_page, full) -> None:
    text = read_page(render_comparison(full)).text
    assert re.search(
        r"labeller multilabel , resnet18 from random:0 .{1,60} did not collapse reused from 17 November", text
    )
    assert re.search(r"triplets triplet , .{1,80} collapsed since epoch 2 trained by this run", text)
    assert "Collapse of triplets by epoch" in text


def test_missing_facts_are_mentioned(read_page, bare) -> None:
    text = read_page(render_comparison(bare)).text
    for sentence in (
        "Nothing was measured",
        "Not measured: no picture is held out as a query",
        "map@5 is undefined here",
        "there is no quality to compare with the cost",
        "There are no queries",
        "No two variants differ only in the crop",
        "No model was trained",
        "No stage was timed",
    ):
        assert sentence in text


def attacked(value):
    """A JSON document with an attack before every text and every key of a mapping, except fields and choices."""
    if isinstance(value, list):
        return [attacked(inner) for inner in value]
    if isinstance(value, dict):
        return {
            key if key in FIELDS else ATTACK + key: inner if key in CHOICES else attacked(inner)
            for key, inner in value.items()
        }
    return ATTACK + value if isinstance(value, str) and value else value


def test_nothing_of_catalogue_or_config_becomes_markup(read_page, full) -> None:
    hostile = ComparisonFacts.model_validate(attacked(json.loads(full.model_dump_json())))
    html = render_comparison(hostile)
    page = read_page(html)
    assert "<script" not in html
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    for words in (full.title, full.about, full.source, "boosted", full.grids[0].query.item_id, "labeller", "map@5"):
        assert " ".join((ATTACK + words).split()) in page.text


def test_the_same_facts_give_the_same_page(full) -> None:
    assert render_comparison(full) == render_comparison(ComparisonFacts.model_validate_json(full.model_dump_json()))
