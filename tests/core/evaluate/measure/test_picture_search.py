"""A picture is embedded once by one encoder, over all runs, and again by any other."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.manifests import Ref
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.measure.picture_search import SCHEMA, PictureSearch
from retrieval_core.search.hits import Hit

PICTURES = [np.random.default_rng(i).integers(0, 256, (6, 5, 3)).astype(np.uint8) for i in range(4)]


class Shop:
    """A release whose vector of a picture is its mean colour; it remembers what it embedded."""

    def __init__(self, backbone: str = "b1", config: NightlyConfig | None = None) -> None:
        self.release = SimpleNamespace(
            backbone=Ref(kind="Backbone", key=f"backbones/{backbone}"),
            head=None,
            segmenter=None,
            detector=None,
            variant="raw",
            nightly_config=lambda: config or NightlyConfig(),
        )
        self.encoder, self.embedded = self, 0

    def embed_picture(self, picture: np.ndarray) -> np.ndarray:
        self.embedded += 1
        return picture.mean(axis=(0, 1), dtype=np.float32)

    def search_vector(self, vector: np.ndarray, k: int) -> list[Hit]:
        return [Hit(item_id=str(vector.tolist()), score=1.0, image_uri="")] * k


def ask(shop: Shop, pictures, known: pl.DataFrame) -> tuple[list[list[Hit]], pl.DataFrame]:
    search = PictureSearch(shop, known)
    return [search.search(picture, 2) for picture in pictures], search.vectors()


def test_a_second_run_embeds_only_new_pictures_and_finds_the_same():
    nothing = pl.DataFrame(schema=SCHEMA)
    _, known = ask(Shop(), PICTURES[:3], nothing)
    assert known.schema == pl.Schema(SCHEMA)
    again, scratch = Shop(), Shop()
    hits, vectors = ask(again, PICTURES[1:], known)
    assert (hits, vectors.rows()) == tuple(
        part.rows() if isinstance(part, pl.DataFrame) else part for part in ask(scratch, PICTURES[1:], nothing)
    )
    assert (again.embedded, scratch.embedded) == (1, 3)


@pytest.mark.parametrize(
    "other",
    [Shop("b2"), Shop(config=NightlyConfig(embed=NightlyConfig().embed.model_copy(update={"size_px": 64})))],
)
def test_another_encoder_embeds_all_pictures_again(other):
    _, known = ask(Shop(), PICTURES, pl.DataFrame(schema=SCHEMA))
    ask(other, PICTURES, known)
    assert other.embedded == len(PICTURES)


def test_a_picture_of_other_proportions_is_another_picture():
    _, known = ask(Shop(), [PICTURES[0]], pl.DataFrame(schema=SCHEMA))
    again = Shop()
    ask(again, [PICTURES[0].reshape(5, 6, 3)], known)
    assert again.embedded == 1
