"""The published variant is the cheapest that no other beats on validation rows, and changes only for a real gain."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id
from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import Catalog, Ref, Release, Report, VectorSet
from retrieval_core.artifacts.parts import put_part, put_parts, table_bytes, unit_length, vectors_bytes
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config.stages import IndexConfig, NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate import variant_choice
from retrieval_core.evaluate.variant_choice import VariantChoice, cheapest_of_the_best, choose_variant
from retrieval_core.store.base import Store

RAW, MASKED, BOOSTED = Variant(), Variant("masked"), Variant(boosted=True)
COSTS = {RAW: (False, 8), MASKED: (True, 8), BOOSTED: (False, 8)}
NOWHERE = Ref(kind="Nothing", key="nowhere")


def scores(mean: float, n: int = 400) -> np.ndarray:
    """Return n scores of that mean, in which the queries differ far more than variants do."""
    return (mean + 0.3 * np.sin(np.arange(n))).clip(0, 1)


@pytest.mark.parametrize(
    ("means", "current", "expected"),
    [
        ({RAW: 0.5, MASKED: 0.5, BOOSTED: 0.5}, None, RAW),
        ({RAW: 0.5, MASKED: 0.504}, None, RAW),  # certain, but not worth another embedding pass
        ({RAW: 0.5, MASKED: 0.51}, None, MASKED),
        ({RAW: 0.5, MASKED: 0.504}, MASKED, MASKED),
        ({RAW: 0.5, MASKED: 0.5}, MASKED, MASKED),  # no switch without a gain, not even to a cheaper one
        ({RAW: 0.51, MASKED: 0.5}, MASKED, RAW),
        ({RAW: 0.5, BOOSTED: 0.501}, None, BOOSTED),  # of equal cost
        ({RAW: 0.5, BOOSTED: 0.501}, RAW, RAW),
        ({RAW: 0.5, MASKED: 0.52, BOOSTED: 0.518}, None, BOOSTED),
        ({RAW: 0.5, MASKED: 0.52, BOOSTED: 0.51}, BOOSTED, MASKED),
        ({RAW: 0.5, MASKED: 0.6}, Variant("crop"), MASKED),  # what production has was not made
    ],
)
def test_the_cheapest_variant_that_none_beats_is_chosen_and_production_stays_without_a_real_gain(
    means: dict[Variant, float], current: Variant | None, expected: Variant
) -> None:
    values = {variant: scores(mean) for variant, mean in means.items()}
    assert cheapest_of_the_best(values, np.arange(400), COSTS, current) == expected


def test_a_gain_within_noise_seldom_changes_the_variant() -> None:
    rng = np.random.default_rng(0)
    n_changes = 0
    for _ in range(100):
        values = {variant: rng.random(200) for variant in (RAW, MASKED, BOOSTED)}
        n_changes += cheapest_of_the_best(values, np.arange(200), COSTS, MASKED) != MASKED
    assert n_changes <= 3


def test_the_pictures_of_few_products_are_little_evidence() -> None:
    rng = np.random.default_rng(0)
    products = np.repeat(np.arange(8), 50)
    values = {RAW: np.full(400, 0.4), MASKED: 0.4 + np.repeat(rng.normal(0.05, 0.2, 8), 50)}
    assert cheapest_of_the_best(values, np.arange(400), COSTS, None) == MASKED
    assert cheapest_of_the_best(values, products, COSTS, None) == RAW


N_ITEMS, DIM = 900, 8


def seal_catalog(store: Store, n_items: int = N_ITEMS, category: bool = True) -> Ref:
    """Seal items without products, of which every ninth is held out."""
    rows = [
        {
            "item_id": f"i{n}",
            "row_id": row_id(f"i{n}"),
            "content_id": f"c{n}",
            "category": f"k{n % 5}" if category else None,
            "split": "query" if n % 9 == 0 else "train",
            "labels": [],
            "attributes": [],
            "status": "ok",
        }
        for n in range(n_items)
    ]
    data = table_bytes(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    part = put_part(store, f"{Catalog.folder}/{n_items}-{category}/items.parquet", data, n_items)
    return Catalog(fingerprint=f"{n_items}-{category}", parts=(part,), counts={"rows": n_items}).seal(store).ref


def seal_set(store: Store, catalog: Ref, variant: Variant, signal: float, liar: bool = False) -> VectorSet:
    """Seal vectors that tell the category by so much; those of a liar only of held-out items."""
    rng = np.random.default_rng(len(str(variant)))
    vectors, numbers = rng.normal(size=(N_ITEMS, DIM)).astype(np.float32), np.arange(N_ITEMS)
    vectors[numbers, numbers % 5] += np.where(liar & (numbers % 9 > 0), 0, signal)
    ids = [f"c{n}" for n in numbers]
    family = f"{variant}-{signal}"
    put_growing_part(store, VectorSet.folder, family, "all", vectors_bytes(ids, unit_length(vectors)), N_ITEMS)
    return seal_vectors(store, family, variant, DIM, catalog.name, ids)


def publish(store: Store, choice: VariantChoice) -> None:
    """Publish a release whose report has this choice."""
    data = b'{"choice": ' + choice.model_dump_json().encode() + b"}"
    parts = put_parts(store, f"{Report.folder}/r-{choice.variant}", {"metrics.json": data})
    report = Report(fingerprint=f"r-{choice.variant}", parts=parts, gate="published", gate_reason="").seal(store)
    release = Release(
        fingerprint=f"release-{choice.variant}", catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE,
        report=report.ref, variant=choice.variant, gate="published",
    ).seal(store)  # fmt: skip
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)


def test_auto_publishes_the_better_variant_and_keeps_the_choice_while_little_changes(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = seal_catalog(local_store)
    sets = [seal_set(local_store, catalog, RAW, 1.0), seal_set(local_store, catalog, MASKED, 3.0)]
    choice = choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=False)
    assert choice.variant == MASKED
    raw, masked = choice.scores
    assert (raw.name, masked.name, masked.difference) == ("raw", "masked", 0)
    assert raw.high < 0 < raw.score < masked.score
    assert 40 < choice.n_queries < 120  # a tenth of the 800 training rows
    publish(local_store, choice)
    measure = variant_choice._measure
    monkeypatch.setattr(variant_choice, "_measure", lambda *_: pytest.fail("measured again"))
    little_less, much_less = seal_catalog(local_store, N_ITEMS - 90), seal_catalog(local_store, N_ITEMS - 270)
    for same in (catalog, little_less):
        assert choose_variant(local_store, same, sets, NightlyConfig(), reads_text=False) == choice
    monkeypatch.setattr(variant_choice, "_measure", measure)
    again = choose_variant(local_store, much_less, sets, NightlyConfig(), reads_text=False)
    assert (again.variant, again.catalog) == (MASKED, much_less.name)


def test_the_queries_of_the_report_do_not_decide(local_store: Store) -> None:
    catalog = seal_catalog(local_store)
    sets = [
        seal_set(local_store, catalog, RAW, 1.5),
        seal_set(local_store, catalog, MASKED, 8.0, liar=True),
    ]
    assert choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=False).variant == RAW


@pytest.mark.parametrize(("n_items", "category"), [(60, True), (N_ITEMS, False)])
def test_without_evidence_the_vectors_of_the_backbone_are_published_and_nothing_is_searched_again(
    local_store: Store, n_items: int, category: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = seal_catalog(local_store, n_items, category)
    sets = [seal_set(local_store, catalog, variant, 1.0) for variant in (RAW, MASKED, BOOSTED)]
    choice = choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=False)
    assert (choice.variant, choice.scores) == (RAW, ())
    assert "raw by default: " in choice.why
    assert "validation queries can be judged, 10 are needed" in choice.why
    publish(local_store, choice)
    monkeypatch.setattr(variant_choice, "_measure", lambda *_: pytest.fail("measured again"))
    assert choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=False) == choice


def test_without_evidence_the_variant_of_production_stays(local_store: Store) -> None:
    catalog = seal_catalog(local_store, 60)
    sets = [seal_set(local_store, catalog, variant, 1.0) for variant in (RAW, MASKED, BOOSTED)]
    publish(local_store, VariantChoice(variant=BOOSTED, why="more was known then"))
    choice = choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=False)
    assert choice.variant == BOOSTED
    assert choice.why.startswith("boosted stays: ")


def test_boosted_vectors_are_no_choice_where_texts_are_to_find_pictures(local_store: Store) -> None:
    catalog = seal_catalog(local_store)
    sets = [seal_set(local_store, catalog, RAW, 1.0), seal_set(local_store, catalog, BOOSTED, 3.0)]
    assert choose_variant(local_store, catalog, sets, NightlyConfig(), reads_text=True).variant == RAW


def test_a_configured_variant_is_taken_and_one_that_was_not_made_is_refused(local_store: Store) -> None:
    catalog = seal_catalog(local_store)
    sets = [seal_set(local_store, catalog, RAW, 3.0), seal_set(local_store, catalog, MASKED, 1.0)]
    config = NightlyConfig(index=IndexConfig(variant="masked"))
    assert choose_variant(local_store, catalog, sets, config, reads_text=False).variant == MASKED
    with pytest.raises(BadConfig, match="crop was not made; this run made raw, masked"):
        choose_variant(local_store, catalog, sets, NightlyConfig(index=IndexConfig(variant="crop")), reads_text=False)
