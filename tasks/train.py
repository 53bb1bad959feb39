"""Train a backbone on the catalogue's own pictures."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, MaskSet, Ref, VectorSet
from retrieval_core.config.stages import IngestConfig
from retrieval_core.feedback.judgements import chosen_groups
from retrieval_core.settings import Settings
from retrieval_core.train import job, recipe
from retrieval_core.train.captions import read_captions
from retrieval_core.train.config import AnyTraining, CaptionsTraining, MetricTraining, RecipeConfig
from retrieval_core.train.inputs import TrainingInputs, find_start
from tasks.stage import stage


@stage("train backbone")
def train_backbone(
    settings: Settings, inputs: TrainingInputs, config: AnyTraining, name: str, ingest: IngestConfig
) -> Fitted:
    """Return the backbone that `config` makes of these inputs, and point `name` at it."""
    store, masks, teacher = settings.open_store(), inputs.masks, inputs.teacher
    training = job.TrainingJob(
        catalog=inputs.catalog.name,
        masks=MaskSet.open(store, masks) if masks else None,
        margin=inputs.crop_margin,
        teacher=VectorSet.open(store, teacher) if teacher else None,
        start=find_start(store, config),
        config=config,
        captions=read_captions(store, inputs.fields, config.text_fields)
        if isinstance(config, CaptionsTraining)
        else None,
        chosen=chosen_groups(store) if isinstance(config, MetricTraining) and config.alike == "chosen" else None,
    )
    return job.train_backbone(settings, training, name, ingest)


@stage("choose recipe")
def choose_recipe(settings: Settings, catalog: Ref, fields: Ref | None, config: RecipeConfig) -> AnyTraining:
    """Return the training that suits this catalogue and fits into the time of `config`; its reasons are logged."""
    return recipe.choose_recipe(settings, catalog.name, fields, config).config
