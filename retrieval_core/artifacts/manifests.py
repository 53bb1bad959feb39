"""The nouns: what a run makes, how it is named, and where it lies in the store.

A thing exists when its `manifest.json` does: parts are written first, the manifest last. A fingerprint is a hash of the
question (stage, version, config, parents), so the same question has the same answer, whoever asks.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval_core.artifacts.variants import Reduced, RepresentationField, Variant, VariantField
from retrieval_core.config import NightlyConfig, first_line
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.store.base import Store

MANIFEST = "manifest.json"


def fingerprint(stage: str, version: int, config: Any, parents: list[str]) -> str:
    """32 hex digits that name what `stage` at `version` makes of `config` (JSON-able) and ordered `parents`."""
    question = [stage, version, config, parents]
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content_id(data: bytes) -> str:
    """The name of a file's bytes: 32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Value(BaseModel):
    """Base of small frozen values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Value):
    """The address of an artifact: the folder in the store that holds its manifest."""

    kind: str
    key: str

    @property
    def name(self) -> str:
        """The fingerprint, the last step of the address."""
        return self.key.rsplit("/", 1)[-1]


class Fitted(Value):
    """A fitted model, and whether this run fitted it."""

    ref: Ref
    trained: bool


class Part(Value):
    """One immutable file of an artifact."""

    key: str
    sha256: str
    n_rows: int = Field(ge=0)
    n_bytes: int = Field(ge=0)


class Reject(Value):
    """A picture that could not be used, and why: one row of the quarantine ledger."""

    item_id: str
    image_uri: str
    content_id: str = ""
    reason: str
    attempts: int = 1
    last_seen: str


class Hit(Value):
    """One search result; `score` is the cosine similarity, -1 to 1."""

    item_id: str
    score: float
    image_uri: str
    product_id: str | None = None
    category: str | None = None
    labels: list[str] = []


class Artifact(Value):
    """Base of everything sealed with a manifest.

    `parents` maps a role ("catalog", "backbone") to the fingerprint that filled it.
    """

    folder: ClassVar[str]

    kind: str
    fingerprint: str
    config: dict[str, Any] = {}
    parents: dict[str, str] = {}
    parts: tuple[Part, ...] = ()
    counts: dict[str, int] = {}
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def ref(self) -> Ref:
        return Ref(kind=self.kind, key=self.key)

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.fingerprint}"

    def part(self, name: str) -> Part:
        """The part whose key ends in `/name`. Raises `NotFound`."""
        for part in self.parts:
            if part.key.rsplit("/", 1)[-1] == name:
                return part
        raise NotFound(f"{self.kind} {self.fingerprint} has no part {name!r}")

    @property
    def n_bytes(self) -> int:
        """Of all parts."""
        return sum(part.n_bytes for part in self.parts)

    def local_folder(self, store: Store) -> Path:
        """A local folder with every part, each checked against its checksum. Raises `ShardCorrupt`, `NotFound`."""
        paths = [store.local_path(part.key, part.sha256) for part in self.parts]
        return paths[0].parent

    def seal(self, store: Store) -> Self:
        """Write the manifest, after every part; the first manifest of a fingerprint stays."""
        store.put_if_absent(f"{self.key}/{MANIFEST}", self.model_dump_json(indent=1).encode())
        return self

    @classmethod
    def open(cls, store: Store, ref: Ref) -> Self:
        """Read a sealed artifact. Raises `NotFound` where none was sealed, `ShardCorrupt` where it cannot be read."""
        data = store.get(f"{ref.key}/{MANIFEST}")
        try:
            return cls.model_validate_json(data)
        except ValueError as error:
            raise ShardCorrupt(f"{ref.key}/{MANIFEST} is not a {cls.__name__} manifest: {error}") from error

    @classmethod
    def find(cls, store: Store, fingerprint: str) -> Self | None:
        """The sealed artifact of this fingerprint, if it was made before."""
        key = f"{cls.folder}/{fingerprint}"
        return cls.open(store, Ref(kind="", key=key)) if store.exists(f"{key}/{MANIFEST}") else None


class Catalog(Artifact):
    """A snapshot of the source: parts `items.parquet` and `quarantine.parquet`; counts rows, ok, quarantined."""

    folder = "catalogs"
    kind: Literal["Catalog"] = "Catalog"


class GrowingSet(Artifact):
    """Base of the sets whose parts are shared by all views of a `family`, the fingerprint of what makes its members."""

    family: str

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.family}/{self.fingerprint}"


class MaskSet(GrowingSet):
    """Masks by content id. `family` is the fingerprint of what makes them; parts are shared by all sets of a family."""

    folder = "masks"
    kind: Literal["MaskSet"] = "MaskSet"


class VectorSet(GrowingSet):
    """Unit-length float32 vectors by content id, of one `variant` and width `dim`; parts are shared within a family."""

    folder = "vectors"
    kind: Literal["VectorSet"] = "VectorSet"
    variant: RepresentationField
    dim: int

    def full_variant(self) -> Variant:
        """Return the variant of full-width vectors. Raises `BadConfig` for reduced ones."""
        if isinstance(self.variant, Reduced):
            raise BadConfig(f"expected full vectors of a variant, got {self.variant} ({self.fingerprint})")
        return self.variant


class Segmenter(Artifact):
    """A trained U-Net: parts `weights.safetensors` and `model.onnx`; `val_iou` is the example-wise mean."""

    folder = "segmenters"
    kind: Literal["Segmenter"] = "Segmenter"
    val_iou: float
    history: tuple[dict[str, float], ...] = ()


class Backbone(Artifact):
    """An embedder: `weights.safetensors`, `model.onnx` and `card.json`, which says how to read and to feed them.

    One trained here names its `objective`, its `parents` (catalog, start, masks, teacher) and how its training went,
    and carries `run_card.json`; one trained to classify also `classifier.safetensors`.
    """

    folder = "backbones"
    kind: Literal["Backbone"] = "Backbone"
    card: str
    dim: int
    size_px: int
    has_text: bool = False
    objective: str = ""
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()


class Classifier(Artifact):
    """Names the class of a picture: a backbone's parts, its `model.onnx` ending in logits, and `classes.json`."""

    folder = "classifiers"
    kind: Literal["Classifier"] = "Classifier"
    card: str
    size_px: int
    n_classes: int


class ClassSet(GrowingSet):
    """The likeliest classes by content id; `family` is the fingerprint of the classifier that names them."""

    folder = "classes"
    kind: Literal["ClassSet"] = "ClassSet"


class Detector(Artifact):
    """A frozen torchvision detector: part `weights.safetensors`."""

    folder = "detectors"
    kind: Literal["Detector"] = "Detector"
    model: str


class Comparison(Artifact):
    """Variants measured side by side: parts `report.html`, `facts.json`, `summary.parquet`, `queries.parquet`."""

    folder = "comparisons"
    kind: Literal["Comparison"] = "Comparison"


class Head(Artifact):
    """A trained multi-task head: part `weights.safetensors`; its hidden layer is the boosted vector."""

    folder = "heads"
    kind: Literal["Head"] = "Head"
    variant: VariantField
    input_dim: int
    dim: int
    tasks: dict[str, list[str]] = {}
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()


class Reducer(Artifact):
    """A fitted PCA: part `pca.safetensors`, components ordered by variance, so any `dims` is a prefix."""

    folder = "reducers"
    kind: Literal["Reducer"] = "Reducer"
    input_dim: int
    dims: tuple[int, ...]
    explained_variance: dict[str, float] = {}


class TunePoint(Value):
    """One way to search an index: what it finds of the true ten nearest, and the bytes a query reads for it."""

    nprobe: int
    rerank_depth: int
    recall: float
    query_bytes: int


class IndexSet(Artifact):
    """A version of the index: a list of shard files; those of an unchanged shard are shared with earlier versions.

    `family` is that of the full vectors; `template` names the trained empty index that every shard starts from;
    `imbalance` says how uneven its lists are, 1 when all are equal. `curve` are the ways to search that were tried,
    cheapest first; `nprobe` and `rerank_depth` are the chosen one, which found `recall` of the true ten nearest.
    `when_new` holds imbalance and recall of the first version with this template.
    """

    folder = "indexes"
    kind: Literal["IndexSet"] = "IndexSet"
    recipe: str
    dim: int
    candidate_dim: int
    nprobe: int = 0
    rerank_depth: int
    family: str
    template: str
    imbalance: float = 1.0
    recall: float = 1.0
    when_new: dict[str, float] = {}
    curve: tuple[TunePoint, ...] = ()


class Report(Artifact):
    """An evaluation: `report.html`, `metrics.json`, the tables metrics, queries, categories, near_duplicates, fixes.

    `gate_causes` are what spoke against publishing; none where a release that is held merely waits for a person.
    `lost_most` says which step of the chain loses most, "" where none does beyond chance.
    """

    folder = "reports"
    kind: Literal["Report"] = "Report"
    metrics: dict[str, float] = {}
    gate: Literal["published", "held"]
    gate_reason: str
    gate_causes: tuple[str, ...] = ()
    lost_most: str = ""


class Release(Artifact):
    """The immutable bundle a search opens: which artifacts, and through which chain a query goes.

    `head` is the one a query goes through; `heads` are all of the night, one for each kind of background. They and the
    segmenter are named even where no query needs them, so that the next night can keep them.
    """

    folder = "releases"
    kind: Literal["Release"] = "Release"
    catalog: Ref
    backbone: Ref
    segmenter: Ref | None = None
    detector: Ref | None = None
    classifier: Ref | None = None
    classes: Ref | None = None
    head: Ref | None = None
    heads: tuple[Ref, ...] = ()
    reducer: Ref | None = None
    vectors: Ref
    index: Ref
    report: Ref
    variant: VariantField
    gate: Literal["published", "held"]
    gate_reason: str = ""
    gate_causes: tuple[str, ...] = ()

    def nightly_config(self) -> NightlyConfig:
        """Return the config this release was built with. Raises `ShardCorrupt` where this version cannot read it."""
        try:
            return NightlyConfig.model_validate(self.config)
        except ValidationError as error:
            raise ShardCorrupt(
                f"the config of release {self.fingerprint} cannot be read: {first_line(error)}"
            ) from error
