"""The search page: its Gradio components, and what happens between them.

Events pass plain values (`preprocess=False`): a picture reaches the search as the bytes of the uploaded file, and is
decoded in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import ValidationError

from deployments.serve import markup
from deployments.serve.api.problems import refused_values
from deployments.serve.api.requests import MAX_K, MAX_PICTURE_BYTES, SearchRequest, Unlike
from deployments.serve.fetching import fetch_picture
from deployments.serve.service import SearchService
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.errors import VitrineError
from retrieval_core.images import decode
from retrieval_core.search.query import MODES

NOTHING = "none"
FORGET_ITEM = '() => history.replaceState(null, "", location.pathname)'  # the page's address may name an item


class SearchPage:
    """Adds the components and events of the page to `app`, which must be the current Gradio context."""

    def __init__(self, app: gr.Blocks, service: SearchService) -> None:
        self._service = service
        self.header = gr.HTML(elem_id="header", apply_default_css=False)
        self.item = gr.State("")
        with gr.Row(elem_id="search-page"):
            with gr.Column(scale=1, min_width=320, elem_id="question"):
                self._add_fields()
            with gr.Column(scale=3, min_width=480):
                self.results = gr.HTML(elem_id="results", apply_default_css=False, js_on_load=markup.ON_LOAD)
        self._add_events(app)

    def _add_fields(self) -> None:
        self.picture = gr.Image(
            label="Picture", type="filepath", format="png", sources=["upload"], height=230, show_label=False,
            elem_id="picture", buttons=[], placeholder="Drop a picture, paste one, or click",
        )  # fmt: skip
        self.url = gr.Textbox(label="Address of a picture", placeholder="https://…", max_lines=1, elem_id="url")
        self.words = gr.Textbox(label="Words", placeholder="red dress", max_lines=1, elem_id="words", visible=False)
        self.where = gr.Textbox(
            label="Filter", placeholder="category=dress and colour=red", max_lines=1, elem_id="where"
        )
        self.button = gr.Button("Search", variant="primary", elem_id="search")
        with gr.Accordion("What to filter by", open=True):
            self.hints = gr.HTML(elem_id="hints", apply_default_css=False, js_on_load=markup.ON_LOAD)
        with gr.Accordion("Not like", open=False):
            self.unlike_picture = gr.Image(
                show_label=False, type="filepath", format="png", sources=["upload"], height=140, buttons=[],
                elem_id="unlike-picture", placeholder="A picture to move away from",
            )  # fmt: skip
            self.unlike_words = gr.Textbox(show_label=False, placeholder="words to move away from", visible=False)
        with gr.Accordion("How to search", open=False, elem_id="options"):
            self.k = gr.Slider(1, MAX_K, value=12, step=1, label="Hits", elem_id="k")
            self.all_items = gr.Checkbox(label="Every picture of a product", elem_id="all-items")
            self.collapse = gr.Checkbox(label="Every picture of a product, near-identical ones once")
            self.whole = gr.Checkbox(label="Leave my picture whole (no mask, no crop)")
            self.mode = gr.Radio(list(MODES), value=MODES[0], label="Among", visible=False)
            self.release = gr.Dropdown([releases.PRODUCTION], value=releases.PRODUCTION, label="Release")
            self.beside = gr.Dropdown([NOTHING], value=NOTHING, label="Beside it", elem_id="beside")

    def _add_events(self, app: gr.Blocks) -> None:
        fields = [
            self.picture, self.words, self.item, self.unlike_picture, self.unlike_words, self.where, self.k,
            self.all_items, self.collapse, self.whole, self.mode, self.release, self.beside,
        ]  # fmt: skip
        private: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
        search: dict[str, Any] = {
            "fn": self._search, "inputs": fields, "outputs": [self.header, self.results],
            "trigger_mode": "always_last", "show_progress": "minimal", "show_progress_on": self.results, **private,
        }  # fmt: skip
        gr.on(
            [
                self.button.click, self.words.submit, self.unlike_words.submit, self.where.submit, self.k.release,
                self.all_items.input, self.collapse.input, self.whole.input, self.mode.input, self.beside.input,
                self.unlike_picture.upload, self.unlike_picture.clear,
            ],
            **search,
        )  # fmt: skip
        by_release = [self.hints, self.words, self.unlike_words, self.mode]
        self.release.input(self._fit_fields, self.release, by_release, **private).then(**search)
        picture_changed = gr.on([self.picture.upload, self.picture.clear], lambda: "", None, self.item, **private)
        picture_changed.then(js=FORGET_ITEM).then(**search)
        fetched = [self.picture, self.url, self.item]
        self.url.submit(self._fetch, self.url, fetched, **private).success(**search)
        self.results.click(self._search_item, None, [self.item, self.picture, self.words], **private).then(**search)
        self.hints.click(self._add_filter, self.where, self.where, **private).then(**search)
        opened = [self.item, self.release, self.beside, self.where]
        loaded = app.load(self._read_address, None, opened, **private)
        loaded.then(self._fit_fields, self.release, by_release, **private)
        loaded.then(**search)

    def _search(self, *values: Any) -> tuple[str, str]:
        """Return header and results for the values of the fields."""
        *fields, name, beside = values
        try:
            request = _request(*fields)
            release = self._service.open(name)
            header = markup.header(release.release)
            if request.is_empty:
                examples = self._service.examples(release)
                uris = self._service.thumbnails(release, [example.item_id for example in examples])
                return header, markup.greeting(examples, uris, name)
            names = [name] if beside in (NOTHING, name) else [name, beside]
            return header, markup.results([self._answer(request, each) for each in names], "".join(request.texts))
        except VitrineError as error:
            return gr.skip(), markup.problem(str(error))

    def _answer(self, request: SearchRequest, name: str) -> markup.ShownAnswer:
        answer = self._service.search(request.model_copy(update={"release": name}))
        uris = self._service.thumbnails(answer.release, [hit.item_id for hit in answer.hits])
        return markup.ShownAnswer(name, answer, uris, self._service.query_pictures(answer.release, request))

    def _fetch(self, url: str) -> tuple[Any, str, str]:
        """Return picture, address and item after an address was entered."""
        try:
            return decode(fetch_picture(url.strip(), max_bytes=MAX_PICTURE_BYTES)), "", ""
        except VitrineError as error:
            raise gr.Error(str(error), title="Not fetched", print_exception=False) from error

    def _search_item(self, event: gr.EventData) -> tuple[str, None, str]:
        """Return item, picture and words after a click on an item."""
        return event.item, None, ""

    def _add_filter(self, where: str, event: gr.EventData) -> str:
        """Return the filter after a click on a value."""
        return f"{where.strip()} and {event.where}" if where.strip() else event.where

    def _fit_fields(self, name: str) -> tuple[Any, ...]:
        """Return the filter hints of a release, and which fields to show: words if it reads text, mode with classes."""
        try:
            release = self._service.open(name)
        except VitrineError:
            return (gr.skip(),) * 4
        words = gr.update(visible=self._service.reads_text(release))
        mode = gr.update(visible=release.release.classes is not None)
        return markup.hints(release.facets()), words, words, mode

    def _read_address(self, request: gr.Request) -> tuple[Any, ...]:
        """Return item, releases to choose from and filter as the page's address gives them."""
        parameters = request.query_params
        production = [("production, as it moves", releases.PRODUCTION)]
        choices = [(_label(release), release.fingerprint) for release in self._service.list_releases()]
        name = parameters.get("release", releases.PRODUCTION)
        release = gr.update(choices=[*production, *choices], value=name)
        beside = gr.update(choices=[NOTHING, *production, *choices], value=NOTHING)
        return parameters.get("item", ""), release, beside, parameters.get("where", "")


def _label(release: Release) -> str:
    """Return for example `0123abcd · 21 Nov 2026 · held`."""
    held = " · held" if release.gate == "held" else ""
    return f"{release.fingerprint[:8]} · {markup.created_text(release).partition(',')[0]}{held}"


def _request(
    picture: Any, words: str, item: str, unlike_picture: Any, unlike_words: str, where: str, k: float, *options: Any
) -> SearchRequest:
    all_items, collapse, whole, mode = options
    try:
        return SearchRequest(
            images=_uploaded(picture),
            texts=_typed(words),
            item_ids=_typed(item),
            unlike=Unlike(images=_uploaded(unlike_picture), texts=_typed(unlike_words)),
            where=where or "",
            k=k,
            all_items=all_items,
            collapse=collapse,
            whole=whole,
            mode=mode,
        )
    except ValidationError as error:
        raise refused_values(error.errors(), SearchRequest) from error


def _typed(text: str | None) -> tuple[str, ...]:
    return (text.strip(),) if text and text.strip() else ()


def _uploaded(payload: dict[str, Any] | None) -> tuple[bytes, ...]:
    """Return the bytes of an uploaded file; Gradio has checked that its path is that of an upload."""
    return (Path(payload["path"]).read_bytes(),) if payload else ()
