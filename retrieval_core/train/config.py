"""What each way of training can be told: one model an objective, on one base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import fingerprint
from retrieval_core.config import Framing, StageConfig, View, first_line, parse_override, read_toml
from retrieval_core.errors import BadConfig

Alike = Literal["auto", "product", "category", "labels"]
Miner = Literal["all", "semihard", "hard"]


class Training(StageConfig):
    """What every objective is told: the network and its start, the pictures, and how long."""

    backbone: str = Field("resnet18", description="The card of the network to train.")
    weights: str = Field(
        "random:0", description="Its start: pretrained, random:SEED, file:PATH, artifact:NAME[@ALIAS]."
    )
    background: View = Field("raw", description="Train on pictures as they are, masked, or cropped to the product.")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the square the network sees; 0 takes the card's own.")
    framing: Framing = Field("card", description="How a picture becomes a square: its centre, or squashed.")
    embedding_dim: int = Field(
        0, ge=0, description="Width of a linear layer that becomes the embedding; 0 keeps the backbone's own output."
    )
    trained_layers: Literal["all", "projection"] = Field(
        "all", description="Train the whole network, or only what lies on top of a frozen one."
    )
    augment: bool = Field(True, description="Random crops and mirror images.")
    max_epochs: int = Field(30, ge=1, description="Upper bound of epochs.")
    patience: int = Field(6, ge=1, description="Epochs without a better validation score before training stops.")
    batch_size: int = Field(128, ge=2, description="Pictures in one step.")
    learning_rate: float = Field(3e-4, gt=0, description="Of Adam; divided by ten on a plateau.")
    weight_decay: float = Field(0.0, ge=0, description="Of Adam.")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the training pictures that is validated on.")
    max_pictures: int = Field(100_000, ge=2, description="A random sample of this many pictures trains.")
    seed: int = Field(0, ge=0, description="Seed of the start, of the split and of the pictures' order.")


class MultilabelTraining(Training):
    """Which labels a picture has: one sigmoid a label, binary cross-entropy."""

    objective: Literal["multilabel"] = Field("multilabel", description="Always multilabel.")
    min_count: int = Field(5, ge=1, description="A label seen less often than this is left out.")


class RotationTraining(Training):
    """By which quarter turn a picture was rotated: needs no labels."""

    objective: Literal["rotation"] = Field("rotation", description="Always rotation.")


class ClassifyTraining(Training):
    """Which class a picture has; the features under the classifier are the embedding."""

    objective: Literal["classify"] = Field("classify", description="Always classify.")
    target: str = Field("category", description="The category, or the name of an attribute.")
    min_count: int = Field(2, ge=2, description="A class of fewer pictures is left out.")


class MetricTraining(Training):
    """Base of the objectives that move like pictures together: what alike means."""

    alike: Alike = Field(
        "auto",
        description="Pictures of one product, of one category, or that share labels; auto takes the first there is.",
    )
    alike_iou: float = Field(
        0.5, gt=0, le=1, description="By labels: pictures that share at least this much are alike."
    )
    unlike_iou: float = Field(0.2, ge=0, le=1, description="By labels: pictures that share less than this are unlike.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.unlike_iou > self.alike_iou:
            raise ValueError(f"unlike_iou {self.unlike_iou} is above alike_iou {self.alike_iou}")
        return self


class TripletTraining(MetricTraining):
    """A picture nearer to one alike than to one unlike it, by a margin."""

    objective: Literal["triplet"] = Field("triplet", description="Always triplet.")
    embedding_dim: int = Field(128, ge=0, description="Width of the linear layer that becomes the embedding.")
    margin: float = Field(1.0, gt=0, description="The margin, or the one that a growing margin ends at.")
    margin_start: float = Field(0.0, ge=0, description="Where a growing margin starts; 0 keeps it fixed.")
    growth_epochs: int = Field(10, ge=1, description="Epochs over which the margin grows.")
    miner: Miner = Field(
        "all",
        description="Which of a batch's triplets that violate the margin are learned from. Of the hard ones alone no "
        "margin makes a difference, and where they are many all pictures end in one point.",
    )

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.margin_start > self.margin:
            raise ValueError(f"margin_start {self.margin_start} is above margin {self.margin}")
        return self


class ContrastiveTraining(MetricTraining):
    """Siamese: pairs alike are pulled together, pairs unlike pushed apart; half of the pairs are alike."""

    objective: Literal["contrastive"] = Field("contrastive", description="Always contrastive.")
    backbone: str = Field("resnet50", description="The card of the network to train.")
    embedding_dim: int = Field(512, ge=0, description="Width of the linear layer that becomes the embedding.")
    margin: float = Field(1.0, gt=0, description="Unlike pairs farther apart than this are left alone.")


class SupconTraining(MetricTraining):
    """Supervised contrastive (Khosla et al., NeurIPS 2020): every like picture of a batch against all the others."""

    objective: Literal["supcon"] = Field("supcon", description="Always supcon.")
    temperature: float = Field(
        0.1, gt=0, description="What similarities are divided by; small ones look at the nearest."
    )
    projection_dim: int = Field(
        128, ge=1, description="Width of the projection the loss sees; it is dropped afterwards."
    )


class DistillTraining(Training):
    """Toward a teacher's vectors that are in the store already."""

    objective: Literal["distill"] = Field("distill", description="Always distill.")
    teacher: str = Field("", description="Fingerprint of the teacher's vector set, the start of it, or production.")
    loss: Literal["cosine", "relational", "both"] = Field(
        "both", description="Each vector toward the teacher's, the similarities between pictures, or both."
    )
    relational_weight: float = Field(1.0, ge=0, description="Weight of the relational loss beside the cosine one.")
    trained_layers: Literal["all", "projection"] = Field(
        "projection", description="Train the whole network, or only the projection on top of a frozen one."
    )
    max_epochs: int = Field(10, ge=1, description="Upper bound of epochs.")


AnyTraining = (
    MultilabelTraining
    | RotationTraining
    | ClassifyTraining
    | TripletTraining
    | ContrastiveTraining
    | SupconTraining
    | DistillTraining
)

OBJECTIVES: dict[str, type[AnyTraining]] = {
    kind.model_fields["objective"].default: kind for kind in get_args(AnyTraining)
}


def load_training(objective: str, path: Path | None, overrides: list[str]) -> AnyTraining:
    """The config of an objective: table `[train.OBJECTIVE]` of a TOML file, then `key=value` overrides.

    Raises `BadConfig` for an unknown objective or key, naming those there are, or a value out of bounds.
    """
    kind = OBJECTIVES.get(objective)
    if kind is None:
        raise BadConfig(f"unknown objective {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    table = dict(read_toml(path).get("train", {}).get(objective, {})) if path else {}
    for override in overrides:
        if "=" not in override:
            raise BadConfig(f"--set wants key=value, got {override!r}; for example --set max_epochs=10")
        _, key, value = parse_override(f"train.{override}")
        table[key] = value
    unknown = table.keys() - kind.model_fields.keys()
    if unknown:
        keys = ", ".join(kind.model_fields)
        raise BadConfig(f"train {objective} has no key {', '.join(sorted(unknown))}; it has {keys}")
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise BadConfig(first_line(error, f"train {objective}")) from error


def training_question(config: Training, margin: float) -> dict[str, Any]:
    """What a trained backbone depends on besides its parents; `margin` is that of the view `crop`."""
    question = config.model_dump(mode="json", exclude={"backbone", "weights", "teacher"})
    return question | ({"margin": margin} if config.background == "crop" else {})


def training_fingerprint(question: dict[str, Any], parents: dict[str, str]) -> str:
    """Of the backbone trained from its parents by role: catalog, start, and masks and teacher where there are any."""
    named = [f"{role} {parents[role]}" for role in sorted(parents)]
    return fingerprint("training", STAGE_VERSIONS["train"], question, named)
