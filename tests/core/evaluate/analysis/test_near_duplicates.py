"""One picture under two product numbers is found; look-alike vectors, and pictures of one product, are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.evaluate.analysis import near_duplicates
from retrieval_core.evaluate.analysis.near_duplicates import COLUMNS, NOTHING_COMPARED, find_near_duplicates
from retrieval_core.evaluate.measure import setup
from retrieval_core.evaluate.measure.setup import find_neighbours

N = 40
MAX_PIXELS = 1_000_000


def paint(seed: int) -> np.ndarray:
    """A picture like no other: a coarse random pattern."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((120, 150), Image.Resampling.BICUBIC))


class Shop:
    """Forty pictures of forty products with vectors far apart, to be changed before it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.products: list[str | None] = [f"p-{i}" for i in range(N)]
        self.categories: list[str | None] = [None] * N
        drawn = np.random.default_rng(1).standard_normal((N, 32))
        self.vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
        for i in range(N):
            Image.fromarray(paint(i)).save(self.path(i))

    def path(self, i: int) -> Path:
        return self.folder / f"{i}.png"

    def near(self, a: int, b: int, shift: float = 0.05) -> None:
        """Give b a vector near that of a."""
        moved = self.vectors[a] + shift * self.vectors[b]
        self.vectors[b] = moved / np.linalg.norm(moved)

    def find(self, catalog_items, open_bench, gone: tuple[int, ...] = (), known=NOTHING_COMPARED):
        paths = [self.path(i) for i in range(N)]
        items = catalog_items(
            N,
            product_id=self.products,
            category=self.categories,
            image_uri=[str(path) for path in paths],
            content_id=[content_id(path.read_bytes()) for path in paths],
        )
        for i in gone:
            self.path(i).unlink()
        bench = open_bench(items, self.vectors)
        return find_near_duplicates(bench, find_neighbours(bench, 0), MAX_PIXELS, known)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return Shop(folder)


def test_a_picture_encoded_again_under_another_product_is_found(shop, catalog_items, open_bench):
    again = Image.open(shop.path(3)).resize((90, 112))
    again.save(shop.path(20), "JPEG", quality=60)
    shop.near(3, 20)
    pairs, _, facts, _ = shop.find(catalog_items, open_bench)
    assert pairs.columns == list(COLUMNS)
    assert pairs.drop("similarity").rows() == [("item-00003", "item-00020", "p-3", "p-20")]
    assert pairs["similarity"][0] == pytest.approx(float(shop.vectors[3] @ shop.vectors[20]))
    assert (facts.n_rows, facts.n_asked, facts.n_pairs) == (N, N, 1)
    assert facts.n_compared == facts.n_near > N
    (shown,) = facts.pairs
    assert shown.items == ("item-00003", "item-00020")
    assert all(picture.jpeg for picture in shown.pictures)


def test_the_same_file_twice_is_found_where_no_product_is_known(shop, catalog_items, open_bench):
    shop.path(9).write_bytes(shop.path(8).read_bytes())
    shop.near(8, 9, 0.0)
    shop.products[8] = shop.products[9] = None
    pairs, _, facts, _ = shop.find(catalog_items, open_bench, gone=(8, 9))
    assert pairs.drop("similarity").rows() == [("item-00008", "item-00009", None, None)]
    assert facts.pairs[0].similarity == pytest.approx(1)
    assert facts.pairs[0].pictures[0].jpeg == ""


def test_views_of_one_product_are_no_duplicates_across_products(shop, catalog_items, open_bench):
    shop.path(9).write_bytes(shop.path(8).read_bytes())
    shop.near(8, 9)
    shop.products[9] = shop.products[8]
    pairs, _, facts, _ = shop.find(catalog_items, open_bench)
    assert (len(pairs), facts.n_pairs, facts.pairs) == (0, 0, ())


def test_near_vectors_of_unlike_pictures_are_compared_and_rejected(shop, catalog_items, open_bench):
    shop.near(3, 20)
    pairs, _, facts, _ = shop.find(catalog_items, open_bench)
    assert (len(pairs), facts.n_pairs) == (0, 0)
    assert facts.n_compared > N


def test_a_picture_that_cannot_be_read_is_not_taken_for_another(shop, catalog_items, open_bench):
    Image.open(shop.path(3)).save(shop.path(20), "JPEG", quality=60)
    shop.near(3, 20)
    pairs, _, facts, _ = shop.find(catalog_items, open_bench, gone=(20,))
    assert (len(pairs), facts.n_pairs) == (0, 0)


def test_the_highest_ranked_pairs_are_compared_and_equal_files_always(shop, catalog_items, open_bench, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_COMPARED", 1)
    for a, b, shift in ((3, 20, 0.3), (5, 21, 0.1), (7, 22, 0.6)):
        Image.open(shop.path(a)).save(shop.path(b), "JPEG", quality=80)
        shop.near(a, b, shift)
    shop.path(30).write_bytes(shop.path(11).read_bytes())
    shop.near(11, 30, 0.8)
    pairs, _, facts, _ = shop.find(catalog_items, open_bench)
    assert pairs["item_id"].to_list() == ["item-00005", "item-00011"]
    assert facts.n_compared == 2


def test_a_fixed_sample_of_a_large_catalogue_is_searched(shop, catalog_items, open_bench, monkeypatch):
    monkeypatch.setattr(setup, "MAX_ASKED", 10)
    facts = shop.find(catalog_items, open_bench).facts
    assert (facts.n_rows, facts.n_asked) == (N, 10)
    assert 0 < facts.n_near <= 50
    assert shop.find(catalog_items, open_bench).facts == facts


def test_distant_duplicates_are_found_where_all_else_is_farther(shop, catalog_items, open_bench):
    Image.open(shop.path(3)).save(shop.path(20), "JPEG", quality=60)
    shop.near(3, 20, 0.8)
    pairs, *_ = shop.find(catalog_items, open_bench)
    assert pairs["other_item_id"].to_list() == ["item-00020"]
    assert pairs["similarity"][0] < 0.9


def recoloured(picture: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
    """The same design with its colours exchanged where it is not grey."""
    return np.ascontiguousarray(picture[..., order])


def product(seed: int) -> np.ndarray:
    """A coloured shape with a pattern, on white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :120]
    inside = (np.abs(x - 60) < 35 + 8 * np.sin(y / 9)) & (np.abs(y - 75) < 55)
    picture = np.full((150, 120, 3), 255, np.uint8)
    colour = np.array([190, 60, 40]) + rng.integers(-20, 20, 3)
    shade = rng.integers(0, 60, (15, 12)).repeat(10, axis=0).repeat(10, axis=1)
    picture[inside] = np.clip(colour + shade[..., None], 0, 255)[inside]
    return picture


def test_one_design_in_two_colours_is_a_group_and_no_pair(shop, catalog_items, open_bench):
    for i, order in ((3, (0, 1, 2)), (20, (1, 0, 2)), (31, (2, 1, 0))):
        Image.fromarray(recoloured(product(3), order)).save(shop.path(i))
    shop.near(3, 20)
    shop.near(3, 31)
    shop.products[31] = None
    pairs, groups, facts, _ = shop.find(catalog_items, open_bench)
    assert len(pairs) == 0
    assert groups.rows() == [
        ("item-00003", "p-3", "p-20"),
        ("item-00020", "p-20", "p-20"),
        ("item-00031", None, "p-20"),
    ]
    assert (facts.n_groups, facts.n_grouped) == (1, 3)
    (group,) = facts.groups
    assert (group.product_id, group.items) == ("p-20", ("item-00003", "item-00020", "item-00031"))
    assert all(picture.jpeg for picture in group.pictures)


def test_designs_of_two_categories_are_no_variants(shop, catalog_items, open_bench):
    for i, order in ((3, (0, 1, 2)), (20, (1, 0, 2))):
        Image.fromarray(recoloured(product(3), order)).save(shop.path(i))
    shop.near(3, 20)
    shop.categories = ["hat" if i == 3 else "shoe" for i in range(N)]
    assert shop.find(catalog_items, open_bench).facts.n_groups == 0


def test_pictures_that_were_compared_before_give_the_same_without_being_compared(
    shop, catalog_items, open_bench, monkeypatch
):
    Image.open(shop.path(5)).save(shop.path(21), "JPEG", quality=80)
    shop.near(5, 21)
    for i, order in ((3, (0, 1, 2)), (20, (1, 0, 2))):
        Image.fromarray(recoloured(product(3), order)).save(shop.path(i))
    shop.near(3, 20)
    before = shop.find(catalog_items, open_bench)
    assert (before.facts.n_pairs, before.facts.n_groups) == (1, 1)
    Image.open(shop.path(5)).rotate(180).save(shop.path(21), "JPEG", quality=80)
    Image.open(shop.path(7)).save(shop.path(22), "JPEG", quality=80)
    shop.near(7, 22)
    n_compared: list[int] = []
    compare = near_duplicates.compare_pictures
    monkeypatch.setattr(near_duplicates, "compare_pictures", lambda a, b: n_compared.append(len(a)) or compare(a, b))
    after = shop.find(catalog_items, open_bench, known=before.compared)
    from_scratch = shop.find(catalog_items, open_bench)
    assert 0 < n_compared[0] < n_compared[1] / 2
    assert after.facts == from_scratch.facts
    assert after.pairs.equals(from_scratch.pairs)
    assert after.groups.equals(from_scratch.groups)
    assert after.compared.equals(from_scratch.compared)


def test_an_empty_catalogue_has_no_duplicates(catalog_items, open_bench):
    bench = open_bench(catalog_items(0), np.empty((0, 8), np.float32))
    pairs, _, facts, _ = find_near_duplicates(bench, find_neighbours(bench, 0), MAX_PIXELS)
    assert (pairs.columns, len(pairs), facts.n_asked) == (list(COLUMNS), 0, 0)
