"""What pictures show: prepare the classifier once, classify what is missing, seal the set."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from prefect.logging import get_run_logger

from retrieval_core.artifacts import backbone_names, fingerprints
from retrieval_core.artifacts.growing_sets import WorkPlan, WorkShard, plan_work, seal_view, shard_pictures
from retrieval_core.artifacts.manifests import Backbone, Classifier, ClassSet, Ref
from retrieval_core.artifacts.parts import classes_bytes, put_part, put_part_file
from retrieval_core.config import ClassifyConfig, IngestConfig
from retrieval_core.embed.backbones import backbone_fingerprint
from retrieval_core.embed.classes import (
    ClassifierEngine,
    LoadedClassifier,
    backbone_config,
    classify,
    load_classifier,
    save_classifier,
)
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.extract import Picture
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.mask import usable_pictures
from tasks.stage import progress, stage


@stage("prepare classifier")
def prepare_classifier(settings: Settings, config: ClassifyConfig) -> Ref:
    """The frozen classifier as an artifact, made once: a published one, or that of a backbone trained to classify."""
    store = settings.open_store()
    backbone = backbone_config(config)
    trained = backbone_names.named_backbone(store, backbone)
    name = fingerprints.classifier_fingerprint(trained.fingerprint if trained else backbone_fingerprint(backbone))
    known = Classifier.find(store, name)
    if known:
        return known.ref
    get_run_logger().info("exporting the classifier of %s with weights %s", config.backbone, config.weights)
    folder = _folder_of_classifier(store, trained) if trained else None
    return _keep(store, name, config, load_classifier(config, folder), trained).ref


def _folder_of_classifier(store: Store, trained: Backbone) -> Path:
    """A local folder with the parts of a trained backbone. Raises `BadConfig` for one that names no raw pictures."""
    wanted = "give classify.weights a backbone trained to classify raw pictures"
    if trained.objective != "classify":
        raise BadConfig(
            f"backbone {trained.fingerprint[:12]} was trained for {trained.objective or 'nothing'}; {wanted}"
        )
    if "masks" in trained.parents:
        raise BadConfig(f"backbone {trained.fingerprint[:12]} was trained on pictures without background; {wanted}")
    return trained.local_folder(store)


def _keep(
    store: Store, name: str, config: ClassifyConfig, loaded: LoadedClassifier, trained: Backbone | None
) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        save_classifier(loaded, Path(folder))
        parts = tuple(
            put_part_file(store, f"{Classifier.folder}/{name}/{file.name}", file, 0)
            for file in sorted(Path(folder).iterdir())
        )
    return Classifier(
        fingerprint=name,
        config={"weights": config.weights},
        parents={"backbone": trained.fingerprint} if trained else {},
        parts=parts,
        card=config.backbone,
        size_px=loaded.backbone.preprocess.size_px,
        n_classes=len(loaded.names),
    ).seal(store)


@stage("plan classes")
def plan_classes(settings: Settings, catalog: Ref, classifier: Ref, config: ClassifyConfig) -> WorkPlan:
    """The shards of pictures that this classifier has not seen yet."""
    store = settings.open_store()
    family = fingerprints.class_family(classifier.name)
    return plan_work(store, ClassSet.folder, family, usable_pictures(store, catalog), config.shard_rows)


@stage("classify shard")
def classify_shard(
    settings: Settings, shard: WorkShard, classifier: Ref, config: ClassifyConfig, ingest: IngestConfig
) -> int:
    """Classify one shard of a plan and store it as one part; returns the number of pictures."""
    store = settings.open_store()
    pictures = [Picture(**row) for row in shard_pictures(store, shard).iter_rows(named=True)]
    engine = _engine(settings, classifier)
    report = progress(f"classify {shard.place}", len(pictures))
    done = classify(pictures, engine, config.batch_size, settings.n_threads, ingest.max_pixels, report)
    if done.content_ids:
        put_part(store, shard.part_key, classes_bytes(*done), len(done.content_ids))
    return len(done.content_ids)


@lru_cache(maxsize=1)
def _engine(settings: Settings, classifier: Ref) -> ClassifierEngine:
    store = settings.open_store()
    folder = Classifier.open(store, classifier).local_folder(store)
    return ClassifierEngine(open_engine(folder, settings.torch_device, settings.n_threads))


@stage("seal classes")
def seal_class_set(settings: Settings, catalog: Ref, plan: WorkPlan) -> Ref:
    """The classes of this catalogue, as one set."""
    store = settings.open_store()
    return seal_view(store, ClassSet, plan.family, catalog.name, usable_pictures(store, catalog)["content_id"]).ref
