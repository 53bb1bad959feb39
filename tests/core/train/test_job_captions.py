"""A backbone trained on titles answers texts by the text tower that it started with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.text.encoder import embed_texts, embed_with, loaded_encoder
from retrieval_core.images import decode, fit
from retrieval_core.train import job
from retrieval_core.train.captions import read_captions
from retrieval_core.train.inputs import find_start, start_config
from tests.core.titled_shop import FEW_HELD_OUT, N_EACH, TITLES, TitledShop
from tests.ingesting import ingest_source


@pytest.mark.parametrize("layers", ["all", "projection"])
def test_texts_find_the_pictures_of_their_titles(layers: Literal["all", "projection"], tmp_path: Path) -> None:
    shop = TitledShop(tmp_path)
    config, ingested = shop.config(trained_layers=layers), ingest_source(shop.settings, shop.source, FEW_HELD_OUT)
    captions = read_captions(shop.store, ingested.fields, config.text_fields)
    start = find_start(shop.store, config)
    training = job.TrainingJob(ingested.catalog.name, None, 0.1, None, start, config, captions)
    fitted = job.train_backbone(shop.settings, training, "titled", FEW_HELD_OUT)
    backbone = Backbone.open(shop.store, fitted.ref)
    assert (backbone.has_text, backbone.dim, set(backbone.parents)) == (True, 24, {"catalog", "start", "captions"})
    assert backbone.metrics["text_recall@5"] > backbone.metrics["start_text_recall@5"]

    folder, titles = backbone.local_folder(shop.store), list(TITLES)
    texts = embed_texts(folder, titles)
    before = embed_with(loaded_encoder(load_backbone(start_config(config)), "cpu"), titles)
    np.testing.assert_allclose(texts, before, atol=1e-6)
    engine = open_engine(folder, "cpu", 1)
    files = [path.read_bytes() for paths in shop.pictures.values() for path in paths]
    squares = [fit(decode(file), engine.preprocess) for file in files]
    nearest = np.argsort(-texts @ engine.embed(np.stack(squares)).T, axis=1)[:, :5]
    assert (nearest // N_EACH == np.arange(len(titles))[:, None]).mean() > 0.9
