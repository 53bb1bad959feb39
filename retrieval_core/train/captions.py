"""The captions of a catalogue's items: their text, from the fields that the source gave, and their vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, FieldSet, field_names
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.artifacts.parts import read_table
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.embed.registry import adapter_of, get_card
from retrieval_core.embed.text.encoder import embed_with, loaded_encoder
from retrieval_core.errors import BadConfig
from retrieval_core.filters import FIELD
from retrieval_core.store.base import Store
from retrieval_core.train.config import Training
from retrieval_core.train.inputs import find_start

if TYPE_CHECKING:
    from retrieval_core.embed.backbones import LoadedBackbone

SEPARATOR = ". "
TEXT_ROWS = 256  # captions that are embedded at once


class CaptionTexts(NamedTuple):
    """The captions of a catalogue's items, a table of row_id and caption, and the fingerprint of its content."""

    table: pl.DataFrame
    fingerprint: str

    def of(self, items: pl.DataFrame) -> pl.Series:
        """Return the captions of these items, null for an item without one."""
        return items.select("row_id").join(self.table, on="row_id", how="left", maintain_order="left")["caption"]


class CaptionVectors(NamedTuple):
    """The (m, d) float32 vectors, of unit length, of m different captions, and what each of n items has of them.

    `codes` are (n,) int64 rows of `vectors`, -1 for an item without a caption. `scale` multiplies the cosines of
    pictures and texts in the loss that the text tower was trained by.
    """

    vectors: Float32
    codes: Int64
    scale: float


def read_captions(store: Store, fields: Ref | None, names: Sequence[str]) -> CaptionTexts:
    """Read the captions of the items of a `FieldSet`: the texts of the fields `names`, joined in this order.

    Items without any of them have none; without a `FieldSet` no item has one. Raises `ShardCorrupt`.
    """
    part = FieldSet.open(store, fields).part(FIELDS_FILE) if fields else None
    columns = [FIELD + name for name in names if part and name in field_names(store, part)]
    if part is None or not columns:
        table = pl.DataFrame(schema={"row_id": pl.Int64, "caption": pl.String})
    else:
        texts = [pl.col(name).struct.field("text").str.strip_chars() for name in columns]
        caption = pl.concat_str(texts, separator=SEPARATOR, ignore_nulls=True)
        table = read_table(store, part, ["row_id", *columns]).select("row_id", caption=caption)
        table = table.filter(pl.col("caption") != "").sort("row_id")
    digest = hashlib.sha256()
    for row_id, text in table.iter_rows():
        digest.update(f"{row_id} {text}\n".encode())
    return CaptionTexts(table, digest.hexdigest()[:32])


def number_captions(captions: pl.Series) -> tuple[list[str], Int64]:
    """Return the different ones of (n,) captions, and the number among them of each, (n,) int64, -1 for null."""
    different = captions.drop_nulls().unique(maintain_order=True)
    numbers = captions.replace_strict(different, range(len(different)), default=-1, return_dtype=pl.Int64)
    return different.to_list(), numbers.to_numpy(writable=True)


def embed_captions(start: LoadedBackbone, captions: pl.Series, device: str) -> CaptionVectors:
    """Return the vectors of (n,) captions, null where an item has none, by the text tower of a backbone.

    Raises `BadConfig` for a backbone that cannot embed texts.
    """
    if not start.has_text:
        raise BadConfig(_reads_no_text(start.card.name))
    texts, codes = number_captions(captions)
    encode, report = loaded_encoder(start, device), log_progress("captions", len(texts))
    vectors = [np.empty((0, start.card.dim), np.float32)]
    for first in range(0, len(texts), TEXT_ROWS):
        block = texts[first : first + TEXT_ROWS]
        vectors.append(embed_with(encode, block))
        report(len(block))
    return CaptionVectors(np.concatenate(vectors), codes, adapter_of(start.card).logit_scale(start.module.network))


def reads_text(store: Store, config: Training) -> bool:
    """Return whether the backbone that a training starts from embeds texts into the space of its pictures.

    Raises as `find_start` does.
    """
    artifact = find_start(store, config).artifact
    return artifact.has_text if artifact else get_card(config.backbone).has_text


def check_reads_text(store: Store, config: Training) -> None:
    """Check that the backbone that a training starts from embeds texts. Raises `BadConfig`."""
    if not reads_text(store, config):
        raise BadConfig(_reads_no_text(config.backbone))


def _reads_no_text(card: str) -> str:
    return (
        f"this {card} embeds no texts, so that it cannot learn from captions; set backbone to one that does, "
        "such as clip_vit_b32"
    )
