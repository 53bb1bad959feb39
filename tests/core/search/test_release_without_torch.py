"""A machine that only searches: ONNX Runtime and numpy, neither torch nor anything that trains, schedules or serves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.head.apply import HIDDEN_KEYS, WEIGHTS_FILE, boost, load_head
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease
from tests.core.sealed_models import MASK_PX, seal_head, seal_segmenter

SEARCH = """
import json, sys

ABSENT = {"torch", "torchvision", "timm", "open_clip", "lightning", "pytorch_lightning", "segmentation_models_pytorch"}
ABSENT |= {"prefect", "fastapi"}

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Finder(finder) for finder in sys.meta_path]

from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release

release = open_release(sys.argv[1])
release.prepare()
picture = sys.argv[2]
queries = {"picture": picture, "item": Query(item_ids=("item-4-0",)), "mean": Query((picture,), (), ("item-4-0",))}
answers = {name: release.search(query, 5) for name, query in queries.items()}
answers["filter"] = release.search(picture, 5, where="category=dress and colour in (red, blue)")
answers["collapsed"] = release.search(picture, 5, collapse=True)
print(json.dumps({name: [(hit.item_id, hit.score) for hit in hits] for name, hits in answers.items()}))
assert not ABSENT & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return new_shop(tmp_path_factory.mktemp("shop"))


def publish_raw(shop: Any) -> None:
    shop.publish("r1")


def publish_masked_and_boosted(shop: Any) -> None:
    """The raw index under another head: what is found means little, but every link of the query's way is gone."""
    raw = shop.publish("r1")
    mask = NightlyConfig().mask.model_copy(update={"size_px": MASK_PX})
    config = NightlyConfig.model_validate({**raw.config, "mask": mask})
    Release.model_validate(
        {
            **raw.model_dump(mode="json"),
            "fingerprint": "r2",
            "config": config.model_dump(mode="json"),
            "variant": "masked_boosted",
            "segmenter": seal_segmenter(shop).ref,
            "head": seal_head(shop).ref,
        }
    ).seal(shop.store)
    releases.point_alias(shop.store, "production", "r2")


def expected_answers(release: OpenRelease, picture: Path) -> dict[str, list[Any]]:
    item = Query(item_ids=("item-4-0",))
    answers = {
        "picture": release.search(picture, 5),
        "item": release.search(item, 5),
        "mean": release.search(Query((picture,), (), item.item_ids), 5),
        "filter": release.search(picture, 5, where="category=dress and colour in (red, blue)"),
        "collapsed": release.search(picture, 5, collapse=True),
    }
    return {name: [(hit.item_id, hit.score) for hit in hits] for name, hits in answers.items()}


@pytest.mark.parametrize("publish", [publish_raw, publish_masked_and_boosted])
def test_a_release_answers_pictures_items_and_filters_without_torch(shop: Any, publish: Callable[[Any], None]) -> None:
    publish(shop)
    picture = shop.picture("item-5-2")
    command = [sys.executable, "-c", SEARCH, shop.store.url, str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = expected_answers(shop.open(), picture)
    assert abs(expected["picture"][0][1]) > 0.1, "a query vector of zeros would prove nothing"
    answers = json.loads(done.stdout)
    assert answers.keys() == expected.keys()
    for name, hits in expected.items():
        assert [item_id for item_id, _ in answers[name]] == [item_id for item_id, _ in hits]
        np.testing.assert_allclose([score for _, score in answers[name]], [score for _, score in hits], atol=1e-6)


def test_the_head_is_what_torch_computes(shop: Any) -> None:
    torch = pytest.importorskip("torch")
    seal_head(shop)
    weights = load_head(shop.folder / WEIGHTS_FILE)
    vectors = np.random.default_rng(1).normal(size=(4, 128)).astype(np.float32)
    mean, std, weight, bias = (torch.from_numpy(weights[name]) for name in HIDDEN_KEYS)
    hidden = torch.relu((torch.from_numpy(vectors) - mean) / std @ weight.T + bias)
    np.testing.assert_allclose(boost(weights, vectors), torch.nn.functional.normalize(hidden).numpy(), atol=1e-6)
