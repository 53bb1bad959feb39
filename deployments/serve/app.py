"""The search app: a page and a JSON API over the releases of a store. Importing this module imports Gradio.

Gradio's events pass plain values here (`preprocess=False`), so that pictures reach the search as the bytes they were
uploaded as, through the one decode path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import ServerFailedToStartError
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serve import page as page
from deployments.serve.api import endpoints
from deployments.serve.desk import MAX_BYTES, MAX_K, Asked, Desk, published_at
from deployments.serve.fetching import fetch_picture
from deployments.serve.reports import Reports
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.images import decode
from retrieval_core.search.release import MODES
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

UPLOADS_KEPT_S = 3_600
NOTHING = "none"
STYLE = Path(__file__).with_suffix(".css")
# Nothing on the page comes from, or goes to, anywhere else; Gradio's own code is in the page and made as it runs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
NOT_FOUND = PlainTextResponse("not found", status_code=404)
# A picture pasted anywhere but into a field is taken as if it had been dropped.
PASTE = """<script>
document.addEventListener("paste", (event) => {
  const files = event.clipboardData ? event.clipboardData.files : [];
  if (!files.length || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const input = document.querySelector("#picture input[type=file]");
  if (!input) return;
  input.files = files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
});
</script>"""

FORGET = '() => history.replaceState(null, "", location.pathname)'  # the item that the page's address names

log = logging.getLogger("vitrine.app")


def serve(store: Store, settings: Settings, host: str, port: int) -> None:
    """Answer on `http://host:port` until interrupted. Raises `NotFound` where nothing is published, `BadConfig`."""
    with closing(Desk(store, settings)) as desk:
        app = build_app(desk)
        try:
            launch(app, store, host, port)
        except (OSError, OverflowError, ServerFailedToStartError) as error:
            reason = "it is taken, or no address of this machine; give another --port or --host"
            raise BadConfig(f"cannot listen on {host}:{port}: {reason}") from error
        app.block_thread()


def launch(app: gr.Blocks, store: Store, host: str, port: int) -> None:
    """Start answering in a thread, with the reports of `store` beside the app.

    Raises as Gradio does where the address cannot be had.
    """
    neutral = gr.themes.colors.stone
    fonts = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue=neutral,
        font=fonts,
        font_mono=("ui-monospace", "monospace"),
    )
    app.queue(default_concurrency_limit=8, max_size=128).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme.set(**THEME),
        css_paths=STYLE,
        head=PASTE,
        footer_links=["api"],
        max_file_size=MAX_BYTES,
        allowed_paths=[],
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(_Guard), Middleware(Reports, store=store)]},
    )
    log.info("the search app listens on %s", app.local_url)


THEME = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_100",
    "background_fill_secondary_dark": "*neutral_800",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "*neutral_800",
    "block_background_fill": "white",
    "block_background_fill_dark": "*neutral_900",
    "block_border_width": "1px",
    "block_radius": "12px",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_title_text_weight": "500",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_border_color": "*primary_700",
    "button_primary_border_color_dark": "*primary_600",
    "button_primary_text_color": "white",
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_900",
    "input_border_width": "1px",
    "input_border_color": "*neutral_200",
    "input_border_color_dark": "*neutral_700",
    "body_text_color_subdued": "*neutral_500",
    "body_text_color_subdued_dark": "*neutral_400",
    "color_accent": "*primary_700",
}


def build_app(desk: Desk) -> gr.Blocks:
    """The page and the endpoints."""
    app = _App(title="Vitrine", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S))
    with app:
        _Page(app, desk)
        for name, endpoint in endpoints(desk).items():
            gr.events.api(_in_words(endpoint), api_name=name)
    return app


class _App(gr.Blocks):
    """Gradio fetches a URL that stands where an uploaded file is expected; here nothing but `fetching` fetches."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        _refuse_remote_files(inputs)
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def _refuse_remote_files(value: Any) -> None:
    if isinstance(value, dict):
        if "://" in str(value.get("path", "")):
            raise gr.Error("a file is uploaded, not named by its address", print_exception=False)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _refuse_remote_files(inner)


class _Guard:
    """ASGI middleware: `HEADERS` on every answer, and none of Gradio's routes that fetch what their path names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        path = scope.get("path", "")
        app = NOT_FOUND if "://" in path or "proxy=" in path else self._app
        await app(scope, receive, send_more)


class _Page:
    """The components of the page and what happens between them."""

    def __init__(self, app: gr.Blocks, desk: Desk) -> None:
        self._desk = desk
        self.header = gr.HTML(elem_id="header", apply_default_css=False)
        self.item = gr.State("")
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=1, min_width=320, elem_id="question"):
                self._question()
            with gr.Column(scale=3, min_width=480):
                self.results = gr.HTML(elem_id="results", apply_default_css=False, js_on_load=page.ON_LOAD)
        self._wire(app)

    def _question(self) -> None:
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
            self.hints = gr.HTML(elem_id="hints", apply_default_css=False, js_on_load=page.ON_LOAD)
        with gr.Accordion("Not like", open=False):
            self.unlike_picture = gr.Image(
                show_label=False, type="filepath", format="png", sources=["upload"], height=140, buttons=[],
                elem_id="unlike-picture", placeholder="A picture to move away from",
            )  # fmt: skip
            self.unlike_words = gr.Textbox(show_label=False, placeholder="words to move away from", visible=False)
        with gr.Accordion("How to search", open=False, elem_id="options"):
            self.k = gr.Slider(1, MAX_K, value=12, step=1, label="Hits", elem_id="k")
            self.collapse = gr.Checkbox(label="One hit for near-identical pictures of a product")
            self.whole = gr.Checkbox(label="Leave my picture whole (no mask, no crop)")
            self.mode = gr.Radio(list(MODES), value=MODES[0], label="Among", visible=False)
            self.release = gr.Dropdown([releases.PRODUCTION], value=releases.PRODUCTION, label="Release")
            self.beside = gr.Dropdown([NOTHING], value=NOTHING, label="Beside it", elem_id="beside")

    def _wire(self, app: gr.Blocks) -> None:
        asked = [
            self.picture, self.words, self.item, self.unlike_picture, self.unlike_words, self.where, self.k,
            self.collapse, self.whole, self.mode, self.release, self.beside,
        ]  # fmt: skip
        private: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
        found: dict[str, Any] = {
            "fn": self._search, "inputs": asked, "outputs": [self.header, self.results],
            "trigger_mode": "always_last", "show_progress": "minimal", "show_progress_on": self.results, **private,
        }  # fmt: skip
        gr.on(
            [
                self.button.click, self.words.submit, self.unlike_words.submit, self.where.submit, self.k.release,
                self.collapse.input, self.whole.input, self.mode.input, self.beside.input,
                self.unlike_picture.upload, self.unlike_picture.clear,
            ],
            **found,
        )  # fmt: skip
        about = [self.hints, self.words, self.unlike_words, self.mode]
        self.release.input(self._about, self.release, about, **private).then(**found)
        other = gr.on([self.picture.upload, self.picture.clear], lambda: "", None, self.item, **private)
        other.then(js=FORGET).then(**found)
        fetched = [self.picture, self.url, self.item]
        self.url.submit(self._fetch, self.url, fetched, **private).success(**found)
        self.results.click(self._more_like, None, [self.item, self.picture, self.words], **private).then(**found)
        self.hints.click(self._narrow, self.where, self.where, **private).then(**found)
        opened = [self.item, self.release, self.beside, self.where]
        loaded = app.load(self._open, None, opened, **private)
        loaded.then(self._about, self.release, about, **private)
        loaded.then(**found)

    def _search(self, *values: Any) -> tuple[str, str]:
        """Header and results of what the page's fields ask."""
        *fields, name, beside = values
        try:
            asked = _asked(*fields)
            release = self._desk.open(name)
            head = page.header(release.release)
            if asked.is_empty:
                examples = self._desk.examples(release)
                uris = self._desk.thumbnails(release, [example.image_uri for example in examples])
                return head, page.greeting(examples, uris, name)
            names = [name] if beside in (NOTHING, name) else [name, beside]
            found = [self._found(asked, each) for each in names]
            return head, page.results(found, asked.text)
        except VitrineError as error:
            return gr.skip(), page.problem(str(error))

    def _found(self, asked: Asked, name: str) -> page.Found:
        answer = self._desk.ask(asked, name)
        uris = self._desk.thumbnails(answer.release, [hit.image_uri for hit in answer.hits])
        return page.Found(name, answer, uris, self._desk.pictures(answer.release, asked))

    def _fetch(self, url: str) -> tuple[Any, str, str]:
        """Picture, address and item after an address was entered."""
        try:
            return decode(fetch_picture(url.strip(), max_bytes=MAX_BYTES)), "", ""
        except VitrineError as error:
            raise gr.Error(str(error), title="Not fetched", print_exception=False) from error

    def _more_like(self, event: gr.EventData) -> tuple[str, None, str]:
        """Item, picture and words after a click on an item."""
        return event.item, None, ""

    def _narrow(self, where: str, event: gr.EventData) -> str:
        """The filter after a click on one of its values."""
        return f"{where.strip()} and {event.where}" if where.strip() else event.where

    def _about(self, name: str) -> tuple[Any, ...]:
        """What depends on the release: hints for filters, and whether it reads words and knows classes."""
        try:
            release = self._desk.open(name)
        except VitrineError:
            return (gr.skip(),) * 4
        words = gr.update(visible=self._desk.reads_text(release))
        return page.hints(release.columns()), words, words, gr.update(visible=release.release.classes is not None)

    def _open(self, request: gr.Request) -> tuple[Any, ...]:
        """Item, releases and filter of the page's address."""
        given = request.query_params
        choices = [(_label(release), release.fingerprint) for release in self._desk.listed()]
        name = given.get("release", releases.PRODUCTION)
        production = [("production, as it moves", releases.PRODUCTION)]
        chosen = gr.update(choices=[*production, *choices], value=name)
        beside = gr.update(choices=[NOTHING, *production, *choices], value=NOTHING)
        return given.get("item", ""), chosen, beside, given.get("where", "")


def _label(release: Release) -> str:
    held = " · held" if release.gate == "held" else ""
    return f"{release.fingerprint[:8]} · {published_at(release).partition(',')[0]}{held}"


def _asked(
    picture: Any, words: str, item: str, unlike_picture: Any, unlike_words: str, where: str, k: float, *how: Any
) -> Asked:
    collapse, whole, mode = how
    return Asked.of(
        picture=_uploaded(picture),
        text=(words or "").strip(),
        item=item,
        unlike_picture=_uploaded(unlike_picture),
        unlike_text=(unlike_words or "").strip(),
        where=where or "",
        k=k,
        collapse=collapse,
        whole=whole,
        mode=mode,
    )


def _uploaded(payload: dict[str, Any] | None) -> bytes:
    """The bytes of an uploaded file; Gradio has made sure that its path is one of an upload."""
    return Path(payload["path"]).read_bytes() if payload else b""


def _in_words(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, whose errors raised on purpose reach the caller as their message."""

    @wraps(endpoint)
    def speaking(*values: Any) -> Any:
        try:
            return endpoint(*values)
        except VitrineError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return speaking
