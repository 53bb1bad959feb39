"""What a comparison is told: the variants, the models trained for them, and the tables to print."""

from __future__ import annotations

from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from retrieval_core.artifacts.backbone_names import check_name
from retrieval_core.config import (
    ClassifyConfig,
    CropConfig,
    EvaluateConfig,
    Framing,
    HeadConfig,
    IngestConfig,
    MaskConfig,
    ReduceConfig,
    StageConfig,
    View,
)
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.metrics import registry
from retrieval_core.train.config import AnyTraining, ClassifyTraining, DistillTraining

Mode = Literal["nearest", "classified"]
Contrast = Literal["background", "boosted", "dim", "mode"]

MODEL = "model:"
# All but those of a whole search, and those that are printed beside the metric they belong to.
METRICS = tuple(metric.name for metric in registry.METRICS if metric.source in ("search", "head"))

_PLAIN: dict[Contrast, Any] = {"background": "raw", "boosted": False, "dim": 0, "mode": "nearest"}
_CLASSIFIER = {"classifier", "classifier_weights"}


def model_of(weights: str) -> str:
    """NAME of weights `model:NAME`, "" of all others."""
    return weights.removeprefix(MODEL) if weights.startswith(MODEL) else ""


class VariantConfig(StageConfig):
    """One way to search: a row of the tables."""

    name: str = Field(min_length=1, description="What the tables call it.")
    backbone: str = Field("resnet18", description="A backbone card, hf-hub:OWNER/NAME or local-dir:PATH.")
    weights: str = Field(
        "pretrained",
        description="pretrained, random:SEED, file:PATH, fit:SEED, artifact:NAME[@ALIAS], or model:NAME of this file.",
    )
    background: View = Field("raw", description="Pictures as they are, masked, or cropped to the product.")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the square the backbone sees; 0 takes its own.")
    framing: Framing = Field("card", description="How a picture becomes a square.")
    boosted: bool = Field(False, description="Vectors of the multi-task head's hidden layer.")
    dim: int = Field(0, ge=0, description="Principal components that are kept; 0 keeps the vectors as they are.")
    mode: Mode = Field("nearest", description="All items by distance, or first those of the query's likeliest classes.")
    classifier: str = Field("", description="Of mode classified: the card of the classifier.")
    classifier_weights: str = Field("pretrained", description="Of the classifier; model:NAME is one trained here.")

    @model_validator(mode="after")
    def _classifier_fits_mode(self) -> Self:
        if (self.mode == "classified") != bool(self.classifier):
            wanted = "names no classifier" if self.mode == "classified" else f"names classifier {self.classifier}"
            raise BadConfig(f"variant {self.name!r} has mode {self.mode} and {wanted}; give both or neither")
        return self

    def is_pair(self, other: VariantConfig, contrast: Contrast) -> bool:
        """Whether `other` equals this plain variant in all but `contrast` (and, for the mode, its classifier)."""
        aside = {"name", contrast} | (_CLASSIFIER if contrast == "mode" else set())
        plain = getattr(self, contrast) == _PLAIN[contrast] != getattr(other, contrast)
        return plain and self.model_dump(exclude=aside) == other.model_dump(exclude=aside)


class TableConfig(StageConfig):
    """One table of the report."""

    title: str = Field(min_length=1, description="Stands above the table.")
    kind: Literal["metrics", "pairs"] = Field("metrics", description="A row a variant, or a row a pair of variants.")
    metrics: tuple[str, ...] = Field(min_length=1, description="The columns.")
    variants: tuple[str, ...] = Field((), description="Names of the variants, in their order; empty takes all.")
    baseline: str = Field("", description="Of kind metrics: the variant that every other one is tested against.")
    contrast: Literal["", Contrast] = Field("", description="Of kind pairs: what the two of a pair differ in.")
    note: str = Field("", description="Stands below the table.")

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise BadConfig(f"table {self.title!r} wants unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
        if self.kind == "pairs" and (self.baseline or not self.contrast):
            raise BadConfig(
                f"table {self.title!r} of kind pairs wants a contrast ({', '.join(_PLAIN)}) and no baseline"
            )
        if self.kind == "metrics" and self.contrast:
            raise BadConfig(f"table {self.title!r} has a contrast, which only tables of kind pairs have")
        return self


class ComparisonConfig(StageConfig):
    """Everything `vitrine compare` can be told. `teachers` maps a distilled model to the variant it is trained toward.

    Raises `BadConfig` where a name is taken twice or means nothing, where models wait for each other, and for a model
    that no variant uses.
    """

    title: str = Field(min_length=1, description="Stands above the report.")
    about: str = Field("", description="What is compared and why: the report's first words.")
    variants: tuple[VariantConfig, ...] = Field(min_length=1, description="The ways to search: rows of the tables.")
    tables: tuple[TableConfig, ...] = Field(min_length=1, description="The tables of the report.")
    models: dict[str, Annotated[AnyTraining, Field(discriminator="objective")]] = Field(
        {}, description="Models to train for the variants, by name."
    )
    teachers: dict[str, str] = Field({}, description="Of a distilled model, by name: the variant it is trained toward.")
    ingest: IngestConfig = Field(IngestConfig(), description="How the source is read: bad pictures, the holdout.")
    mask: MaskConfig = Field(MaskConfig(), description="The background segmenter and its masks.")
    crop: CropConfig = Field(CropConfig(), description="Cropping to the product; of variants with background crop.")
    head: HeadConfig = Field(HeadConfig(), description="The multi-task head; of variants that are boosted.")
    reduce: ReduceConfig = Field(ReduceConfig(), description="The PCA; of variants with a dim.")
    classify: ClassifyConfig = Field(ClassifyConfig(), description="The classifier; of variants with mode classified.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="What the variants are measured with.")

    def variant(self, name: str) -> VariantConfig:
        """The variant of that name. Raises `BadConfig`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise BadConfig(f"no variant {name!r}; there are {', '.join(variant.name for variant in self.variants)}")

    def rows(self, table: TableConfig) -> tuple[VariantConfig, ...]:
        """The variants of a table, in its order. Raises `BadConfig` for a name that none has."""
        return tuple(self.variant(name) for name in table.variants) or self.variants

    def pairs(self, table: TableConfig) -> tuple[tuple[VariantConfig, VariantConfig], ...]:
        """Of a table of kind pairs: (plain, other) variants that are equal but for its contrast."""
        rows, contrast = self.rows(table), table.contrast
        return tuple((plain, other) for plain in rows for other in rows if contrast and plain.is_pair(other, contrast))

    def training_order(self) -> tuple[str, ...]:
        """The models, each after those it starts from or whose vectors teach it. Raises `BadConfig` for a circle."""
        graph = {name: self._needs(name) for name in self.models}
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise BadConfig(f"models wait for each other: {' -> '.join(error.args[1])}") from error

    def views(self) -> tuple[View, ...]:
        """Every view that a variant or a model sees the pictures in."""
        seen = [variant.background for variant in self.variants] + [model.background for model in self.models.values()]
        return tuple(dict.fromkeys(seen))

    def needs_masks(self, view: View) -> bool:
        """Whether pictures shown so are shown by the segmenter's masks."""
        return view == "masked" or (view == "crop" and self.crop.detector == "masks")

    def needing(self, *, models: Collection[str] = (), variants: Collection[str] = ()) -> set[str]:
        """The variants that cannot be made without any of these models or variants, these variants included."""
        made = {variant.name: self._made_for(variant) for variant in self.variants}
        return {
            name
            for name, needed in made.items()
            if not (needed[0].isdisjoint(models) and needed[1].isdisjoint(variants))
        }

    def needing_masks(self) -> set[str]:
        """The variants that cannot be made without a segmenter."""
        return self.needing(
            models={name for name, model in self.models.items() if self.needs_masks(model.background)},
            variants={variant.name for variant in self.variants if self.needs_masks(variant.background)},
        )

    def without(self, names: set[str], why: str) -> Self:
        """The comparison without these variants and what only they need; `about` says so. Raises `BadConfig`."""
        left = tuple(variant for variant in self.variants if variant.name not in names)
        if not left:
            raise BadConfig(f"no variant is left to compare: {why}")
        lost = ", ".join(variant.name for variant in self.variants if variant.name in names)
        kept = self.model_copy(update={"variants": left, "about": f"{self.about} Left out, because {why}: {lost}."})
        models = kept._used_models()
        tables = [table for table in map(kept._shortened, self.tables) if table is not None]
        if not tables:
            raise BadConfig(f"no table is left to compare {', '.join(variant.name for variant in left)} in: {why}")
        return type(self).model_validate(
            {
                **dict(kept),
                "tables": tuple(tables),
                "models": {name: model for name, model in self.models.items() if name in models},
                "teachers": {name: teacher for name, teacher in self.teachers.items() if name in models},
            }
        )

    def _shortened(self, table: TableConfig) -> TableConfig | None:
        there = {variant.name for variant in self.variants}
        names = tuple(name for name in table.variants if name in there)
        baseline = table.baseline if table.baseline in there else ""
        short = table.model_copy(update={"variants": names, "baseline": baseline})
        empty = bool(table.variants) and not names
        return None if empty or (table.kind == "pairs" and not self.pairs(short)) else short

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_twice("variants", [variant.name for variant in self.variants])
        _refuse_twice("tables", [table.title for table in self.tables])
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
        _refuse_twice(f"table {table.title!r}", list(table.variants))
        _refuse_twice(f"table {table.title!r}", list(table.metrics))
        if table.baseline and table.baseline not in {variant.name for variant in rows}:
            raise BadConfig(f"table {table.title!r} has baseline {table.baseline!r}, which is none of its variants")
        if table.kind == "pairs" and not self.pairs(table):
            raise BadConfig(f"table {table.title!r}: no two of its variants are equal but for {table.contrast}")

    def _check_model(self, name: str, model: AnyTraining) -> None:
        check_name(name)
        start = model_of(model.weights)
        self._check_known(start, f"models.{name}")
        _check_network(f"models.{name}", model)
        if start and self.models[start].backbone != model.backbone:
            raise BadConfig(
                f"models.{name} is a {model.backbone} that starts from {start}, a {self.models[start].backbone}"
            )
        teacher = self.teachers.get(name, "")
        if isinstance(model, DistillTraining) and bool(teacher) == bool(model.teacher):
            raise BadConfig(f"models.{name} wants either teacher_variant or teacher, a vector set's fingerprint")
        if teacher and not isinstance(model, DistillTraining):
            raise BadConfig(f"models.{name} has a teacher_variant, which only objective distill has")
        if teacher:
            self.variant(teacher)

    def _check_variant(self, variant: VariantConfig) -> None:
        where = f"variant {variant.name!r}"
        _check_network(where, variant)
        for weights, card in ((variant.weights, variant.backbone), (variant.classifier_weights, variant.classifier)):
            self._check_known(model_of(weights), where)
            trained = self.models.get(model_of(weights))
            if trained and trained.backbone != card:
                raise BadConfig(f"{where} asks for a {card} with weights {weights}, which is a {trained.backbone}")
        classifier = self.models.get(model_of(variant.classifier_weights))
        if classifier and not isinstance(classifier, ClassifyTraining):
            raise BadConfig(
                f"{where}: {variant.classifier_weights} is trained to {classifier.objective}, not to classify"
            )

    def _check_dim(self, variant: VariantConfig) -> None:
        width = self._width(variant) if variant.dim else 0
        if width and variant.dim > width:
            raise BadConfig(f"variant {variant.name!r} asks for {variant.dim} dimensions of vectors that have {width}")

    def _width(self, variant: VariantConfig) -> int:
        """Of the vectors before they are reduced; 0 where only the making of them tells."""
        if variant.boosted and self.head.hidden_dim:
            return self.head.hidden_dim
        weights = variant.weights
        while model := self.models.get(model_of(weights)):
            if model.embedding_dim or isinstance(model, DistillTraining):
                return model.embedding_dim
            weights = model.weights
        return 0 if weights.startswith("artifact:") else get_card(variant.backbone).dim

    def _check_known(self, model: str, where: str) -> None:
        if model and model not in self.models:
            raise BadConfig(f"{where} wants model {model!r}; there are {', '.join(self.models) or 'none'}")

    def _needs(self, model: str) -> list[str]:
        """The models that one model is trained after."""
        start, teacher = model_of(self.models[model].weights), self.teachers.get(model)
        return [start] * bool(start) + (_models_of(self.variant(teacher)) if teacher else [])

    def _made_for(self, variant: VariantConfig) -> tuple[set[str], set[str]]:
        """The names of the models, and of the variants, that must be made for one variant, itself included."""
        models: set[str] = set()
        waiting = _models_of(variant)
        while waiting:
            name = waiting.pop()
            if name not in models:
                models.add(name)
                waiting += self._needs(name)
        return models, {variant.name, *(self.teachers[name] for name in models if name in self.teachers)}

    def _used_models(self) -> set[str]:
        return {name for variant in self.variants for name in self._made_for(variant)[0]}


def _check_network(where: str, config: VariantConfig | AnyTraining) -> None:
    if model_of(config.weights) and (config.size_px or config.framing != "card"):
        raise BadConfig(f"{where} has weights {config.weights}, which bring their size and framing; leave both out")


def _models_of(variant: VariantConfig) -> list[str]:
    return [name for name in map(model_of, (variant.weights, variant.classifier_weights)) if name]


def _refuse_twice(where: str, names: list[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise BadConfig(f"{where}: {twice[0]!r} is there twice")
