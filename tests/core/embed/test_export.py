"""A frozen backbone is exported once; a classifier needs a backbone that was trained to classify raw pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.manifests import Backbone, Catalog, Ref
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig, IngestConfig
from retrieval_core.embed import export as module
from retrieval_core.embed import preflight
from retrieval_core.embed.backbones import INT8_FILE, backbone_fingerprint, int8_fingerprint, load_backbone
from retrieval_core.embed.export import export_backbone, export_classifier
from retrieval_core.embed.registry import ADAPTERS
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256

FITTED = EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16)
INGEST = IngestConfig()


@pytest.fixture
def catalog(new_shop, local_store: Store, tmp_path: Path) -> Ref:
    """The pictures of a shop as a catalogue."""
    items = new_shop(tmp_path).items
    part = put_part(local_store, "catalogs/c/items.parquet", table_bytes(items), len(items))
    return Catalog(fingerprint="c", parts=(part,)).seal(local_store).ref


def seal_backbone(store: Store, objective: str, parents: dict[str, str]) -> str:
    """Seal a trained backbone and return the weights that name it."""
    backbone = Backbone(
        fingerprint="ab" * 16, card="resnet18", dim=8, size_px=32, objective=objective, parents=parents
    ).seal(store)
    return f"artifact:{backbone.fingerprint}"


def test_a_backbone_is_fitted_on_the_catalogue_and_exported_once(
    catalog: Ref, local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = export_backbone(local_store, catalog, FITTED, INGEST)
    assert (backbone.card, backbone.size_px, backbone.config) == ("pca_pixels", 16, {"weights": "fit:0"})
    assert {"weights.safetensors", "model.onnx"} <= {part.key.rsplit("/", 1)[1] for part in backbone.parts}
    monkeypatch.delattr(module, "load_backbone")
    assert export_backbone(local_store, catalog, FITTED, INGEST) == Backbone.open(local_store, backbone.ref)


def test_a_backbone_of_the_store_is_taken_as_it_is(catalog: Ref, local_store: Store) -> None:
    weights = seal_backbone(local_store, "triplet", {})
    config = EmbedConfig(backbone="resnet18", weights=weights)
    assert export_backbone(local_store, catalog, config, INGEST).objective == "triplet"


def test_int8_is_calibrated_once_beside_the_exact_backbone(
    catalog: Ref, local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def calibrate(folder: Path, pixels: UInt8) -> float:
        seen.append(pixels)
        (folder / INT8_FILE).write_bytes(b"scales")
        return 1.0

    monkeypatch.setattr(module, "calibrate", calibrate)
    exact = export_backbone(local_store, catalog, FITTED, INGEST)
    config = FITTED.model_copy(update={"precision": "int8"})
    backbone = export_backbone(local_store, catalog, config, INGEST)
    assert backbone.fingerprint != exact.fingerprint
    assert (backbone.parents, backbone.config["precision"]) == ({"exact": exact.fingerprint}, "int8")
    files, exact_files = (
        {part.key.rsplit("/", 1)[1]: part.sha256 for part in sealed.parts} for sealed in (backbone, exact)
    )
    assert files.pop(INT8_FILE)
    assert files == exact_files
    by_name = EmbedConfig(backbone="pca_pixels", weights=f"artifact:{exact.fingerprint}", precision="int8")
    itself = by_name.model_copy(update={"weights": f"artifact:{backbone.fingerprint}"})
    for again in (config, by_name, itself):
        assert export_backbone(local_store, catalog, again, INGEST) == Backbone.open(local_store, backbone.ref)
    assert [pixels.shape[1:] for pixels in seen] == [(16, 16, 3)]


def test_a_night_in_int8_needs_no_hub_once_the_store_has_the_calibrated_backbone(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(preflight, "load_backbone")  # without it, loading raises NameError
    config = EmbedConfig(backbone="resnet18", precision="int8")
    with pytest.raises(NameError):
        preflight.check_weights(local_store, config)
    name = int8_fingerprint(backbone_fingerprint(config))
    Backbone(fingerprint=name, card="resnet18", dim=512, size_px=224).seal(local_store)
    preflight.check_weights(local_store, config)


@pytest.mark.parametrize(
    ("objective", "parents", "says"),
    [
        ("triplet", {}, "was trained for triplet"),
        ("", {}, "was trained for nothing"),
        ("classify", {"masks": "m"}, "was trained on pictures without background"),
    ],
)
def test_only_a_backbone_trained_to_classify_raw_pictures_is_a_classifier(
    objective: str, parents: dict[str, str], says: str, local_store: Store
) -> None:
    weights = seal_backbone(local_store, objective, parents)
    with pytest.raises(BadConfig, match=says):
        export_classifier(local_store, ClassifyConfig(enabled=True, backbone="resnet18", weights=weights))


def test_a_published_classifier_is_exported_once(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClassifyConfig(enabled=True, backbone="resnet18", weights="random:0", size_px=64)
    monkeypatch.setattr(module, "save_classifier", lambda _, folder: (folder / "classes.json").write_text("[]"))
    classifier = export_classifier(local_store, config)
    assert (classifier.card, classifier.size_px, classifier.n_classes) == ("resnet18", 64, 1000)
    assert classifier.parents == {}
    monkeypatch.delattr(module, "load_classifier")
    assert export_classifier(local_store, config).ref == classifier.ref


def test_pretrained_weights_that_changed_are_refused_until_they_are_named(
    catalog: Ref, local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "snapshots" / "0123abc" / "model.safetensors"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(type(ADAPTERS["timm"]), "weights_file", lambda *_: path)
    monkeypatch.setattr(module, "save_backbone", lambda _, folder: (folder / "card.json").write_text("{}"))

    def export(seed: int, size_px: int, **fields: str) -> Backbone:
        network = load_backbone(EmbedConfig(backbone="resnet18", weights=f"random:{seed}")).module.network
        save_file(network.state_dict(), path)
        config = EmbedConfig(backbone="resnet18", size_px=size_px, **fields)
        return export_backbone(local_store, catalog, config, INGEST)

    first = export(0, 64)
    assert first.config == {"weights": "pretrained", "sha256": file_sha256(path), "revision": "0123abc"}
    assert export(0, 96).config == first.config
    assert export(1, 64) == first
    with pytest.raises(WeightsInvalid, match=f"of {first.config['sha256']}; take the new ones by --set embed.sha256="):
        export(1, 128)
    assert export(1, 64, sha256=file_sha256(path)).fingerprint != first.fingerprint
