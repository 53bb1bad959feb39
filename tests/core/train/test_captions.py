"""The captions of items: which fields they are of, what names them, and their vectors by a backbone's text tower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, SOURCE_SCHEMA, FieldSet, field_table
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed import networks
from retrieval_core.embed.backbones import load_backbone, save_backbone
from retrieval_core.embed.text.encoder import embed_texts
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store
from retrieval_core.train import captions as module
from retrieval_core.train.captions import check_reads_text, embed_captions, number_captions, read_captions
from retrieval_core.train.config import CaptionsTraining
from tests.core.open_clip_folder import write_model

NAMES = ("title", "description")
ITEMS = pl.DataFrame({"row_id": [7, 3, 5, 9]})
TITLED = {3: {"title": "Red dress", "description": "Of silk"}, 5: {"title": " Jeans "}, 7: {"price": "5"}}


def seal(store: Store, fields: dict[int, dict[str, str]], name: str = "f" * 32) -> Ref:
    pairs = [[{"name": name, "value": text} for name, text in row.items()] for row in fields.values()]
    table = field_table(
        pl.DataFrame({"row_id": list(fields), "fields": pl.Series(pairs, dtype=SOURCE_SCHEMA["fields"])})
    )
    parts = put_parts(store, f"{FieldSet.folder}/{name}", {FIELDS_FILE: table_bytes(table)}, {FIELDS_FILE: len(table)})
    return FieldSet(fingerprint=name, parts=parts).seal(store).ref


def test_a_caption_joins_the_fields_that_an_item_has(local_store: Store) -> None:
    fields = seal(local_store, TITLED)
    assert read_captions(local_store, fields, NAMES).of(ITEMS).to_list() == [None, "Red dress. Of silk", "Jeans", None]
    assert read_captions(local_store, fields, ("description", "colour")).of(ITEMS).to_list() == [
        None,
        "Of silk",
        None,
        None,
    ]


@pytest.mark.parametrize("names", [NAMES, ("colour",)])
def test_a_catalogue_without_these_fields_has_no_captions(names: tuple[str, ...], local_store: Store) -> None:
    fields = seal(local_store, {7: {"price": "5"}}) if names == NAMES else None
    assert read_captions(local_store, fields, names).of(ITEMS).to_list() == [None] * 4


def test_captions_are_named_by_their_content_and_not_by_prices(local_store: Store) -> None:
    cheaper = seal(local_store, TITLED | {7: {"price": "4"}}, "a" * 32)
    renamed = seal(local_store, TITLED | {5: {"title": "Blue jeans"}}, "b" * 32)
    before, priced, titled = (
        read_captions(local_store, fields, NAMES).fingerprint
        for fields in (seal(local_store, TITLED), cheaper, renamed)
    )
    assert before == priced != titled


def test_captions_are_numbered_by_their_text() -> None:
    texts, codes = number_captions(pl.Series([None, "b", "a", "b"], dtype=pl.String))
    assert texts == ["b", "a"]
    assert codes.tolist() == [-1, 0, 1, 0]
    assert number_captions(pl.Series([None], dtype=pl.String))[1].tolist() == [-1]


def test_their_vectors_are_those_of_the_backbone_that_is_searched_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXT_ROWS", 2)
    monkeypatch.setattr(networks, "export_onnx", lambda embedder, size_px, path: path.write_bytes(b""))
    start = load_backbone(EmbedConfig(backbone=f"local-dir:{write_model(tmp_path / 'clip')}"))
    read = embed_captions(start, pl.Series(["red dress", None, "jeans", "cap", "jeans"]), "cpu")
    (tmp_path / "saved").mkdir()
    save_backbone(start, tmp_path / "saved")
    assert read.codes.tolist() == [0, -1, 1, 2, 1]
    np.testing.assert_allclose(read.vectors, embed_texts(tmp_path / "saved", ["red dress", "jeans", "cap"]), atol=1e-6)
    assert read.scale == pytest.approx(1 / 0.07), "the temperature that CLIP starts with"
    nothing = embed_captions(start, pl.Series([None], dtype=pl.String), "cpu")
    assert nothing.vectors.shape == (0, start.card.dim)


def test_a_backbone_that_reads_no_text_is_refused(local_store: Store) -> None:
    with pytest.raises(BadConfig, match=r"this resnet18 embeds no texts.*clip_vit_b32"):
        check_reads_text(local_store, CaptionsTraining(backbone="resnet18"))
    check_reads_text(local_store, CaptionsTraining())
    start = load_backbone(EmbedConfig(backbone="resnet18", weights="random:0"))
    with pytest.raises(BadConfig, match="this resnet18 embeds no texts"):
        embed_captions(start, pl.Series(["red dress"]), "cpu")
