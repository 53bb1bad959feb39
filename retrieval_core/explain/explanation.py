"""Gather what a store holds of one item into an explanation. Importing this module imports faiss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import LEDGER, load_items
from retrieval_core.artifacts.manifests import (
    Backbone,
    Catalog,
    Head,
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
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import NotFound, Permanent, ShardCorrupt
from retrieval_core.evaluate.reconstruct import masks_of
from retrieval_core.explain.history import CatalogRow, History, find_history, find_row
from retrieval_core.item_ids.normal_form import spellings
from retrieval_core.item_ids.suggestions import did_you_mean
from retrieval_core.search.hits import Hit
from retrieval_core.search.query import Query
from retrieval_core.search.release import OpenRelease
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

K = 10
REMOVED = "removed from the store"

# A release does not find an item that is quarantined (unusable picture), unindexed (no vector) or absent.
State = Literal["indexed", "quarantined", "unindexed", "absent"]


class MaskUse(Value):
    """The mask or box of the picture; `reason` says why it is not trusted, so that the whole picture is used.

    `made_by` is the fingerprint of the segmenter or detector, `area` the share of the picture it keeps; `shown` says
    whether the release embeds masked or cropped pictures.
    """

    made_by: str
    area: float
    reason: str
    shown: bool


class LineageStep(Value):
    """One step from the picture to the index; `fingerprint` is "" if no artifact does it."""

    role: str
    what: str
    fingerprint: str = ""


class SelfSearch(Value):
    """Where a search with the item's own picture finds the item: its `place` from 1, None if not among the first ten.

    `first` is the item found first. `problem` says why there was no search.
    """

    place: int | None = None
    score: float | None = None
    first: str = ""
    problem: str = ""


class ReportedProblem(Value):
    """A problem of the item in the release's report; `score`, 0 to 1, says how certain it is."""

    problem: str
    evidence: str
    suggestion: str
    score: float


class Explanation(Value):
    """One item in a release.

    `row` is its row in the release's catalogue, or in the last one that holds the item. `picture` says what is wrong
    with the file of the picture now, "" if it is unchanged.
    """

    release: str
    created: str
    item_id: str
    state: State
    row: CatalogRow | None
    picture: str = ""
    mask: MaskUse | None = None
    lineage: tuple[LineageStep, ...] = ()
    shard: str = ""
    n_shards: int = 0
    itself: SelfSearch | None = None
    neighbours: tuple[Hit, ...] = ()
    problems: tuple[ReportedProblem, ...] = ()
    quarantine: tuple[Reject, ...] = ()
    history: History


class _Picture(NamedTuple):
    """The bytes of a file, None if they are not those that the catalogue read; `problem` says why not."""

    data: bytes | None
    problem: str = ""


def explain(store: Store, release: Release, item_id: str, settings: Settings) -> Explanation:
    """Explain an item in a release, with its history in all releases.

    Raises `NotFound`, with ids of similar spelling, if no release and no quarantine ledger knows the item;
    `ShardCorrupt`.
    """
    names = spellings(item_id)
    item_id = names[0]
    row, (history, last) = find_row(store, release.catalog, names), find_history(store, names)
    rejects = _rejects(store, release, names)
    if row is None and last is None and not rejects:
        raise _unknown(store, release, item_id)
    explanation = Explanation(
        release=release.fingerprint,
        created=release.created,
        item_id=item_id,
        state=_state(row, last),
        row=row or last,
        problems=tuple(_problems(store, release, names)),
        quarantine=rejects,
        history=history,
    )
    if row is None or row.content_id is None or row.status != "ok":
        return explanation
    picture = _read_picture(store, row)
    explanation = explanation.model_copy(
        update={"picture": picture.problem, "mask": _mask(store, release, row.content_id)}
    )
    opened = OpenRelease(store, release, settings)
    try:
        shard = opened.shard_of(item_id)
    except NotFound:
        return explanation
    return explanation.model_copy(
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
    """Return the stored mask of a picture, None if it has none or a vacuum removed it. Raises `ShardCorrupt`."""
    try:
        masks = masks_of(store, release)
    except NotFound:
        return None
    return read_masks(store, masks, [content_id]).get(content_id) if masks else None


def _state(row: CatalogRow | None, last: CatalogRow | None) -> State:
    """Return the state as the catalogues show it; an item that only a quarantine ledger knows was in none of them."""
    if row is None:
        return "absent" if last else "quarantined"
    return "unindexed" if row.status == "ok" else "quarantined"


def _unknown(store: Store, release: Release, item_id: str) -> NotFound:
    hint = did_you_mean(item_id, load_items(store, release.catalog.name, ["item_id"])["item_id"])
    return NotFound(
        f"no item {item_id!r} in release {release.fingerprint[:12]}, in any other of {store.url} or in quarantine{hint}"
    )


def _rejects(store: Store, release: Release, names: Sequence[str]) -> tuple[Reject, ...]:
    """Return the item's entries in the ledgers of the catalogue, the report and the store, the oldest first."""
    is_item = pl.col("item_id").is_in(names)
    tables = [
        read_rows(store, part, is_item)
        for part in Catalog.open(store, release.catalog).parts
        if part.key.endswith("/quarantine.parquet")
    ]
    if store.exists(LEDGER):
        tables.append(read_unsealed(store, LEDGER, is_item))
    rejects = [
        Reject(**{name: value for name, value in row.items() if value is not None})
        for table in tables
        for row in table.iter_rows(named=True)
    ]
    rejects += [reject for reject in _late_rejects(store, release) if reject.item_id in names]
    return tuple(sorted(dict.fromkeys(rejects), key=lambda reject: reject.last_seen))


def _late_rejects(store: Store, release: Release) -> list[Reject]:
    """Return the rejects in the release's report: only it has the pictures that became unreadable during the run."""
    report = Report.find(store, release.report.name)
    parts = [part for part in report.parts if part.key.endswith("/metrics.json")] if report else []
    try:
        documents = [json.loads(store.local_path(part.key, part.sha256).read_bytes()) for part in parts]
        return [Reject.model_validate(reject) for facts in documents for reject in facts["quarantine"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardCorrupt(f"{parts[0].key} does not list the quarantined pictures: {error}") from error


def _read_picture(store: Store, row: CatalogRow) -> _Picture:
    try:
        data = PictureReader(store).read(row.model_dump())
    except Permanent as error:
        return _Picture(None, f"cannot be read now: {error}")
    current = content_id(data)
    if current != row.content_id:
        return _Picture(None, f"is another file now, with the content id {current}")
    return _Picture(data)


def _mask(store: Store, release: Release, picture: str) -> MaskUse | None:
    row, maker = mask_row(store, release, picture), release.detector or release.segmenter
    if row is None or maker is None:
        return None
    is_applied = release.variant.view != "raw"
    return MaskUse(made_by=maker.name, area=row.area, reason=row.reason, shown=is_applied)


def _lineage(store: Store, release: Release) -> Iterator[LineageStep]:
    """Yield the steps from the picture to the index; a model that was removed from the store has only its name."""
    config, index = release.nightly_config(), IndexSet.open(store, release.index)
    if release.variant.view == "crop" and release.detector:
        yield LineageStep(role="crop", what=f"to the box of {config.crop.detector}", fingerprint=release.detector.name)
    elif release.variant.view == "masked" and release.segmenter:
        segmenter = Segmenter.find(store, release.segmenter.name)
        what = f"U-Net, validation IoU {segmenter.val_iou:.3f}" if segmenter else f"U-Net, {REMOVED}"
        yield LineageStep(role="mask", what=what, fingerprint=release.segmenter.name)
    else:
        yield LineageStep(role="background", what="as it is")
    backbone = Backbone.find(store, release.backbone.name)
    size = f", {backbone.size_px} px to {backbone.dim} dimensions" if backbone else f", {REMOVED}"
    what = f"{backbone.card if backbone else config.embed.backbone}, weights {config.embed.weights}{size}"
    yield LineageStep(role="backbone", what=what, fingerprint=release.backbone.name)
    if release.head and release.variant.boosted:
        head = Head.find(store, release.head.name)
        what = f"{head.input_dim} to {head.dim} dimensions" if head else REMOVED
        yield LineageStep(role="head", what=what, fingerprint=release.head.name)
    yield LineageStep(
        role="vectors", what=f"{release.variant}, {index.dim} dimensions", fingerprint=release.vectors.name
    )
    if release.reducer and index.candidate_dim != index.dim:
        reducer = Reducer.find(store, release.reducer.name)
        what = f"PCA to {index.candidate_dim} dimensions for the candidates{'' if reducer else f', {REMOVED}'}"
        yield LineageStep(role="reducer", what=what, fingerprint=release.reducer.name)
    what = f"{index.recipe}, rerank depth {index.rerank_depth}"
    yield LineageStep(role="index", what=what, fingerprint=index.fingerprint)


def _search_itself(opened: OpenRelease, item_id: str, picture: _Picture) -> SelfSearch:
    if picture.data is None:
        return SelfSearch(problem=f"its picture {picture.problem}")
    try:
        hits = opened.search(picture.data, K)
    except Permanent as error:
        return SelfSearch(problem=str(error))
    place = next((place for place, hit in enumerate(hits, 1) if hit.item_id == item_id), None)
    return SelfSearch(
        place=place, score=hits[place - 1].score if place else None, first=hits[0].item_id if hits else ""
    )


def _problems(store: Store, release: Release, names: Sequence[str]) -> Iterator[ReportedProblem]:
    """Yield the problems in the release's report; a pair of near-duplicates is listed once there, but concerns both."""
    report = Report.find(store, release.report.name)
    if report and (fixes := report.find_part("fixes.parquet")):
        of_item = pl.col("item_id").is_in(names) & (pl.col("problem") != "near_duplicate")
        for row in read_rows(store, fixes, of_item).iter_rows(named=True):
            yield ReportedProblem(**{name: row[name] for name in ReportedProblem.model_fields})
    if report and (pairs := report.find_part("near_duplicates.parquet")):
        of_item = pl.col("item_id").is_in(names) | pl.col("other_item_id").is_in(names)
        for row in read_rows(store, pairs, of_item).iter_rows(named=True):
            twin = row["other_item_id"] if row["item_id"] in names else row["item_id"]
            yield _near_duplicate(names[0], twin, row["similarity"])


def _near_duplicate(item_id: str, twin: str, similarity: float) -> ReportedProblem:
    return ReportedProblem(
        problem="near_duplicate",
        evidence=f"shows the same picture as {twin} (cosine {similarity:.3f}), which is not known as the same product",
        suggestion=f"one product for {item_id} and {twin}, or another picture for one of them",
        score=1.0,
    )
