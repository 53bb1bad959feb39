"""The artifacts that a run makes, their fingerprints, and where they are stored.

An artifact exists when its `manifest.json` does: its parts are written first, the manifest last. Its fingerprint is a
hash of everything its content depends on (stage, version, config, parents), so that the same inputs always give the
same artifact.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval_core.artifacts.sealed import Sealed
from retrieval_core.artifacts.variants import Reduced, RepresentationField, Variant, VariantField
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.config.text import first_line
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.store.base import Store
from retrieval_core.store.format import require_current

MANIFEST = "manifest.json"


def fingerprint(stage: str, version: int, config: Any, parents: list[str]) -> str:
    """Return 32 hex digits that name what `stage` at `version` makes of `config` (JSON) and ordered `parents`."""
    text = json.dumps([stage, version, config, parents], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content_id(data: bytes) -> str:
    """Return the name of a file by its bytes: 32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Value(BaseModel):
    """Base of small immutable values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Value):
    """The address of an artifact: the folder in the store that holds its manifest, and the checksum of that.

    `sha256` is "" where only the fingerprint is known.
    """

    kind: str
    key: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """The fingerprint, which is the last part of the key."""
        return self.key.rsplit("/", 1)[-1]


class Fitted(Value):
    """A fitted model, and whether this run trained it."""

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


class Artifact(Sealed):
    """Base of everything that is sealed with a manifest.

    `parents` maps a role ("catalog", "backbone") to the fingerprint of the artifact in that role.
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
        """The address of the artifact once it is sealed."""
        return Ref(kind=self.kind, key=self.key, sha256=self.sha256)

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.fingerprint}"

    def part(self, name: str) -> Part:
        """Return the part whose key ends in `/name`. Raises `NotFound`."""
        part = self.find_part(name)
        if part is None:
            raise NotFound(f"{self.kind} {self.fingerprint} has no part {name!r}")
        return part

    def find_part(self, name: str) -> Part | None:
        """Return the part whose key ends in `/name`, None where there is none."""
        return next((part for part in self.parts if part.key.rsplit("/", 1)[-1] == name), None)

    @property
    def n_bytes(self) -> int:
        """The size of all parts together."""
        return sum(part.n_bytes for part in self.parts)

    def local_folder(self, store: Store) -> Path:
        """Return a local folder with every part, verified by checksum. Raises `ShardCorrupt`, `NotFound`."""
        paths = [store.local_path(part.key, part.sha256) for part in self.parts]
        return paths[0].parent

    def seal(self, store: Store) -> Self:
        """Write the manifest, once every part is written; return the artifact that is sealed under this fingerprint.

        Of two runs that make it at the same time, one wins, and the other gets the winner's with the winner's parts.
        Raises `TooNew` or `NeedsMigration` for a store of another format.
        """
        require_current(store)
        sealed, data = self.to_sealed()
        is_first = store.put_if_absent(f"{self.key}/{MANIFEST}", data)
        return sealed if is_first else self.open(store, Ref(kind=self.kind, key=self.key))

    @classmethod
    def open(cls, store: Store, ref: Ref) -> Self:
        """Read a sealed artifact.

        Raises `NotFound` where none was sealed, `ShardCorrupt` where it cannot be read or is not the one that `ref`
        means, and `TooNew` where a newer version of Vitrine wrote it.
        """
        name = f"{ref.key}/{MANIFEST}"
        artifact = cls.from_sealed(store.get(name), f"{store.url}/{name}")
        if artifact.key != ref.key or ref.sha256 not in ("", artifact.sha256):
            raise ShardCorrupt(
                f"{store.url}/{name} has sha256 {artifact.sha256[:12]}…, expected {ref.sha256[:12]}…: it was lost and "
                "made again, or comes from elsewhere; the next `vitrine run` makes a release of what is there now"
            )
        return artifact

    @classmethod
    def find(cls, store: Store, fingerprint: str) -> Self | None:
        """Return the sealed artifact of this fingerprint, or None."""
        key = f"{cls.folder}/{fingerprint}"
        return cls.open(store, Ref(kind="", key=key)) if store.exists(f"{key}/{MANIFEST}") else None


class Catalog(Artifact):
    """A snapshot of the source: its items in parts, and `quarantine.parquet`; counts rows, ok, quarantined."""

    folder = "catalogs"
    kind: Literal["Catalog"] = "Catalog"

    @property
    def item_parts(self) -> tuple[Part, ...]:
        """The tables of its items, in order."""
        return tuple(part for part in self.parts if part.key.rsplit("/", 1)[-1].startswith("items"))


class GrowingSet(Artifact):
    """Base of the sets that grow from run to run; each seals the parts that cover one catalogue.

    `family` is the fingerprint of what makes the members, without the catalogue; all sets of a family share its parts.
    """

    family: str

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.family}/{self.fingerprint}"


class PictureSet(GrowingSet):
    """The bytes of pictures by content id: tar files, and tables that say where in them each picture lies."""

    folder = "pictures"
    kind: Literal["PictureSet"] = "PictureSet"


class MaskSet(GrowingSet):
    """Masks by content id."""

    folder = "masks"
    kind: Literal["MaskSet"] = "MaskSet"


class VectorSet(GrowingSet):
    """Unit-length float32 vectors of width `dim` by content id."""

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
    """A trained U-Net: parts `weights.safetensors` and `model.onnx`; `val_iou` is the mean over validation pictures."""

    folder = "segmenters"
    kind: Literal["Segmenter"] = "Segmenter"
    val_iou: float
    history: tuple[dict[str, float], ...] = ()


class Backbone(Artifact):
    """An embedder: parts `weights.safetensors`, `model.onnx` and `card.json`, which describes both.

    One calibrated for int8 also has `model-int8.onnx`, and the backbone that it was in `parents`.
    A backbone trained by Vitrine has an `objective`, `parents` (catalog, start, masks, teacher), a training `history`
    and the part `run_card.json`; one trained to classify also has `classifier.safetensors`.
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
    """A classifier of pictures: the parts of a backbone, with logits as output of `model.onnx`, and `classes.json`."""

    folder = "classifiers"
    kind: Literal["Classifier"] = "Classifier"
    card: str
    size_px: int
    n_classes: int


class ClassSet(GrowingSet):
    """The likeliest classes by content id."""

    folder = "classes"
    kind: Literal["ClassSet"] = "ClassSet"


class Detector(Artifact):
    """A frozen torchvision detector: part `weights.safetensors`."""

    folder = "detectors"
    kind: Literal["Detector"] = "Detector"
    model: str


class Comparison(Artifact):
    """A comparison of variants: parts `report.html`, `facts.json`, `summary.parquet`, `queries.parquet`."""

    folder = "comparisons"
    kind: Literal["Comparison"] = "Comparison"


class JudgementSet(Artifact):
    """What feedback says of questions: parts `golden.csv`, which judges releases, and `training.csv`, alike."""

    folder = "judgements"
    kind: Literal["JudgementSet"] = "JudgementSet"


class Head(Artifact):
    """A trained multi-task head: part `weights.safetensors`; it makes `dim` boosted dimensions of `input_dim`."""

    folder = "heads"
    kind: Literal["Head"] = "Head"
    variant: VariantField
    input_dim: int
    dim: int
    tasks: dict[str, list[str]] = {}
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()


class Reducer(Artifact):
    """A fitted PCA: part `pca.safetensors`; components are ordered by variance, so that each of `dims` is a prefix."""

    folder = "reducers"
    kind: Literal["Reducer"] = "Reducer"
    input_dim: int
    dims: tuple[int, ...]
    explained_variance: dict[str, float] = {}


class TunePoint(Value):
    """A setting of the search: its recall of the exact ten nearest, and the bytes that a query reads."""

    nprobe: int
    rerank_depth: int
    recall: float
    query_bytes: int


class IndexSet(Artifact):
    """A version of the index: its shard files, of which unchanged ones are shared with earlier versions.

    `family` is that of the full vectors; `template` names the trained empty index that every shard starts from. The
    `imbalance` of the inverted lists is 1 when all are equally long. `curve` holds the settings tried, the cheapest
    first; `nprobe` and `rerank_depth` are chosen, with `recall`. `when_new` is of the first version with this template.
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
    """An evaluation: `report.html`, `metrics.json`, and tables of metrics, queries, categories, duplicates and fixes.

    `gate_causes` speak against publishing; a held release without causes only waits for a person to promote it.
    `lost_most` is the step of the chain that loses most, "" where no step loses more than chance explains. `anchor` is
    the release that the following ones are also compared with, "" for the one that was evaluated;
    `counts["most_rows"]` are the most rows that production had since then.
    """

    folder = "reports"
    kind: Literal["Report"] = "Report"
    metrics: dict[str, float] = {}
    gate: Literal["published", "held"]
    gate_reason: str
    gate_causes: tuple[str, ...] = ()
    lost_most: str = ""
    anchor: str = ""


class Release(Artifact):
    """The immutable bundle that a search opens: every artifact it needs, and the models that a query goes through.

    `head` boosts queries; `heads` are all heads of the run, one for each view. They and the segmenter are listed even
    where no query needs them, so that the next run can reuse them.
    """

    folder = "releases"
    kind: Literal["Release"] = "Release"
    catalog: Ref
    fields: Ref | None = None
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
