"""`fashion-products:DIR`: Fashion Product Images (Aggarwal 2019), Kaggle's `styles.csv` or the hub's Parquet files."""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import polars as pl

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import dataset_root, first_present, read_lines
from retrieval_core.ingest.sources.labels import normalise_labels
from retrieval_core.ingest.sources.listing import is_left_behind
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder

NAME = "productDisplayName"
ATTRIBUTES = ("gender", "masterCategory", "subCategory", "baseColour", "season", "usage")
COLUMNS = ("id", "articleType", *ATTRIBUTES, NAME)
HEADER = [
    "id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", NAME,
]  # fmt: skip
UNKNOWN = "NA"
ID = re.compile(r"[\w-]+")  # an id names a picture file
BATCH_ROWS = 512  # pictures in memory at once while Parquet is read


class FashionProductsSource(Maskless):
    """Products: category = articleType, labels = words of the name, which is the title, attributes = the rest but year.

    With `styles.csv`, local or on S3, the picture is `images/ID.jpg`; a product without a picture still has a row.
    Otherwise the first `rows()` unpacks the pictures of `*.parquet` or `data/*.parquet`, without re-encoding them.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"fashion-products:{uri}"
        folder, _, query = uri.partition("?")
        root = dataset_root(folder, self.spec)
        styles = first_present(root, "styles.csv")
        if not styles and "://" in root:
            raise SourceMissing(f"{self.spec} lacks styles.csv; Parquet files are read from a local folder alone")
        if styles and query:
            raise BadConfig(f"{self.spec}: the pictures of styles.csv lie in images/ already; leave ?{query} out")
        self._layout = KaggleLayout(root, styles) if styles else ParquetLayout(uri, self.spec)

    def rows(self) -> pl.DataFrame:
        products = self._layout.products()
        if unusable := [id_ for id_ in products["id"] if id_ and not ID.fullmatch(id_)]:
            raise CatalogInvalid(f"{self.spec}: id {unusable[0]!r} cannot name a picture; expected letters and digits")
        labels = pl.Series("labels", [_words(name or "") for name in products[NAME]], SOURCE_SCHEMA["labels"])
        known = products.with_columns(pl.col(ATTRIBUTES).replace(UNKNOWN, None), labels)
        frame = known.select(
            pl.col("id").alias("item_id"),
            (self._layout.pictures + "/" + pl.col("id") + ".jpg").alias("image_uri"),
            pl.col("articleType").alias("category"),
            "labels",
            attributes=_named({name: name for name in ATTRIBUTES}),
            fields=_named({"title": NAME}),
        )
        rows = conform(frame, self.spec)
        self._layout.unpack()
        return rows


def _named(columns: Mapping[str, str]) -> pl.Expr:
    """Return a list of names and values of each row, sorted by name, of text columns by name, without empty values."""
    pairs = []
    for name, column in sorted(columns.items()):
        value = pl.col(column).str.strip_chars()
        pairs.append(pl.when(value != "").then(pl.struct(pl.lit(name).alias("name"), value.alias("value"))))
    return pl.concat_list(pairs).list.drop_nulls()


def _words(name: str) -> list[str]:
    """Return the words of a product's name in lower case, without surrounding punctuation."""
    return normalise_labels(word.strip(string.punctuation) for word in re.split(r"[\s,]+", name.lower()))


class KaggleLayout:
    """`styles.csv`, with the pictures in `images/` beside it."""

    def __init__(self, root: str, styles: str) -> None:
        self.pictures = f"{root}/images"
        self._styles = styles

    def products(self) -> pl.DataFrame:
        """Return `COLUMNS` as text, one row per line."""
        lines = read_lines(self._styles)
        if not lines or lines[0].split(",") != HEADER:
            raise CatalogInvalid(f"{self._styles} starts with {lines[:1]}; expected the header {','.join(HEADER)}")
        products = [self._product(number, line) for number, line in enumerate(lines[1:], start=2)]
        return pl.DataFrame(products, dict.fromkeys(HEADER, pl.String), orient="row").select(COLUMNS)

    def unpack(self) -> None:
        """Do nothing: the pictures are files already."""

    def _product(self, number: int, line: str) -> list[str]:
        """Return a line's fields. Names in the published file have unquoted commas, so surplus fields are joined."""
        try:
            fields = next(csv.reader([line]), [])
        except csv.Error as error:
            raise CatalogInvalid(f"{self._styles}, line {number}: {error}; restore it from the dataset") from error
        if len(fields) < len(HEADER):
            raise CatalogInvalid(
                f"{self._styles}, line {number} has {len(fields)} fields; expected {len(HEADER)}: {line[:80]!r}"
            )
        name = ",".join(fields[len(HEADER) - 1 :])
        return [field.strip() for field in (*fields[: len(HEADER) - 1], name)]


class ParquetLayout:
    """Parquet files whose column `image` is a struct of bytes and path."""

    def __init__(self, uri: str, spec: str) -> None:
        self._packed = PackedFolder(uri, spec)
        self.pictures = self._packed.uri("").rstrip("/")
        root = self._packed.root
        in_root, in_data = (
            sorted(file for file in root.glob(pattern) if not is_left_behind(file.name))
            for pattern in ("*.parquet", "data/*.parquet")
        )
        self._files = in_root or in_data
        if not self._files:
            raise SourceMissing(f"{spec} holds neither styles.csv nor *.parquet nor data/*.parquet; check the path")

    def products(self) -> pl.DataFrame:
        """Return `COLUMNS` as text, one row per picture."""
        return pl.concat(
            _collect(self._scan(file).select(pl.col(COLUMNS).cast(pl.String)), file) for file in self._files
        )

    def unpack(self) -> None:
        self._packed.unpack(self._files, self._pictures())

    def _pictures(self) -> Iterator[Packed]:
        for file in self._files:
            scan = self._scan(file)
            pictures = scan.select(pl.col("id").cast(pl.String), pl.col("image").struct.field("bytes"))
            for first in range(0, _collect(scan.select(pl.len()), file).item(), BATCH_ROWS):
                for id_, data in _collect(pictures.slice(first, BATCH_ROWS), file).iter_rows():
                    if data is not None:
                        yield Packed(f"{id_}.jpg", len(data), partial(bytes, data))

    def _scan(self, file: Path) -> pl.LazyFrame:
        """Open the file's table lazily. Raises `CatalogInvalid` when its columns are not those of the dataset."""
        scan = pl.scan_parquet(file, glob=False)
        try:
            schema = scan.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(file, error) from error
        if missing := [name for name in (*COLUMNS, "image") if name not in schema]:
            raise CatalogInvalid(f"{file} lacks column {' and '.join(missing)}; it has {', '.join(schema)}")
        image = schema["image"]
        if not isinstance(image, pl.Struct) or pl.Field("bytes", pl.Binary()) not in image.fields:
            raise CatalogInvalid(f"{file}: column image is {image}; expected a struct of bytes and path")
        if not (schema["id"].is_integer() or schema["id"] == pl.String):
            raise CatalogInvalid(f"{file}: column id is {schema['id']}; expected whole numbers or text")
        return scan


def _collect(scan: pl.LazyFrame, file: Path) -> pl.DataFrame:
    try:
        return scan.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CatalogInvalid:
    return CatalogInvalid(f"{file} cannot be read: {str(error).splitlines()[0]}; restore it from the dataset")
