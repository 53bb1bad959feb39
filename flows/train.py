"""Train on the pictures of a catalogue: a flow for each objective, one for the segmenter and one for the heads."""

from __future__ import annotations

import re

from prefect import Flow, flow

from flows.pictures import choose_masking, mask_and_embed, snapshot_catalog
from flows.preflight import preflight, with_backbone
from flows.run import DEFAULTS, RUNNER, Clock, holds_lease
from retrieval_core.artifacts.manifests import Backbone, Fitted, Head, Ref, Segmenter, Value
from retrieval_core.config.stages import EmbedConfig, NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.metrics.registry import MASK_IOU
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.train.config import (
    AnyTraining,
    AttributesTraining,
    CaptionsTraining,
    ClassifyTraining,
    ContrastiveTraining,
    DistillTraining,
    MarginTraining,
    MultilabelTraining,
    RecipeConfig,
    RotationTraining,
    SupconTraining,
    TripletTraining,
)
from retrieval_core.train.inputs import TrainingInputs, find_teacher
from tasks.head import fit_head
from tasks.ingest import collect_truth_masks
from tasks.mask import fit_segmenter, prepare_detector
from tasks.pictures import prepare_backbone
from tasks.preflight import check_before_run, check_before_training
from tasks.train import choose_recipe, train_backbone

TRAINING_ARGUMENTS = """Args:
    source: KIND:URI of the catalogue, for example table:items.csv.
    settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
    name: the name of the trained backbone; empty for CARD-OBJECTIVE.
    config: the network, its initial weights and how to train it.
    stages: the config of the nightly's stages ingest, mask and crop.
"""


class BackboneSummary(Value):
    """The document of `vitrine train backbone --json`; `trained` is False for a backbone that was trained before."""

    backbone: str
    name: str
    objective: str
    trained: bool
    metrics: dict[str, float]
    epochs: int
    seconds: dict[str, float]


class SegmenterSummary(Value):
    """The document of `vitrine train segmenter --json`."""

    segmenter: str
    trained: bool
    metrics: dict[str, float]
    epochs: int
    seconds: dict[str, float]


class HeadSummary(Value):
    """One head; `variant` names the vectors that it boosts."""

    head: str
    variant: str
    trained: bool
    metrics: dict[str, float]
    epochs: int


class HeadsSummary(Value):
    """The document of `vitrine train head --json`: a head for each view of the pictures."""

    heads: list[HeadSummary]
    seconds: dict[str, float]


def _training_flow(default: AnyTraining, description: str) -> Flow[..., BackboneSummary]:
    """Return the flow `train-OBJECTIVE`; the type of `default` gives the form of its parameter `config`."""

    def train(
        source: str,
        settings: Settings,
        name: str = "",
        config: AnyTraining = default,
        stages: NightlyConfig = DEFAULTS,
    ) -> BackboneSummary:
        return _train_backbone(source, settings, name, config, stages)

    train.__name__ = train.__qualname__ = f"train_{default.objective}"
    train.__doc__ = f"{description}\n\n{TRAINING_ARGUMENTS}"
    train.__annotations__["config"] = type(default)
    return flow(name=f"train-{default.objective}", task_runner=RUNNER, validate_parameters=True)(holds_lease(train))


train_multilabel = _training_flow(MultilabelTraining(), "Train a backbone to say which labels a picture has.")
train_rotation = _training_flow(
    RotationTraining(), "Train a backbone to say by which quarter turn a picture was rotated."
)
train_classify = _training_flow(ClassifyTraining(), "Train a backbone to say which class a picture has.")
train_attributes = _training_flow(
    AttributesTraining(), "Train a backbone to say everything that the catalogue says of a picture."
)
train_margin = _training_flow(MarginTraining(), "Train a backbone to tell products apart by a margin.")
train_triplet = _training_flow(
    TripletTraining(), "Train a backbone to place similar pictures nearer than others by a margin."
)
train_contrastive = _training_flow(
    ContrastiveTraining(), "Train a backbone on pairs of similar and of different pictures."
)
train_supcon = _training_flow(
    SupconTraining(), "Train a backbone on each similar picture against all others of its batch."
)
train_captions = _training_flow(
    CaptionsTraining(), "Train a backbone that reads texts to place each picture near its item's title."
)
train_distill = _training_flow(DistillTraining(), "Train a backbone towards the vectors of a teacher in the store.")

RECIPE = RecipeConfig()
TRAININGS: dict[str, Flow[..., BackboneSummary]] = {
    "multilabel": train_multilabel,
    "rotation": train_rotation,
    "classify": train_classify,
    "attributes": train_attributes,
    "margin": train_margin,
    "triplet": train_triplet,
    "contrastive": train_contrastive,
    "supcon": train_supcon,
    "captions": train_captions,
    "distill": train_distill,
}


def _train_backbone(
    source: str, settings: Settings, name: str, config: AnyTraining, stages: NightlyConfig
) -> BackboneSummary:
    preflight(check_before_training, settings, source, config, stages)
    clock = Clock()
    teacher = None
    if isinstance(config, DistillTraining):
        teacher = find_teacher(settings.open_store(), config.teacher).ref
    with clock.stage("ingest"):
        ingested = snapshot_catalog(settings, source, stages.ingest)
    return _train_on(ingested, clock, source, settings, name, config, stages, teacher)


def _train_on(
    ingested: IngestOutcome,
    clock: Clock,
    source: str,
    settings: Settings,
    name: str,
    config: AnyTraining,
    stages: NightlyConfig,
    teacher: Ref | None = None,
) -> BackboneSummary:
    name = name or default_name(config)
    with clock.stage("mask"):
        masks = _masks(settings, source, ingested.catalog, config, stages)
    inputs = TrainingInputs(
        catalog=ingested.catalog,
        fields=ingested.fields,
        masks=masks,
        crop_margin=stages.crop.margin,
        teacher=teacher,
    )
    with clock.stage("train"):
        fitted = train_backbone(settings, inputs, config, name, stages.ingest)
    backbone = Backbone.open(settings.open_store(), fitted.ref)
    return BackboneSummary(
        backbone=backbone.fingerprint,
        name=name,
        objective=config.objective,
        trained=fitted.trained,
        metrics=backbone.metrics,
        epochs=len(backbone.history),
        seconds=clock.total(),
    )


def default_name(config: AnyTraining) -> str:
    """Return CARD-OBJECTIVE with the characters that a name may have."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{config.backbone}-{config.objective}")


def _masks(settings: Settings, source: str, catalog: Ref, config: AnyTraining, stages: NightlyConfig) -> Ref | None:
    """The masks to train with, None for raw pictures. Raises `BadConfig` when there can be none."""
    if config.background == "raw":
        return None
    stages = stages.model_copy(update={"embed": EmbedConfig(background=config.background)})
    detector = prepare_detector(settings, stages.crop) if stages.detects else None
    masking = choose_masking(settings, source, catalog, detector, stages)
    masks = mask_and_embed(settings, catalog, masking, None, stages).masks
    if masks is None:
        raise BadConfig(
            f"background {config.background} needs masks, but mask.enabled is false, or the source has no masks "
            "and the store no segmenter; train on raw pictures"
        )
    return masks


@flow(name="train-auto", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def train_auto(
    source: str,
    settings: Settings,
    name: str = "",
    config: RecipeConfig = RECIPE,
    stages: NightlyConfig = DEFAULTS,
) -> BackboneSummary:
    """Train a backbone by the objective that suits the catalogue, for as long as there is time.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        name: the name of the trained backbone; empty for CARD-OBJECTIVE.
        config: the initial weights, and about how long the training may take.
        stages: the config of the nightly's stage ingest.
    """
    preflight(check_before_training, settings, source, config.start, stages)
    clock = Clock()
    with clock.stage("ingest"):
        ingested = snapshot_catalog(settings, source, stages.ingest)
    with clock.stage("recipe"):
        training = choose_recipe(settings, ingested.catalog, ingested.fields, config)
    return _train_on(ingested, clock, source, settings, name, training, stages)


@flow(name="train-segmenter", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def train_segmenter(source: str, settings: Settings, stages: NightlyConfig = DEFAULTS) -> SegmenterSummary:
    """Train the background segmenter on the masks of the source, or reuse one that still serves.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        stages: the config of the nightly's stages ingest and mask.
    """
    store, clock = settings.open_store(), Clock()
    with clock.stage("ingest"):
        catalog = snapshot_catalog(settings, source, stages.ingest).catalog
    with clock.stage("train"):
        truth = collect_truth_masks(settings, source, catalog)
        fitted = fit_segmenter(settings, catalog, truth, stages.mask, stages.ingest)
    if fitted is None:
        raise BadConfig(f"{source} has no masks to train a segmenter on; give a source with masks")
    segmenter = Segmenter.open(store, fitted.ref)
    return SegmenterSummary(
        segmenter=segmenter.fingerprint,
        trained=fitted.trained,
        metrics={MASK_IOU.name: segmenter.val_iou},
        epochs=len(segmenter.history),
        seconds=clock.total(),
    )


@flow(name="train-head", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def train_head(source: str, settings: Settings, stages: NightlyConfig = DEFAULTS) -> HeadsSummary:
    """Train the multi-task head over the vectors of each view, or reuse one that still serves.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        stages: the config of the nightly's stages ingest, mask, crop, embed and head.
    """
    preflight(check_before_run, settings, source, stages, is_evaluated=False)
    stages = with_backbone(settings, stages)
    store, clock = settings.open_store(), Clock()
    with clock.stage("ingest"):
        catalog = snapshot_catalog(settings, source, stages.ingest).catalog
    with clock.stage("backbone"):
        backbone = prepare_backbone(settings, catalog, stages.embed, stages.ingest)
        detector = prepare_detector(settings, stages.crop) if stages.detects else None
    with clock.stage("mask"):
        masking = choose_masking(settings, source, catalog, detector, stages)
    with clock.stage("embed"):
        pictures = mask_and_embed(settings, catalog, masking, backbone, stages)
    with clock.stage("train"):
        heads = [fit_head(settings, catalog, vectors, stages.head) for vectors in pictures.vectors.values()]
    summaries = [_head_summary(store, head) for head in heads if head]
    if not summaries:
        raise BadConfig(f"no category, attribute or label of {source} is frequent enough to train a head on")
    return HeadsSummary(heads=summaries, seconds=clock.total())


def _head_summary(store: Store, fitted: Fitted) -> HeadSummary:
    head = Head.open(store, fitted.ref)
    return HeadSummary(
        head=head.fingerprint,
        variant=str(head.variant),
        trained=fitted.trained,
        metrics=head.metrics,
        epochs=len(head.history),
    )
