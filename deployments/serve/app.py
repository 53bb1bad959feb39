"""The search app: the page and the JSON API over the releases of a store. Importing this module imports Gradio."""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.exceptions import ServerFailedToStartError
from gradio.route_utils import CustomCORSMiddleware
from starlette.middleware import Middleware

from deployments.listening import BoundedBodies, bound_connections
from deployments.serve.api import endpoints
from deployments.serve.guard import MAX_BODIES_BYTES, UPLOADS_KEPT_S, Guard, max_body_bytes
from deployments.serve.metrics import Exporter
from deployments.serve.page import SearchPage
from deployments.serve.readiness import Health, wait_for_release
from deployments.serve.report_pages import ReportPages
from deployments.serve.service import MAX_PICTURE_BYTES, SearchService
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

STYLE = Path(__file__).with_suffix(".css")
# A picture that is pasted outside a text field is uploaded as if it had been dropped.
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

log = logging.getLogger("vitrine.app")


def serve(store: Store, settings: Settings, host: str, port: int, names: Sequence[str] = ()) -> None:
    """Answer on `http://host:port` until interrupted, to browsers that reach it as an IP address or one of `names`.

    Until something is published, a page says so. Raises `BadConfig` if the address cannot be used.
    """
    exporter = Exporter(store, settings)
    with _naming_address(host, port):
        wait_for_release(store, host, port, exporter)
    prefix = "vitrine-uploads-"
    with closing(SearchService(store, settings)) as service, tempfile.TemporaryDirectory(prefix=prefix) as uploads:
        app = build_app(service, Path(uploads))
        with _naming_address(host, port):
            launch(app, pages_beside(store, exporter), host, port, names)
        app.block_thread()


@contextmanager
def _naming_address(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, ServerFailedToStartError) as error:
        reason = "it is taken, or no address of this machine; give another --port or --host"
        raise BadConfig(f"cannot listen on {host}:{port}: {reason}") from error


def pages_beside(store: Store, exporter: Exporter) -> list[Middleware]:
    """Return what is served beside the app: its health, metrics, and the reports of the store."""
    return [Middleware(Health, exporter=exporter), Middleware(ReportPages, store=store)]


def launch(app: gr.Blocks, pages: Sequence[Middleware], host: str, port: int, names: Sequence[str] = ()) -> None:
    """Start answering in a thread, with `pages` beside the app. Raises what Gradio raises for an unusable address."""
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue=gr.themes.colors.stone,
        font=("system-ui", "-apple-system", "Segoe UI", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    middleware = [
        Middleware(BoundedBodies, max_bytes=max_body_bytes, max_total=MAX_BODIES_BYTES),
        Middleware(Guard, host=host, names=names, uploads=Path(app.GRADIO_CACHE)),
        *pages,
    ]
    # A waiting search keeps its body in memory.
    app.queue(default_concurrency_limit=8, max_size=32).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme.set(**THEME),
        css_paths=STYLE,
        head=PASTE,
        footer_links=["api"],
        max_file_size=MAX_PICTURE_BYTES,
        allowed_paths=[],
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        app_kwargs={"middleware": middleware},
    )
    bound_connections(app.server.config)
    _remove_cors(app.server_app)
    log.info("the search app listens on %s", app.local_url)


def _remove_cors(app: FastAPI) -> None:
    """Remove Gradio's outermost middleware that lets pages of every origin read answers, with the visitor's cookies."""
    cors: Any = CustomCORSMiddleware
    app.user_middleware = [middleware for middleware in app.user_middleware if middleware.cls is not cors]
    app.middleware_stack = app.build_middleware_stack()


def build_app(service: SearchService, uploads: Path) -> gr.Blocks:
    """Return the page and the endpoints of the API as one app, not started yet, with a folder for uploaded files."""
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read when the components are made
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings quote bytes of broken uploads
    app = _SafeBlocks(title="Vitrine", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S))
    with app:
        SearchPage(app, service)
        for name, endpoint in endpoints(service).items():
            gr.events.api(_with_messages(endpoint), api_name=name)
    return app


def _with_messages(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Make an endpoint pass the message of a `VitrineError` on to the caller."""

    @wraps(endpoint)
    def wrapped(*values: Any) -> Any:
        try:
            return endpoint(*values)
        except VitrineError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped


class _SafeBlocks(gr.Blocks):
    """Refuses URLs in place of uploaded files, which Gradio would fetch, and logs no value that a visitor sent."""

    async def process_api(self, *values: Any, **more: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*values, **more)
        except gr.Error:
            raise
        except Exception as error:  # Gradio would print its message, which may quote the request
            lines = "".join(traceback.format_tb(error.__traceback__))
            log.error("a request ended with %s, whose message may quote it:\n%s", type(error).__name__, lines)
            raise gr.Error("the request cannot be answered", print_exception=False) from None

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
