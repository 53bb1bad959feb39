"""Gather one item's story off a store. Importing this module imports faiss."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import LEDGER, load_items
from retrieval_core.artifacts.manifests import (
    Backbone,
    Catalog,
    Head,
    Hit,
    IndexSet,
    Reducer,
    Reject,
    Release,
    Report,
    Segmenter,
    Value,
    content_id,
)
from retrieval_core.artifacts.parts import MaskRow, read_masks, read_rows, read_unsealed
from retrieval_core.errors import NotFound, Permanent, ShardCorrupt
from retrieval_core.evaluate.reconstruct import masks_of
from retrieval_core.explain.history import History, Row, find_history, find_row
from retrieval_core.search.release import OpenRelease, Query
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

K = 10
N_SPELLINGS = 3
MAX_COMPARED = 2_000  # ids whose spelling is compared letter by letter

# Whether the release finds it; if not, because its picture cannot be used, it has no vector, or it is not in there.
State = Literal["indexed", "quarantined", "unindexed", "absent"]


class MaskStory(Value):
    """What the picture was masked with or cropped to; `reason` says why that is not trusted and the picture whole.

    `made_by` is the fingerprint of the segmenter or detector, `area` the share of the picture kept; `shown` says
    whether the release's vectors were made of what is left.
    """

    made_by: str
    area: float
    reason: str
    shown: bool

    @property
    def is_trusted(self) -> bool:
        return not self.reason


class Step(Value):
    """One link of the chain from the picture to the index; `fingerprint` is "" for what no artifact does."""

    role: str
    what: str
    fingerprint: str = ""


class Itself(Value):
    """Where a search by the item's own picture finds the item: `place` from 1, None where not among the first ten.

    `first` is what stands first. `problem` says why there was no search.
    """

    place: int | None = None
    score: float | None = None
    first: str = ""
    problem: str = ""


class Problem(Value):
    """What the release's report wants put right about the item; `score`, 0 to 1, says how sure that is."""

    problem: str
    evidence: str
    suggestion: str
    score: float


class Story(Value):
    """An item in a release. `row` is the release's, or the last that another had where this one has none.

    `picture` says what is wrong with the picture's file now, "" where it is as it was.
    """

    release: str
    created: str
    item_id: str
    state: State
    row: Row | None
    picture: str = ""
    mask: MaskStory | None = None
    lineage: tuple[Step, ...] = ()
    shard: str = ""
    n_shards: int = 0
    itself: Itself | None = None
    neighbours: tuple[Hit, ...] = ()
    problems: tuple[Problem, ...] = ()
    quarantine: tuple[Reject, ...] = ()
    history: History


class _Picture(NamedTuple):
    """A file's bytes, None where they are not what the catalogue read, and what is wrong then."""

    data: bytes | None
    problem: str = ""


def explain(store: Store, release: Release, item_id: str, settings: Settings) -> Story:
    """All that is known of an item, in a release and before and after it.

    Raises `NotFound` for an item that no release and no quarantine ledger knows, with ids spelt alike; `ShardCorrupt`.
    """
    row, lived = find_row(store, release.catalog, item_id), find_history(store, item_id)
    rejects = _rejects(store, release, item_id)
    if row is None and lived.last is None and not rejects:
        raise _unknown(store, release, item_id)
    told = Story(
        release=release.fingerprint,
        created=release.created,
        item_id=item_id,
        state=_state(row, lived.last),
        row=row or lived.last,
        problems=tuple(_problems(store, release, item_id)),
        quarantine=rejects,
        history=lived.history,
    )
    if row is None or row.content_id is None or row.status != "ok":
        return told
    opened, picture = OpenRelease(store, release, settings), _read_picture(row)
    told = told.model_copy(update={"picture": picture.problem, "mask": _mask(store, release, row.content_id)})
    try:
        shard = opened.shard_of(item_id)
    except NotFound:
        return told
    return told.model_copy(
        update={
            "state": "indexed",
            "lineage": tuple(_lineage(store, release)),
            "shard": shard,
            "n_shards": len({part.key.rsplit("/", 1)[0] for part in IndexSet.open(store, release.index).parts}),
            "itself": _search_itself(opened, item_id, picture),
            "neighbours": tuple(opened.search(Query(item_ids=(item_id,)), K)),
        }
    )


def mask_row(store: Store, release: Release, content_id: str) -> MaskRow | None:
    """The stored mask of a picture of a release, None where it has none or a vacuum took it. Raises `ShardCorrupt`."""
    try:
        masks = masks_of(store, release)
    except NotFound:
        return None
    return read_masks(store, masks, [content_id]).get(content_id) if masks else None


def _state(row: Row | None, last: Row | None) -> State:
    """Before the index was asked. An item that only a quarantine ledger knows never was in a catalogue."""
    if row is None:
        return "absent" if last else "quarantined"
    return "unindexed" if row.status == "ok" else "quarantined"


def _unknown(store: Store, release: Release, item_id: str) -> NotFound:
    """An id with one letter wrong still begins or ends right, so only such are compared letter by letter."""
    known = load_items(store, release.catalog.name, ["item_id"])["item_id"]
    half = len(item_id) // 2
    alike = known.str.starts_with(item_id[:half]) | known.str.ends_with(item_id[half:])
    near = difflib.get_close_matches(item_id, known.filter(alike).head(MAX_COMPARED).to_list(), N_SPELLINGS)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return NotFound(
        f"no item {item_id!r} in release {release.fingerprint[:12]}, in another of {store.url} or in quarantine{hint}"
    )


def _rejects(store: Store, release: Release, item_id: str) -> tuple[Reject, ...]:
    """Each word of the ledgers on an item, the oldest first: of the catalogue, of the night's end, and of today."""
    is_it = pl.col("item_id") == item_id
    tables = [
        read_rows(store, part, is_it)
        for part in Catalog.open(store, release.catalog).parts
        if part.key.endswith("/quarantine.parquet")
    ]
    if store.exists(LEDGER):
        tables.append(read_unsealed(store, LEDGER, is_it))
    found = [
        Reject(**{name: value for name, value in row.items() if value is not None})
        for table in tables
        for row in table.iter_rows(named=True)
    ]
    found += [reject for reject in _late_rejects(store, release) if reject.item_id == item_id]
    return tuple(sorted(dict.fromkeys(found), key=lambda reject: reject.last_seen))


def _late_rejects(store: Store, release: Release) -> list[Reject]:
    """Pictures that went bad while the night ran are in its report alone."""
    report = Report.find(store, release.report.name)
    parts = [part for part in report.parts if part.key.endswith("/metrics.json")] if report else []
    try:
        said = [json.loads(store.local_path(part.key, part.sha256).read_bytes()) for part in parts]
        return [Reject.model_validate(reject) for facts in said for reject in facts["quarantine"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardCorrupt(f"{parts[0].key} does not say what was put into quarantine: {error}") from error


def _read_picture(row: Row) -> _Picture:
    try:
        data = read_uri(row.image_uri)
    except Permanent as error:
        return _Picture(None, f"cannot be read now: {error}")
    now = content_id(data)
    if now != row.content_id:
        return _Picture(None, f"is another file now, with the content id {now}")
    return _Picture(data)


def _mask(store: Store, release: Release, picture: str) -> MaskStory | None:
    row, maker = mask_row(store, release, picture), release.detector or release.segmenter
    if row is None or maker is None:
        return None
    shown = release.variant.view != "raw"
    return MaskStory(made_by=maker.name, area=row.area, reason=row.reason, shown=shown)


def _lineage(store: Store, release: Release) -> Iterator[Step]:
    """From the picture to the index; of a model that is gone only the name is told."""
    config, index = release.nightly_config(), IndexSet.open(store, release.index)
    if release.variant.view == "crop" and release.detector:
        yield Step(role="crop", what=f"to the box of {config.crop.detector}", fingerprint=release.detector.name)
    elif release.variant.view == "masked" and release.segmenter:
        segmenter = Segmenter.find(store, release.segmenter.name)
        what = f"U-Net, validation IoU {segmenter.val_iou:.3f}" if segmenter else "U-Net, gone"
        yield Step(role="mask", what=what, fingerprint=release.segmenter.name)
    else:
        yield Step(role="background", what="as it is")
    backbone = Backbone.find(store, release.backbone.name)
    size = f", {backbone.size_px} px to {backbone.dim} dimensions" if backbone else ", gone"
    what = f"{backbone.card if backbone else config.embed.backbone}, weights {config.embed.weights}{size}"
    yield Step(role="backbone", what=what, fingerprint=release.backbone.name)
    if release.head and release.variant.boosted:
        head = Head.find(store, release.head.name)
        what = f"{head.input_dim} to {head.dim} dimensions" if head else "gone"
        yield Step(role="head", what=what, fingerprint=release.head.name)
    yield Step(role="vectors", what=f"{release.variant}, {index.dim} dimensions", fingerprint=release.vectors.name)
    if release.reducer and index.candidate_dim != index.dim:
        reducer = Reducer.find(store, release.reducer.name)
        what = f"PCA to {index.candidate_dim} dimensions for the candidates{'' if reducer else ', gone'}"
        yield Step(role="reducer", what=what, fingerprint=release.reducer.name)
    what = f"{index.recipe}, rerank depth {index.rerank_depth}"
    yield Step(role="index", what=what, fingerprint=index.fingerprint)


def _search_itself(opened: OpenRelease, item_id: str, picture: _Picture) -> Itself:
    if picture.data is None:
        return Itself(problem=f"its picture {picture.problem}")
    try:
        hits = opened.search(picture.data, K)
    except Permanent as error:
        return Itself(problem=str(error))
    place = next((place for place, hit in enumerate(hits, 1) if hit.item_id == item_id), None)
    return Itself(place=place, score=hits[place - 1].score if place else None, first=hits[0].item_id if hits else "")


def _problems(store: Store, release: Release, item_id: str) -> Iterator[Problem]:
    """The fix list has a pair of near-duplicates under one of its items alone; here it is told of both."""
    report = Report.find(store, release.report.name)
    parts = {part.key.rsplit("/", 1)[-1]: part for part in report.parts} if report else {}
    if "fixes.parquet" in parts:
        mine = (pl.col("item_id") == item_id) & (pl.col("problem") != "near_duplicate")
        for row in read_rows(store, parts["fixes.parquet"], mine).iter_rows(named=True):
            yield Problem(**{name: row[name] for name in Problem.model_fields})
    if "near_duplicates.parquet" in parts:
        mine = (pl.col("item_id") == item_id) | (pl.col("other_item_id") == item_id)
        for row in read_rows(store, parts["near_duplicates.parquet"], mine).iter_rows(named=True):
            yield _near_duplicate(item_id, row["item_id"], row["other_item_id"], row["similarity"])


def _near_duplicate(item_id: str, one: str, other: str, similarity: float) -> Problem:
    twin = other if one == item_id else one
    return Problem(
        problem="near_duplicate",
        evidence=f"shows the same picture as {twin} (cosine {similarity:.3f}), which is not known as the same product",
        suggestion=f"one product for {item_id} and {twin}, or another picture for one of them",
        score=1.0,
    )
