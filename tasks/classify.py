"""Classes of pictures: export the classifier once, classify what is missing, seal the set."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import ClassSet, Ref
from retrieval_core.artifacts.shards import WorkPlan, WorkShard, seal_pictures
from retrieval_core.config.stages import ClassifyConfig, IngestConfig
from retrieval_core.embed import export, shards
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("prepare classifier")
def prepare_classifier(settings: Settings, config: ClassifyConfig) -> Ref:
    """Return the frozen classifier as an artifact, exported once."""
    return export.export_classifier(settings.open_store(), config).ref


@stage("plan classes")
def plan_classes(settings: Settings, catalog: Ref, classifier: Ref, config: ClassifyConfig) -> WorkPlan:
    """Plan the shards of pictures that this classifier has not seen yet."""
    return shards.plan_classes(settings.open_store(), catalog, classifier, config)


@stage("classify shard")
def classify_shard(
    settings: Settings, shard: WorkShard, classifier: Ref, config: ClassifyConfig, ingest: IngestConfig
) -> int:
    """Classify one shard of a plan; return the number of pictures."""
    return shards.classify_shard(settings, shard, classifier, config, ingest)


@stage("seal classes")
def seal_class_set(settings: Settings, catalog: Ref, plan: WorkPlan) -> Ref:
    """Seal the classes of this catalogue as one set."""
    return seal_pictures(settings.open_store(), ClassSet, plan.targets[0].family, catalog).ref
