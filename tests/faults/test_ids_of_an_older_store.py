"""A store whose ids an older version kept as the source spelled them: the next run knows them as the same items."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from flows.catalog_update import catalog_update
from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts import catalog_rows, releases
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import NotFound
from retrieval_core.explain.explanation import explain
from retrieval_core.ingest.sources import base
from retrieval_core.maintenance.plan import forecast
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings

CATEGORIES, VIEWS = ("Été", "Größe", "Hüte"), 8
ROWS = len(CATEGORIES) * VIEWS
CONFIG = NightlyConfig.load(
    None,
    ["embed.backbone=pca_pixels", "embed.weights=fit:0", "embed.size_px=16", "embed.background=raw", "reduce.dims=[4]",
     "evaluate.queries=8", "evaluate.synthetic_queries=4", "gate.min_queries=2", "gate.max_unseen_loss=1.0"],
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """Pictures with names as macOS writes them (NFD), in folders that are categories."""

    def __init__(self, folder: Path) -> None:
        self.source = f"folder:{folder / 'pictures'}"
        self.settings = Settings.load(store=str(folder / "store"), threads=1, device="cpu")
        self.store = self.settings.open_store()
        for row in range(ROWS):
            category, view = CATEGORIES[row % len(CATEGORIES)], row // len(CATEGORIES)
            path = folder / "pictures" / normalize("NFD", f"{category}/Stück {view}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng([row % len(CATEGORIES), view // 2]).integers(0, 250, (4, 4, 3)) + view % 2
            Image.fromarray(coarse.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)).save(path)

    def night(self) -> RunSummary:
        return nightly(self.source, self.settings, CONFIG)

    def found(self, item_id: str) -> set[str]:
        """Return the items that a search with an item finds: all the others."""
        hits = open_release(self.store, settings=self.settings).search(Query(item_ids=(item_id,)), k=ROWS)
        assert all(Path(hit.image_uri).exists() for hit in hits)
        return {hit.item_id for hit in hits}


@pytest.fixture(scope="module")
def upgraded(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with one release, made without normal forms."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base, "normal_names", lambda column: column)
        patched.setattr(catalog_rows, "with_normal_names", lambda table: table)
        shop.night()
    return shop


@pytest.mark.parametrize(
    "typed", ["Été/Stück 3.png", "E\u0301te\u0301/Stück 3.png", " \u00c9t\u00e9/Stu\u0308ck\u00a0\u200b3.png"]
)
def test_an_item_is_found_however_it_is_typed_before_and_after_the_next_run(upgraded: Shop, typed: str) -> None:
    others = {f"{category}/Stück {view}.png" for category in CATEGORIES for view in range(VIEWS)} - {"Été/Stück 3.png"}
    assert upgraded.found(typed) == others
    release = releases.read_release(upgraded.store, releases.PRODUCTION)
    assert release is not None
    explanation = explain(upgraded.store, release, typed, upgraded.settings)
    assert (explanation.item_id, explanation.state) == ("Été/Stück 3.png", "indexed")
    assert explanation.itself is not None
    assert explanation.itself.place in (1, 2)  # the other view has nearly the same pixels
    assert [event.what for event in explanation.history.events] == ["came"]


def test_the_next_run_changes_nothing_but_the_spelling(upgraded: Shop) -> None:
    plan = forecast(upgraded.source, upgraded.store, CONFIG)
    assert (plan.to_read, plan.gone, plan.refit) == (0, 0, False)
    run = upgraded.night()
    assert (run.gate, run.embedded, run.trained) == ("published", 0, [])
    assert (run.catalog.unchanged, run.catalog.added, run.catalog.removed, run.catalog.changed) == (ROWS, 0, 0, 0)
    assert verify(upgraded.store).ok
    test_an_item_is_found_however_it_is_typed_before_and_after_the_next_run(upgraded, "É\u200bté/Stu\u0308ck 3.png")
    assert upgraded.night().release == run.release
    with pytest.raises(NotFound, match=r"is not in release .*; did you mean .*'Été/Stück 3.png'"):
        upgraded.found("ete/Stuck-3.png")


def test_an_update_by_names_knows_the_items_too(upgraded: Shop) -> None:
    name = "Hu\u0308te/Stück\u00a01.png"
    run = catalog_update(upgraded.source, upgraded.settings, CONFIG, changed=(name,))
    assert (run.catalog.unchanged, run.catalog.added, run.catalog.removed, run.catalog.changed) == (ROWS, 0, 0, 0)
    run = catalog_update(upgraded.source, upgraded.settings, CONFIG, added=("hüte/stück 1.png",))
    assert "did you mean 'Hüte/Stück 1.png'" in run.notes[-1]
