"""Fitted models that later runs reuse: the sealed one, else production's while it still serves, else a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Fitted, Head, Reducer, Ref, Segmenter
from retrieval_core.artifacts.mapped_rows import KeyIndex
from retrieval_core.errors import NotFound
from retrieval_core.store.base import Store

Model = TypeVar("Model", Segmenter, Head, Reducer)


class FitQuestion(NamedTuple):
    """What a model is fitted for: the name it is sealed under, and the config and parents that it depends on.

    `parents` maps roles to fingerprints; "catalog" is the catalogue to fit on. A model of another catalogue serves
    while at most the share `refit_after_change` (0 to 1) of the items has changed since.
    """

    fingerprint: str
    config: dict[str, Any]
    parents: dict[str, str]
    refit_after_change: float


@overload
def fit_or_reuse(
    store: Store, kind: type[Model], question: FitQuestion, fit: Callable[[], Model], reuse_any: bool = False
) -> Fitted: ...
@overload
def fit_or_reuse(
    store: Store, kind: type[Model], question: FitQuestion, fit: Callable[[], Model | None], reuse_any: bool = False
) -> Fitted | None: ...
def fit_or_reuse(
    store: Store, kind: type[Model], question: FitQuestion, fit: Callable[[], Model | None], reuse_any: bool = False
) -> Fitted | None:
    """Return the sealed model of a question, else production's while it still serves, else a new one of `fit`, sealed.

    `reuse_any` takes production's model whatever it was fitted on, for a source that can fit no other. Return None
    when `fit` does.
    """
    model = kind.find(store, question.fingerprint) or _production_model(store, kind, question, reuse_any)
    if model:
        return Fitted(ref=model.ref, trained=False)
    model = fit()
    return Fitted(ref=model.seal(store).ref, trained=True) if model else None


def _production_model(store: Store, kind: type[Model], question: FitQuestion, reuse_any: bool) -> Model | None:
    refs = [ref for ref in _models_of_production(store) if ref.kind == kind.__name__]
    models = (kind.open(store, ref) for ref in refs)
    return next((model for model in models if reuse_any or still_serves(store, model, question)), None)


def _models_of_production(store: Store) -> list[Ref]:
    """The models of production, or of the latest release where nothing is published."""
    release = releases.read_reference(store)
    return [ref for ref in (release.segmenter, *release.heads, release.reducer) if ref] if release else []


def still_serves(store: Store, model: Segmenter | Head | Reducer, question: FitQuestion) -> bool:
    """Return whether a model that was fitted on an earlier catalogue may be used for the one of `question`.

    It may when config and parents other than the catalogue are the same, and no more of the items than
    `question.refit_after_change` have changed since. It may not when the earlier catalogue is no longer in the store.
    """
    same_parents = all(model.parents.get(role) == name for role, name in question.parents.items() if role != "catalog")
    if model.config != question.config or not same_parents:
        return False
    columns = ["item_id", "content_id"]
    try:
        previous = load_items(store, model.parents["catalog"], columns)
    except NotFound:
        return False
    current = load_items(store, question.parents["catalog"], columns)
    return changed_fraction(previous, current) <= question.refit_after_change


def changed_fraction(previous: pl.DataFrame, current: pl.DataFrame) -> float:
    """Return the share of items, of the larger catalogue, that were added or removed or show another picture."""
    key = ["item_id", "content_id"]
    n_same = int((KeyIndex(previous.select(key)).first(current.select(key)) >= 0).sum())
    return 1 - n_same / max(previous.height, current.height, 1)
