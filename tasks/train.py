"""Train a backbone on the catalogue's own pictures."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, MaskSet, Ref, VectorSet
from retrieval_core.config.stages import IngestConfig
from retrieval_core.settings import Settings
from retrieval_core.train import job, recipe
from retrieval_core.train.config import AnyTraining, RecipeConfig
from retrieval_core.train.inputs import find_start
from tasks.stage import stage


@stage("train backbone")
def train_backbone(
    settings: Settings,
    catalog: Ref,
    masks: Ref | None,
    config: AnyTraining,
    name: str,
    ingest: IngestConfig,
    crop_margin: float,
    teacher: Ref | None,
) -> Fitted:
    """Return the backbone that `config` makes of this catalogue, and point `name` at it.

    `masks` show the pictures as `config.background` says, `crop_margin` wide around a crop; `teacher` is a vector set.
    """
    store = settings.open_store()
    training = job.TrainingJob(
        catalog=catalog.name,
        masks=MaskSet.open(store, masks) if masks else None,
        margin=crop_margin,
        teacher=VectorSet.open(store, teacher) if teacher else None,
        start=find_start(store, config),
        config=config,
    )
    return job.train_backbone(settings, training, name, ingest)


@stage("choose recipe")
def choose_recipe(settings: Settings, catalog: Ref, config: RecipeConfig) -> AnyTraining:
    """Return the training that suits this catalogue and fits into the time of `config`; its reasons are logged."""
    return recipe.choose_recipe(settings, catalog.name, config).config
