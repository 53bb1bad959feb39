"""The search page in the app of the service. Importing this module imports Gradio."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from deployments.serve.api.requests import MAX_PICTURE_BYTES
from deployments.serve.guard import UPLOADS_KEPT_S
from deployments.serve.page import SearchPage
from deployments.serve.service import SearchService

STYLE = Path(__file__).with_name("page.css")
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

log = logging.getLogger("vitrine.serve")


def mount_page(app: FastAPI, service: SearchService, uploads: Path, host: str, port: int) -> None:
    """Serve the page at the root of an app, with a folder for uploaded files.

    Gradio would let pages of every origin read its answers, unless the app has a `CORSMiddleware`.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read when the components are made
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings quote bytes of broken uploads
    page = _SafeBlocks(title="Vitrine", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S))
    with page:
        SearchPage(page, service)
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue=gr.themes.colors.stone,
        font=("system-ui", "-apple-system", "Segoe UI", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    gr.mount_gradio_app(
        app,
        page.queue(default_concurrency_limit=8, max_size=32),  # a waiting search keeps its body in memory
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MAX_PICTURE_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme.set(**THEME),
        css_paths=STYLE,
        head=PASTE,
    )
    page.has_launched = True  # without it, Gradio does not check either that a file is an upload


class _SafeBlocks(gr.Blocks):
    """Takes no file but an upload, as Gradio would fetch addresses, and logs no value that a visitor sent."""

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
        _refuse_other_files(inputs, Path(self.GRADIO_CACHE).resolve())
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def _refuse_other_files(value: Any, uploads: Path) -> None:
    """Refuse, wherever in a value, a file that is not one of the uploads, and an address in its place."""
    if isinstance(value, dict):
        path = value.get("path")
        if path and ("://" in str(path) or not Path(str(path)).resolve().is_relative_to(uploads)):
            raise gr.Error("a file is uploaded, not named by its address", print_exception=False)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _refuse_other_files(inner, uploads)
