"""`imagenet:DIR`: ImageNet-1k as published (Russakovsky et al., IJCV 2015), in folders or in Kaggle's layout."""

from __future__ import annotations

import re
from collections import Counter

import polars as pl

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import dataset_root, first_present, is_picture, read_lines
from retrieval_core.ingest.sources.listing import list_dataset, passed_over_notes

BASES = ("", "/ILSVRC/Data/CLS-LOC")
SPLITS = ("train", "val")
SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
WORDNET_ID = re.compile(r"n\d{8}")
IN_FOLDER = rf"^(?:train|val)/({WORDNET_ID.pattern})/[^/]+$"
FLAT = r"^val/([^/.]+)\.[^/.]+$"


class ImageNetSource(Maskless):
    """Pictures in `train/nXXXXXXXX/` and `val/nXXXXXXXX/`, or in a flat `val/` with `LOC_val_solution.csv`.

    Local or on S3; both folders may lie in Kaggle's `ILSVRC/Data/CLS-LOC/`, with the tables beside `ILSVRC`. The
    item_id is the path that begins with the split. The category is the first name of the WordNet id in
    `LOC_synset_mapping.txt`, followed by the id where two ids share a name (crane the bird and crane the machine);
    without that file it is the id.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"imagenet:{uri}"
        self._root = dataset_root(uri, self.spec)
        for base in BASES:
            self._base = self._root + base
            passed_over: Counter[str] = Counter()
            self._paths = [path for split in SPLITS for path in self._listed(split, passed_over)]
            self.notes, self.n_passed_over = passed_over_notes(passed_over), passed_over.total()
            if self._paths:
                return
        raise SourceMissing(
            f"{self.spec} holds no pictures in train/nXXXXXXXX/ or val/, nor in these below {BASES[1][1:]}/; "
            "check the path"
        )

    def rows(self) -> pl.DataFrame:
        path = pl.col("item_id")
        pictures = pl.DataFrame({"item_id": self._paths}).with_columns(
            path.str.extract(IN_FOLDER).alias("wordnet_id"), path.str.extract(FLAT).alias("image_id")
        )
        if pictures["image_id"].count():
            solution = self._solution()
            solved = pl.col("image_id").replace_strict(solution, default=None, return_dtype=pl.String)
            pictures = pictures.with_columns(pl.coalesce("wordnet_id", solved).alias("wordnet_id"))
        self._check(pictures)
        frame = pictures.select(
            "item_id",
            (self._base + "/" + path).alias("image_uri"),
            path.str.extract("^([^/]+)").alias("split"),
            self._category().alias("category"),
        )
        return conform(frame, self.spec)

    def _listed(self, split: str, passed_over: Counter[str]) -> list[str]:
        try:
            listing = list_dataset(f"{self._base}/{split}", self.spec)
        except SourceMissing:
            return []
        passed_over += listing.passed_over
        return [f"{split}/{path}" for path in listing.paths if is_picture(path)]

    def _check(self, pictures: pl.DataFrame) -> None:
        unknown = pictures.filter(pl.col("wordnet_id").is_null())
        if unknown.is_empty():
            return
        item_id, image_id = unknown.select("item_id", "image_id").row(0)
        if image_id:
            raise CatalogInvalid(f"{self.spec}: {SOLUTION} has no line for {item_id}; restore it from the dataset")
        raise CatalogInvalid(
            f"{self.spec}: {item_id} lies in no folder named by a WordNet id, such as train/n01440764; "
            "folders of other names are read by folder:"
        )

    def _solution(self) -> dict[str, str]:
        """Return the WordNet ids of the validation pictures, by picture name."""
        uri = first_present(self._root, SOLUTION)
        if uri is None:
            raise CatalogInvalid(
                f"{self.spec}: the pictures in val/ lie in no class folders; copy {SOLUTION} to {self._root}"
            )
        wordnet_ids = {}
        for number, line in enumerate(read_lines(uri)[1:], start=2):
            image_id, _, boxes = line.partition(",")
            wordnet_id = boxes.strip().partition(" ")[0]
            if not WORDNET_ID.fullmatch(wordnet_id):
                raise CatalogInvalid(f"{uri}, line {number}: {line[:80]!r}; expected NAME,nXXXXXXXX and a box")
            wordnet_ids[image_id] = wordnet_id
        return wordnet_ids

    def _category(self) -> pl.Expr:
        """Return the category of a row as an expression over its WordNet id."""
        uri = first_present(self._root, MAPPING)
        if uri is None:
            return pl.col("wordnet_id")
        names = {}
        for number, line in enumerate(read_lines(uri), start=1):
            wordnet_id, _, synonyms = line.partition(" ")
            name = synonyms.partition(",")[0].strip()
            if not WORDNET_ID.fullmatch(wordnet_id) or not name:
                raise CatalogInvalid(f"{uri}, line {number}: {line[:80]!r}; expected nXXXXXXXX and names")
            names[wordnet_id] = name
        shared = Counter(names.values())
        unique = {id_: name if shared[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}
        return pl.col("wordnet_id").replace_strict(unique, default=pl.col("wordnet_id"), return_dtype=pl.String)
