"""Make what the variants of a comparison need of one catalogue: masks, models, vectors and classes, each once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from prefect.logging import get_run_logger

from flows.pictures import Masking, boost, mask_and_embed, reduce
from flows.shards.engines import each_shard
from retrieval_core.artifacts.manifests import Fitted, Ref, VectorSet
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig, NightlyConfig, Precision, View
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, VariantConfig, model_of
from retrieval_core.evaluate.compare.measure import Searched
from retrieval_core.settings import Settings
from retrieval_core.train.config import AnyTraining, DistillTraining
from retrieval_core.train.inputs import TrainingInputs, find_teacher
from tasks.classify import classify_shard, plan_classes, prepare_classifier, seal_class_set
from tasks.compare import time_network
from tasks.head import fit_head
from tasks.mask import prepare_detector
from tasks.pictures import prepare_backbone
from tasks.reduce import fit_reducer
from tasks.train import train_backbone

P = ParamSpec("P")
R = TypeVar("R")


def once(make: Callable[Concatenate[Workbench, P], R]) -> Callable[Concatenate[Workbench, P], R]:
    """Cache the results of a workbench's method by its (hashable) arguments, for as long as the workbench lives."""

    @wraps(make)
    def cached(self: Workbench, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (make.__name__, *args)
        if key not in self.results:
            self.results[key] = make(self, *args, **kwargs)
        return cast("R", self.results[key])

    return cast("Callable[Concatenate[Workbench, P], R]", cached)


class Workbench:
    """Makes what the variants of `config` need of one catalogue, or finds it in the store.

    `masking` holds the segmenter, if a variant needs its masks; `fields` are those of the catalogue's items.
    `n_embedded` counts embedded pictures.
    """

    def __init__(
        self, settings: Settings, catalog: Ref, config: ComparisonConfig, masking: Masking, fields: Ref | None = None
    ) -> None:
        self.settings, self.catalog, self.config, self.masking = settings, catalog, config, masking
        self.fields = fields
        self.results: dict[tuple[object, ...], Any] = {}
        self.n_embedded = 0

    def prepare_published(self) -> None:
        """Export every backbone, classifier and detector that is not trained here."""
        for variant in self.config.variants:
            if not model_of(variant.weights):
                self.backbone(variant)
            if not model_of(variant.classifier_weights):
                self.classifier(variant)
        if any(view == "crop" and not self.config.needs_masks(view) for view in self.config.views()):
            self.detector()

    def networks(self, variant: VariantConfig) -> tuple[Ref, ...]:
        """Return every network that a query of a variant goes through."""
        segmenter, view = self.masking.segmenter, variant.background
        mask_network = segmenter.ref if segmenter and self.config.needs_masks(view) else None
        if view == "crop" and not mask_network:
            mask_network = self.detector()
        return tuple(ref for ref in (self.backbone(variant), mask_network, self.classifier(variant)) if ref)

    @once
    def ms_per_picture(self, network: Ref, precision: Precision) -> float:
        """Return the milliseconds that a network takes for a picture."""
        return time_network(self.settings, self.catalog, network, self.config, precision)

    @once
    def detector(self) -> Ref:
        """Return the detector, for pictures that are not cropped by the segmenter's masks."""
        return prepare_detector(self.settings, self.config.crop)

    def masks(self, view: View) -> Ref | None:
        """Return the masks of a view, None for raw pictures. Raises `BadConfig` without a segmenter."""
        if view == "raw":
            return None
        masks = self._masked(self._masking(view))
        if masks is None:
            raise BadConfig(f"no segmenter, so no picture can be shown {view}; give a source with masks")
        return masks

    def _masking(self, view: View) -> Masking:
        if view == "raw":
            return Masking()
        return self.masking if self.config.needs_masks(view) else Masking(detector=self.detector())

    @once
    def _masked(self, masking: Masking) -> Ref | None:
        return mask_and_embed(self.settings, self.catalog, masking, None, stages_of(self.config, EmbedConfig())).masks

    @once
    def model(self, name: str) -> Fitted:
        """Return the trained backbone of a model, training those that it starts or learns from first."""
        config = self.config.models[name]
        if start := model_of(config.weights):
            config = config.model_copy(update={"weights": _artifact(self.model(start))})
        teacher = self.config.teachers.get(name)
        teacher_vectors = self.vectors(self.config.variant(teacher)) if teacher else self._named_teacher(config)
        inputs = TrainingInputs(
            catalog=self.catalog,
            fields=self.fields,
            masks=self.masks(config.background),
            crop_margin=self.config.crop.margin,
            teacher=teacher_vectors,
        )
        return train_backbone(self.settings, inputs, config, name, self.config.ingest)

    def _named_teacher(self, config: AnyTraining) -> Ref | None:
        store = self.settings.open_store()
        return find_teacher(store, config.teacher).ref if isinstance(config, DistillTraining) else None

    def backbone(self, variant: VariantConfig) -> Ref:
        """Return the backbone of a variant, exported and ready to embed."""
        return self._prepared(self._embed_config(variant))

    @once
    def _prepared(self, config: EmbedConfig) -> Ref:
        return prepare_backbone(self.settings, self.catalog, config, self.config.ingest)

    def embedded(self, variant: VariantConfig) -> Ref:
        """Return the vectors of the catalogue's pictures by the backbone of a variant."""
        return self._embedded(self._embed_config(variant))

    def vectors(self, variant: VariantConfig) -> Ref:
        """Return the vectors of a variant: embedded, then boosted and reduced if it says so. Raises `BadConfig`."""
        vectors = self.whole_vectors(variant)
        return self._reduced(vectors, variant.dim) if variant.dim else vectors

    def whole_vectors(self, variant: VariantConfig) -> Ref:
        """Return the vectors of a variant before they are reduced. Raises `BadConfig`."""
        vectors = self.embedded(variant)
        return self._boosted(vectors) if variant.boosted else vectors

    def searched(self, variant: VariantConfig) -> Searched:
        """Return what a variant searches. Raises `BadConfig`."""
        whole = self.whole_vectors(variant) if variant.rerank_depth else None
        return Searched(vectors=self.vectors(variant), whole=whole, classes=self.classes(variant))

    @once
    def _embedded(self, config: EmbedConfig) -> Ref:
        backbone, stages = self._prepared(config), stages_of(self.config, config)
        view = cast("View", config.background)
        self.masks(view)  # refuses a view that nothing can show
        pictures = mask_and_embed(self.settings, self.catalog, self._masking(view), backbone, stages)
        self.n_embedded += pictures.n_embedded[view]
        for reject in pictures.rejects:
            get_run_logger().warning("%s is not compared: %s", reject.item_id, reject.reason)
        return pictures.vectors[view]

    @once
    def _boosted(self, vectors: Ref) -> Ref:
        head = fit_head(self.settings, self.catalog, vectors, self.config.head)
        if head is None:
            raise BadConfig("the catalogue has nothing that a head could learn from, so no vectors can be boosted")
        return boost(self.settings, vectors, head.ref)

    @once
    def _reduced(self, vectors: Ref, dim: int) -> Ref:
        width = VectorSet.open(self.settings.open_store(), vectors).dim
        if dim > width:
            raise BadConfig(f"the vectors have {width} dimensions, but a variant's dim is {dim}; lower it")
        # A PCA for each dim: one for all would change, and with it a teacher's vectors, whenever a variant is added.
        config = self.config.reduce.model_copy(update={"dims": (dim,)})
        reducer = fit_reducer(self.settings, self.catalog, vectors, config)
        (reduced,) = reduce(self.settings, vectors, reducer.ref, config)
        return reduced

    def classifier(self, variant: VariantConfig) -> Ref | None:
        """Return the classifier of a variant in mode classified, None for other modes."""
        return self._prepared_classifier(self._classify_config(variant)) if variant.classifier else None

    def classes(self, variant: VariantConfig) -> Ref | None:
        """Return the classes of the catalogue's pictures by a variant's classifier, None without a classifier."""
        return self._classified(self._classify_config(variant)) if variant.classifier else None

    @once
    def _prepared_classifier(self, config: ClassifyConfig) -> Ref:
        return prepare_classifier(self.settings, config)

    @once
    def _classified(self, config: ClassifyConfig) -> Ref:
        classifier = self._prepared_classifier(config)
        plan = plan_classes(self.settings, self.catalog, classifier, config)
        each_shard(classify_shard, self.settings, plan, classifier, config, self.config.ingest)
        return seal_class_set(self.settings, self.catalog, plan)

    def _embed_config(self, variant: VariantConfig) -> EmbedConfig:
        model = model_of(variant.weights)
        return EmbedConfig(
            backbone=variant.backbone,
            weights=_artifact(self.model(model)) if model else variant.weights,
            size_px=variant.size_px,
            framing=variant.framing,
            precision=variant.precision,
            background=variant.background,
        )

    def _classify_config(self, variant: VariantConfig) -> ClassifyConfig:
        model, weights = model_of(variant.classifier_weights), variant.classifier_weights
        return self.config.classify.model_copy(
            update={
                "enabled": True,
                "backbone": variant.classifier,
                "weights": _artifact(self.model(model)) if model else weights,
                "size_px": 0 if variant.classifier_has_own_size else self.config.classify.size_px,
            }
        )


def stages_of(config: ComparisonConfig, embed: EmbedConfig) -> NightlyConfig:
    """Return the config of the stages up to the vectors of one view."""
    return NightlyConfig(ingest=config.ingest, mask=config.mask, crop=config.crop, embed=embed)


def _artifact(model: Fitted) -> str:
    return f"artifact:{model.ref.name}"
