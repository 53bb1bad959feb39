"""Config models of training: one for each objective, on one base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import Field, PositiveInt, ValidationError, model_validator

from retrieval_core.config.stages import Framing, StageConfig, View
from retrieval_core.config.text import first_line, nearest, parse_override, toml_table
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.distortions import MAX_GAIN

Alike = Literal["auto", "product", "category", "labels", "chosen"]
Miner = Literal["all", "semihard", "hard"]

# Fields that unrelated models share.
KNOWN_PRODUCTS: bool = Field(
    False,
    description="Train on other pictures of held-out products, too; the evaluation then says how well known products "
    "are found, not new ones.",
)
SLICES: tuple[PositiveInt, ...] = Field(
    (),
    description="Train these numbers of leading dimensions to work alone too, so that reduce.method = truncate can "
    "take the place of a PCA.",
)


def _light_gain(default: float) -> Any:
    return Field(
        default,
        ge=1,
        le=4,
        description="With augment: every second picture is seen in another light, each of its colour channels "
        "multiplied by at most this gain or its inverse; 1 leaves colours as they are.",
    )


class Training(StageConfig):
    """Settings common to all objectives: the network and its initial weights, the pictures, the length of training."""

    backbone: str = Field("resnet18", description="Card of the network to train.")
    weights: str = Field(
        "random:0", description="Initial weights: pretrained, random:SEED, file:PATH or artifact:NAME[@ALIAS]."
    )
    background: View = Field("raw", description="Train on raw pictures, on masked ones, or on crops of the product.")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the network's square input; 0 takes the card's size.")
    framing: Framing = Field("card", description="How a picture becomes a square: cropped to its centre, or squashed.")
    embedding_dim: int = Field(
        0, ge=0, description="Width of a linear layer whose output is the embedding; 0 uses the backbone's output."
    )
    trained_layers: Literal["all", "projection"] = Field(
        "all", description="Train the whole network, or only the layers on top of a frozen one."
    )
    augment: bool = Field(True, description="Train on random crops and mirror images.")
    light_gain: float = _light_gain(1.0)
    max_epochs: int = Field(30, ge=1, description="Maximum number of epochs.")
    schedule: Literal["plateau", "cosine"] = Field(
        "plateau",
        description="plateau divides the learning rate by ten and then stops when the validation score no longer "
        "rises; cosine warms up and falls to zero over max_epochs.",
    )
    patience: int = Field(
        6, ge=1, description="With plateau: stop after this many epochs without a better validation score."
    )
    batch_size: int = Field(128, ge=2, description="Pictures per training step.")
    learning_rate: float = Field(3e-4, gt=0, description="Learning rate of AdamW at the start, or after the warm-up.")
    network_rate: float = Field(
        1.0, gt=0, le=1, description="Learning rate of the network relative to that of the new layers on top of it."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW; biases and norms have none.")
    trained_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the trained weights in an average with the initial ones, which forgets less of what "
        "these knew (WiSE-FT); 0 chooses it on the validation part.",
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the training pictures used for validation.")
    known_products: bool = KNOWN_PRODUCTS
    max_pictures: int = Field(100_000, ge=2, description="Train on a random sample of at most this many pictures.")
    seed: int = Field(0, ge=0, description="Seed of the new layers, of the split and of the order of the pictures.")

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.trained_share < 1 and self.weights.startswith("random:"):
            raise ValueError("trained_share below 1 averages with the initial weights, and random ones know nothing")
        return self


class MultilabelTraining(Training):
    """Predict the labels of a picture: one sigmoid per label, binary cross-entropy."""

    objective: Literal["multilabel"] = Field("multilabel", description="Always multilabel.")
    min_count: int = Field(5, ge=1, description="Ignore labels that fewer pictures have.")


class RotationTraining(Training):
    """Predict by which quarter turn a picture was rotated; needs no labels."""

    objective: Literal["rotation"] = Field("rotation", description="Always rotation.")


class ClassifyTraining(Training):
    """Predict the class of a picture; the features under the classifier are the embedding."""

    objective: Literal["classify"] = Field("classify", description="Always classify.")
    target: str = Field("category", description="The category, or the name of an attribute.")
    min_count: int = Field(2, ge=2, description="Ignore classes that fewer pictures have.")


class FineTuning(Training):
    """Base of the objectives that adapt published weights: their schedule, and which leading dimensions they teach."""

    backbone: str = Field("efficientnet_lite0", description="Card of the network to train.")
    weights: str = Field(
        "pretrained", description="Initial weights: pretrained, random:SEED, file:PATH or artifact:NAME[@ALIAS]."
    )
    schedule: Literal["plateau", "cosine"] = Field(
        "cosine",
        description="cosine warms up and falls to zero over max_epochs; plateau divides the learning rate by ten and "
        "then stops when the validation score no longer rises.",
    )
    max_epochs: int = Field(8, ge=1, description="Number of epochs; with plateau the maximum.")
    batch_size: int = Field(64, ge=2, description="Pictures per training step.")
    learning_rate: float = Field(2e-3, gt=0, description="Learning rate of AdamW at the start, or after the warm-up.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW; biases and norms have none.")
    light_gain: float = _light_gain(MAX_GAIN)
    slices: tuple[PositiveInt, ...] = SLICES


class AttributesTraining(FineTuning):
    """Predict category, attributes and labels at once, so that neighbours share all of them."""

    objective: Literal["attributes"] = Field("attributes", description="Always attributes.")
    min_count: int = Field(5, ge=1, description="Ignore values and labels that fewer pictures have.")
    category_weight: float = Field(
        3.0, gt=0, description="Weight of the category in the loss, beside each attribute and all labels with 1."
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Share of the target spread over all values of a task.")


class MetricTraining(Training):
    """Base of the objectives that move similar pictures together: which pictures count as alike or unlike."""

    slices: tuple[PositiveInt, ...] = SLICES
    alike: Alike = Field(
        "auto",
        description="Pictures are alike that show one product, have one category or share labels, or that shoppers "
        "chose for each other; auto takes the first that the catalogue has of the first three.",
    )
    alike_iou: float = Field(
        0.5, gt=0, le=1, description="With labels: pictures whose label IoU is at least this are alike."
    )
    unlike_iou: float = Field(0.2, ge=0, le=1, description="With labels: pictures whose label IoU is less are unlike.")

    @model_validator(mode="after")
    def _check_iou_order(self) -> Self:
        if self.unlike_iou > self.alike_iou:
            raise ValueError(f"unlike_iou {self.unlike_iou} is above alike_iou {self.alike_iou}")
        return self


class MarginTraining(FineTuning, MetricTraining):
    """Tell products, or categories, apart by the angles between unit vectors, with a margin."""

    objective: Literal["margin"] = Field("margin", description="Always margin.")
    loss: Literal["arcface", "cosface", "proxy_anchor"] = Field(
        "arcface", description="ArcFace's margin is an angle in radians, those of CosFace and Proxy-Anchor cosines."
    )
    margin: float = Field(0.3, ge=0, lt=1.5, description="By how much the right class has to win.")
    scale: float = Field(32.0, gt=0, description="Factor of the cosines; a larger one sharpens the probabilities.")
    sampled_classes: int = Field(
        10_000,
        ge=0,
        description="Compare a batch with at most this many classes: its own and a random sample of the others, drawn "
        "for each step (Partial FC), which bounds the cost of a step; 0 compares with all.",
    )


class TripletTraining(MetricTraining):
    """Bring a picture closer to an alike picture than to an unlike one, by a margin."""

    objective: Literal["triplet"] = Field("triplet", description="Always triplet.")
    embedding_dim: int = Field(128, ge=0, description="Width of the linear layer whose output is the embedding.")
    margin: float = Field(1.0, gt=0, description="The margin, or the final value of a growing margin.")
    margin_start: float = Field(0.0, ge=0, description="First value of a growing margin; 0 keeps the margin fixed.")
    unit_length: bool = Field(
        False, description="Compare vectors of unit length, as a search does; set margin below 1."
    )
    growth_epochs: int = Field(10, ge=1, description="Number of epochs over which the margin grows.")
    miner: Miner = Field(
        "all",
        description="Which of a batch's margin-violating triplets to learn from. With hard triplets alone the margin "
        "has no effect, and where there are many of them all vectors collapse into one point.",
    )

    @model_validator(mode="after")
    def _check_margin_order(self) -> Self:
        if self.margin_start > self.margin:
            raise ValueError(f"margin_start {self.margin_start} is above margin {self.margin}")
        return self


class ContrastiveTraining(MetricTraining):
    """Train on pairs (Siamese): pull alike pairs together, push unlike pairs apart; half of the pairs are alike."""

    objective: Literal["contrastive"] = Field("contrastive", description="Always contrastive.")
    backbone: str = Field("resnet50", description="Card of the network to train.")
    embedding_dim: int = Field(512, ge=0, description="Width of the linear layer whose output is the embedding.")
    margin: float = Field(1.0, gt=0, description="Unlike pairs farther apart than this do not count.")


class SupconTraining(MetricTraining):
    """Supervised contrastive (Khosla et al., NeurIPS 2020): contrast alike pictures with all others of a batch."""

    objective: Literal["supcon"] = Field("supcon", description="Always supcon.")
    temperature: float = Field(
        0.1, gt=0, description="Divides the similarities; a small one gives the nearest pictures more weight."
    )
    projection_dim: int = Field(
        128, ge=1, description="Width of the projection that the loss is computed on; dropped after training."
    )


class DistillTraining(Training):
    """Imitate a teacher: a vector set that the store already holds."""

    objective: Literal["distill"] = Field("distill", description="Always distill.")
    teacher: str = Field("", description="Fingerprint of the teacher's vector set, a prefix of it, or production.")
    loss: Literal["cosine", "relational", "both"] = Field(
        "both", description="Match each vector to the teacher's, the similarities between pictures, or both."
    )
    relational_weight: float = Field(1.0, ge=0, description="Weight of the relational loss relative to the cosine one.")
    trained_layers: Literal["all", "projection"] = Field(
        "projection", description="Train the whole network, or only the projection on top of a frozen one."
    )
    max_epochs: int = Field(10, ge=1, description="Maximum number of epochs.")


class CaptionsTraining(FineTuning):
    """Bring the picture of an item near its title and description, as a frozen text tower reads them (CLIP's loss)."""

    objective: Literal["captions"] = Field("captions", description="Always captions.")
    backbone: str = Field("clip_vit_b32", description="Card of the network to train; it must read texts.")
    text_fields: tuple[str, ...] = Field(
        ("title", "description"),
        min_length=1,
        description="Fields that make up the caption of an item, in this order; those that it lacks are left out.",
    )
    embedding_dim: int = Field(0, ge=0, le=0, description="Always 0: pictures keep the width of the texts' vectors.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of AdamW at the start, or after the warm-up.")
    network_rate: float = Field(
        0.01, gt=0, le=1, description="Learning rate of the network relative to that of the new layers on top of it."
    )
    trained_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the trained weights in an average with the initial ones, which forgets less of what "
        "these knew (WiSE-FT); 0 chooses it on the validation part.",
    )


AnyTraining = (
    MultilabelTraining
    | RotationTraining
    | ClassifyTraining
    | AttributesTraining
    | MarginTraining
    | TripletTraining
    | ContrastiveTraining
    | SupconTraining
    | CaptionsTraining
    | DistillTraining
)

CONFIG_BY_OBJECTIVE: dict[str, type[AnyTraining]] = {
    kind.model_fields["objective"].default: kind for kind in get_args(AnyTraining)
}


class RecipeConfig(StageConfig):
    """The weights that a recipe starts from, and about how long its training may take."""

    backbone: str = Field("efficientnet_lite0", description="Card of the network to train.")
    weights: str = Field("pretrained", description="Initial weights: pretrained, file:PATH or artifact:NAME[@ALIAS].")
    minutes: float = Field(60.0, gt=0, description="About how many minutes the training may take on this machine.")
    known_products: bool = KNOWN_PRODUCTS

    @property
    def start(self) -> AttributesTraining:
        """A training that starts from the same weights."""
        return AttributesTraining(backbone=self.backbone, weights=self.weights)


Config = TypeVar("Config", bound=StageConfig)


def load_training(objective: str, path: Path | None, overrides: list[str]) -> AnyTraining:
    """Return the config of an objective from table `[train.OBJECTIVE]` of a TOML file and `key=value` overrides.

    Overrides win over the file. Raises `BadConfig` for an unknown objective or key, and for a value out of bounds.
    """
    kind = CONFIG_BY_OBJECTIVE.get(objective)
    if kind is None:
        raise BadConfig(f"unknown objective {objective!r}{nearest(objective, CONFIG_BY_OBJECTIVE)}")
    return _load(kind, objective, toml_table(path, "train", objective), overrides)


def load_recipe(overrides: list[str]) -> RecipeConfig:
    """Return the config of a recipe with `key=value` overrides. Raises `BadConfig` as `load_training` does."""
    return _load(RecipeConfig, "auto", {}, overrides)


def _load(kind: type[Config], name: str, table: dict[str, Any], overrides: list[str]) -> Config:
    for override in overrides:
        if "=" not in override:
            raise BadConfig(f"--set expects key=value, got {override!r}; for example --set weights=pretrained")
        _, key, value = parse_override(f"train.{override}")
        table[key] = value
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"train.{name}", kind)) from error
