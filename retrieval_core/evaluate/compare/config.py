"""The config of a comparison: the variants, the models trained for them, and the tables of the report."""

from __future__ import annotations

from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from retrieval_core.artifacts.backbone_names import check_name
from retrieval_core.config.stages import (
    ClassifyConfig,
    CropConfig,
    EvaluateConfig,
    Framing,
    HeadConfig,
    IngestConfig,
    MaskConfig,
    Precision,
    ReduceConfig,
    StageConfig,
    View,
)
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.protocol import ProtocolConfig
from retrieval_core.metrics import registry
from retrieval_core.train.config import AnyTraining, ClassifyTraining, DistillTraining

Mode = Literal["nearest", "classified"]
Contrast = Literal["background", "boosted", "dim", "mode", "precision"]

MODEL = "model:"
# Without the metrics of a whole search, which a variant does not have.
METRICS = tuple(metric.name for metric in registry.METRICS if metric.source in ("search", "ranking", "head"))

_PLAIN_VALUES: dict[Contrast, Any] = {
    "background": "raw",
    "boosted": False,
    "dim": 0,
    "mode": "nearest",
    "precision": "float32",
}
CLASSIFIER_KEYS = {"classifier", "classifier_weights"}


def model_of(weights: str) -> str:
    """Return NAME of weights `model:NAME`, "" for all other weights."""
    return weights.removeprefix(MODEL) if weights.startswith(MODEL) else ""


class VariantConfig(StageConfig):
    """One way to represent and search the catalogue: a row of the tables."""

    name: str = Field(min_length=1, description="Name of the variant in the tables.")
    backbone: str = Field("resnet18", description="A backbone card, hf-hub:OWNER/NAME or local-dir:PATH.")
    weights: str = Field(
        "pretrained",
        description="pretrained, random:SEED, file:PATH, fit:SEED, artifact:NAME[@ALIAS], or model:NAME of this file.",
    )
    background: View = Field("raw", description="Embed raw pictures, masked ones, or crops of the product.")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the backbone's square input; 0 takes the card's size.")
    framing: Framing = Field("card", description="How a picture becomes a square: cropped to its centre, or squashed.")
    precision: Precision = Field("float32", description="Arithmetic of the vectors of gallery and queries.")
    boosted: bool = Field(False, description="Boost the vectors with the multi-task head.")
    dim: int = Field(0, ge=0, description="Number of principal components to keep; 0 keeps the vectors as they are.")
    rerank_depth: int = Field(
        0, ge=0, description="Candidates that `dim` dimensions find for all dimensions to rerank; 0 reranks nothing."
    )
    mode: Mode = Field(
        "nearest", description="Rank all items by distance, or those of the query's likeliest classes first."
    )
    classifier: str = Field("", description="Card of the classifier; for mode classified.")
    classifier_weights: str = Field(
        "pretrained", description="Weights of the classifier; model:NAME is a model of this file."
    )

    @property
    def classifier_has_own_size(self) -> bool:
        """Whether the classifier fixes its size: one trained here or in the store, or a card of one size only."""
        weights = self.classifier_weights
        return bool(model_of(weights)) or weights.startswith("artifact:") or not get_card(self.classifier).resizable

    @model_validator(mode="after")
    def _check_classifier(self) -> Self:
        if (self.mode == "classified") != bool(self.classifier):
            classifier = f"names classifier {self.classifier}" if self.classifier else "names no classifier"
            raise BadConfig(f"variant {self.name!r} has mode {self.mode} and {classifier}; give both or neither")
        if self.rerank_depth and not (self.dim and self.mode == "nearest"):
            raise BadConfig(f"variant {self.name!r} reranks, which needs a dim and mode nearest")
        return self

    def is_pair(self, other: VariantConfig, contrast: Contrast) -> bool:
        """Return whether this variant is plain in `contrast` and `other` differs only in it (and in its classifier)."""
        ignored = {"name", contrast} | (CLASSIFIER_KEYS if contrast == "mode" else set())
        is_contrast = getattr(self, contrast) == _PLAIN_VALUES[contrast] != getattr(other, contrast)
        return is_contrast and self.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)


class TableConfig(StageConfig):
    """One table of the report."""

    title: str = Field(min_length=1, description="Heading of the table.")
    kind: Literal["metrics", "pairs"] = Field(
        "metrics", description="One row for each variant, or for each pair of variants."
    )
    metrics: tuple[str, ...] = Field(min_length=1, description="Names of the metrics: the columns.")
    variants: tuple[str, ...] = Field((), description="Names of the variants, in order; empty takes all.")
    baseline: str = Field("", description="The variant that the others are tested against; for kind metrics.")
    contrast: Literal["", Contrast] = Field(
        "", description="The key in which two variants of a pair differ; for kind pairs."
    )
    note: str = Field("", description="Note under the heading of the table.")

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise BadConfig(f"table {self.title!r} has unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
        if self.kind == "pairs" and (self.baseline or not self.contrast):
            raise BadConfig(
                f"table {self.title!r} of kind pairs needs a contrast ({', '.join(_PLAIN_VALUES)}) and no baseline"
            )
        if self.kind == "metrics" and self.contrast:
            raise BadConfig(f"table {self.title!r} has a contrast, which only tables of kind pairs have")
        return self


class ComparisonConfig(StageConfig):
    """The config of `vitrine compare`.

    Raises `BadConfig` for a repeated or unknown name, for models that depend on each other in a circle, and for a model
    that no variant uses.
    """

    title: str = Field(min_length=1, description="Heading of the report.")
    about: str = Field("", description="What is compared and why; opens the report.")
    variants: tuple[VariantConfig, ...] = Field(min_length=1, description="The ways to search: the rows of the tables.")
    tables: tuple[TableConfig, ...] = Field(min_length=1, description="The tables of the report.")
    models: dict[str, Annotated[AnyTraining, Field(discriminator="objective")]] = Field(
        {}, description="Models to train for the variants, by name."
    )
    teachers: dict[str, str] = Field(
        {}, description="The variant whose vectors teach a distilled model, by the model's name."
    )
    ingest: IngestConfig = Field(IngestConfig(), description="How the source is read: bad pictures, the holdout.")
    mask: MaskConfig = Field(MaskConfig(), description="The background segmenter and its masks.")
    crop: CropConfig = Field(CropConfig(), description="Cropping to the product; for variants with background crop.")
    head: HeadConfig = Field(HeadConfig(), description="The multi-task head; for boosted variants.")
    reduce: ReduceConfig = Field(ReduceConfig(), description="The PCA; for variants with a dim.")
    classify: ClassifyConfig = Field(ClassifyConfig(), description="The classifier; for variants with mode classified.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="The queries that measure the variants.")
    protocol: ProtocolConfig = Field(ProtocolConfig(), description="The split, the gallery and the seeds.")

    def variant(self, name: str) -> VariantConfig:
        """Return the variant of this name. Raises `BadConfig`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise BadConfig(f"no variant {name!r}; there are {', '.join(variant.name for variant in self.variants)}")

    def rows(self, table: TableConfig) -> tuple[VariantConfig, ...]:
        """Return the variants of a table, in its order. Raises `BadConfig` for an unknown name."""
        return tuple(self.variant(name) for name in table.variants) or self.variants

    def pairs(self, table: TableConfig) -> tuple[tuple[VariantConfig, VariantConfig], ...]:
        """Return the (plain, other) variants that differ only in the contrast of a table of kind pairs."""
        rows, contrast = self.rows(table), table.contrast
        return tuple((plain, other) for plain in rows for other in rows if contrast and plain.is_pair(other, contrast))

    def training_order(self) -> tuple[str, ...]:
        """Return the models, each after those it starts from or is taught by. Raises `BadConfig` for a circle."""
        graph = {name: self._needs_of_model(name) for name in self.models}
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise BadConfig(f"models depend on each other: {' -> '.join(error.args[1])}") from error

    def with_seed(self, step: int) -> Self:
        """Return the comparison with each model and the head trained by other seeds, `step` higher."""
        models = {}
        for name, model in self.models.items():
            kind, _, seed = model.weights.partition(":")
            weights = f"random:{int(seed) + step}" if kind == "random" else model.weights
            models[name] = model.model_copy(update={"seed": model.seed + step, "weights": weights})
        head = self.head.model_copy(update={"seed": self.head.seed + step})
        return self.model_copy(update={"models": models, "head": head})

    def trained_variants(self) -> set[str]:
        """Return the names of the variants that a model or a head trained here makes."""
        boosted = {variant.name for variant in self.variants if variant.boosted}
        return self.variants_needing(models=self.models, variants=boosted)

    def views(self) -> tuple[View, ...]:
        """Return every view of the pictures that a variant or a model uses."""
        return tuple(dict.fromkeys(entry.background for entry in (*self.variants, *self.models.values())))

    def needs_masks(self, view: View) -> bool:
        """Return whether a view of the pictures is made with the segmenter's masks."""
        return view == "masked" or (view == "crop" and self.crop.detector == "masks")

    def variants_needing(self, *, models: Collection[str] = (), variants: Collection[str] = ()) -> set[str]:
        """Return the names of the variants that need any of these models or variants, themselves included."""
        needs = {variant.name: self._needs_of_variant(variant) for variant in self.variants}
        return {
            name
            for name, (needed_models, needed_variants) in needs.items()
            if not (needed_models.isdisjoint(models) and needed_variants.isdisjoint(variants))
        }

    def variants_needing_masks(self) -> set[str]:
        """Return the names of the variants that need a segmenter."""
        return self.variants_needing(
            models={name for name, model in self.models.items() if self.needs_masks(model.background)},
            variants={variant.name for variant in self.variants if self.needs_masks(variant.background)},
        )

    def without(self, names: set[str], why: str) -> Self:
        """Return the comparison without the variants `names` and all that only they need; `about` adds the reason.

        Raises `BadConfig` if no variant or no table remains.
        """
        variants = tuple(variant for variant in self.variants if variant.name not in names)
        if not variants:
            raise BadConfig(f"no variant is left to compare: {why}")
        removed = ", ".join(variant.name for variant in self.variants if variant.name in names)
        about = f"{self.about} Left out, because {why}: {removed}."
        shortened = self.model_copy(update={"variants": variants, "about": about})
        models = shortened._used_models()
        tables = [table for table in map(shortened._shortened_table, self.tables) if table is not None]
        if not tables:
            raise BadConfig(f"no table is left to compare {', '.join(variant.name for variant in variants)} in: {why}")
        return type(self).model_validate(
            {
                **dict(shortened),
                "tables": tuple(tables),
                "models": {name: model for name, model in self.models.items() if name in models},
                "teachers": {name: teacher for name, teacher in self.teachers.items() if name in models},
            }
        )

    def _shortened_table(self, table: TableConfig) -> TableConfig | None:
        existing = {variant.name for variant in self.variants}
        names = tuple(name for name in table.variants if name in existing)
        baseline = table.baseline if table.baseline in existing else ""
        shortened = table.model_copy(update={"variants": names, "baseline": baseline})
        is_empty = bool(table.variants) and not names
        return None if is_empty or (table.kind == "pairs" and not self.pairs(shortened)) else shortened

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        _refuse_repeated("variants", [variant.name for variant in self.variants])
        _refuse_repeated("tables", [table.title for table in self.tables])
        for table in self.tables:
            self._check_table(table)
        for name, model in self.models.items():
            self._check_model(name, model)
        for variant in self.variants:
            self._check_variant(variant)
        self.training_order()
        for variant in self.variants:
            self._check_dim(variant)
        unused = sorted(self.models.keys() - self._used_models())
        if unused:
            raise BadConfig(f"no variant uses model {', '.join(unused)}; give one weights = 'model:{unused[0]}'")
        return self

    def _check_table(self, table: TableConfig) -> None:
        rows = self.rows(table)
        _refuse_repeated(f"table {table.title!r}", list(table.variants))
        _refuse_repeated(f"table {table.title!r}", list(table.metrics))
        if table.baseline and table.baseline not in {variant.name for variant in rows}:
            raise BadConfig(f"table {table.title!r} has baseline {table.baseline!r}, which is not one of its variants")
        if table.kind == "pairs" and not self.pairs(table):
            raise BadConfig(f"table {table.title!r}: no two of its variants differ only in {table.contrast}")

    def _check_model(self, name: str, model: AnyTraining) -> None:
        check_name(name)
        start = model_of(model.weights)
        self._check_model_name(start, f"models.{name}")
        _check_network(f"models.{name}", model)
        if start and self.models[start].backbone != model.backbone:
            raise BadConfig(
                f"models.{name} is a {model.backbone} that starts from {start}, a {self.models[start].backbone}"
            )
        teacher = self.teachers.get(name, "")
        if isinstance(model, DistillTraining) and bool(teacher) == bool(model.teacher):
            raise BadConfig(f"models.{name} needs either teacher_variant or teacher, a vector set's fingerprint")
        if teacher and not isinstance(model, DistillTraining):
            raise BadConfig(f"models.{name} has a teacher_variant, which only objective distill has")
        if teacher:
            self.variant(teacher)

    def _check_variant(self, variant: VariantConfig) -> None:
        where = f"variant {variant.name!r}"
        _check_network(where, variant)
        for weights, card in ((variant.weights, variant.backbone), (variant.classifier_weights, variant.classifier)):
            self._check_model_name(model_of(weights), where)
            trained = self.models.get(model_of(weights))
            if trained and trained.backbone != card:
                raise BadConfig(f"{where} has backbone {card} and weights {weights}, which is a {trained.backbone}")
        classifier = self.models.get(model_of(variant.classifier_weights))
        if classifier and not isinstance(classifier, ClassifyTraining):
            raise BadConfig(
                f"{where}: {variant.classifier_weights} is trained to {classifier.objective}, not to classify"
            )

    def _check_dim(self, variant: VariantConfig) -> None:
        width = self._width(variant) if variant.dim else 0
        if width and variant.dim > width:
            raise BadConfig(f"variant {variant.name!r} keeps {variant.dim} dimensions of vectors that have {width}")

    def _width(self, variant: VariantConfig) -> int:
        """Return the width of the vectors before they are reduced; 0 if the config does not determine it."""
        if variant.boosted and self.head.boosting == "classes":
            return 0
        if variant.boosted and self.head.hidden_dim:
            return self.head.hidden_dim
        weights = variant.weights
        while model := self.models.get(model_of(weights)):
            if model.embedding_dim or isinstance(model, DistillTraining):
                return model.embedding_dim
            weights = model.weights
        return 0 if weights.startswith("artifact:") else get_card(variant.backbone).dim

    def _check_model_name(self, model: str, where: str) -> None:
        if model and model not in self.models:
            raise BadConfig(f"{where} names model {model!r}; there are {', '.join(self.models) or 'none'}")

    def _needs_of_model(self, model: str) -> list[str]:
        """Return the models that must be trained before one model."""
        start, teacher = model_of(self.models[model].weights), self.teachers.get(model)
        return [start] * bool(start) + (_models_of(self.variant(teacher)) if teacher else [])

    def _needs_of_variant(self, variant: VariantConfig) -> tuple[set[str], set[str]]:
        """Return the names of all models and of all variants, itself included, that one variant needs."""
        models: set[str] = set()
        waiting = _models_of(variant)
        while waiting:
            name = waiting.pop()
            if name not in models:
                models.add(name)
                waiting += self._needs_of_model(name)
        return models, {variant.name, *(self.teachers[name] for name in models if name in self.teachers)}

    def _used_models(self) -> set[str]:
        return {name for variant in self.variants for name in self._needs_of_variant(variant)[0]}


def _check_network(where: str, config: VariantConfig | AnyTraining) -> None:
    if model_of(config.weights) and (config.size_px or config.framing != "card"):
        raise BadConfig(f"{where} has weights {config.weights}, which come with their size and framing; leave both out")


def _models_of(variant: VariantConfig) -> list[str]:
    return [name for name in map(model_of, (variant.weights, variant.classifier_weights)) if name]


def _refuse_repeated(where: str, names: list[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise BadConfig(f"{where}: {repeated[0]!r} appears twice")
