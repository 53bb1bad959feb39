"""The commands that search a release: `vitrine search`, `vitrine serve` and `vitrine app`."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deployments.cli.command import JSON, STORE, Commands, add_command, open_settings, print_answer
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from retrieval_core.search.hits import Hit

QUERY_OPTIONS = (
    ("image", "FILE", "a picture: a file or s3:// URI"),
    ("text", "WORDS", "words, if the backbone reads text"),
    ("item", "ID", "an item of the catalogue; it is not among its own hits"),
    ("unlike-image", "FILE", "a picture that hits should not resemble"),
    ("unlike-text", "WORDS", "words that hits should not resemble"),
)


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    search = add_command(commands, "search", _search, "find items by picture, text or item", JSON, STORE)
    for name, metavar, text in QUERY_OPTIONS:
        search.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=f"{text}; may be repeated")
    text = "only items that match, for example 'category=dress and price < 30'"
    search.add_argument("--where", default="", metavar="FILTER", help=text)
    hits = search.add_mutually_exclusive_group()
    text = "every item that is found; without it, the best of each product"
    hits.add_argument("--all-items", action="store_true", help=text)
    text = "every item, but of near-identical pictures of a product only the best"
    hits.add_argument("--collapse", action="store_true", help=text)
    text = "neither mask nor crop the query pictures, even if the release does so"
    search.add_argument("--whole", action="store_true", help=text)
    text = "classified: first the nearest items of a picture's likeliest classes"
    search.add_argument("--mode", choices=("nearest", "classified"), default="nearest", help=text)
    text = "no hits where it is less likely than this, 0 to 1, that one of the first five is relevant"
    search.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help=text)
    search.add_argument("-k", type=int, default=10, help="number of hits")
    search.add_argument("--release", default="production", help="the name of a release; default: production")
    search.set_defaults(extra="train", advice="nothing was changed")
    for name, about in (("serve", "answer searches over HTTP"), ("app", "the same with a page for the browser")):
        serve = add_command(commands, name, _serve, about, STORE)
        serve.set_defaults(extra="serve", ends_itself=True)
        _add_serve_options(serve)
        if name == "serve":
            serve.add_argument("--ui", action="store_true", help="serve the search page, too")
        else:
            serve.set_defaults(ui=True)


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    serve.add_argument("--port", type=int, default=7860, help="the port to listen on")
    text = "a host name by which clients reach the service, besides that of VITRINE_REPORT_URL; may be repeated"
    serve.add_argument("--name", action="append", default=[], metavar="HOST", help=text)
    text = "answer only requests with a token of this file, lines NAME SCOPES SHA256; docs/serving.md makes one"
    serve.add_argument("--token-file", type=Path, metavar="FILE", help=text)
    text = "an origin whose pages may call the service, such as https://shop.example; may be repeated"
    serve.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help=text)
    text = "requests a second of one token, or without tokens of one address; 0, the default: any number"
    serve.add_argument("--rate", type=float, default=0.0, metavar="N", help=text)
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes that answer; default: 1")
    text = "record neither searches nor what shoppers choose; by default both are, in the store"
    serve.add_argument("--no-feedback", action="store_true", help=text)
    text = "keep the pictures of queries in the store for so many days; 0, the default: not at all"
    serve.add_argument("--keep-query-pictures", type=float, default=0.0, metavar="DAYS", help=text)


def _search(arguments: argparse.Namespace) -> int:
    if not (arguments.image or arguments.text or arguments.item):
        raise BadConfig("nothing to search for: give --image, --text or --item")
    if arguments.mode != "nearest" and not arguments.image:
        raise BadConfig(f"--mode {arguments.mode} searches by picture; give --image, or leave --mode out")
    from retrieval_core.search.query import Query
    from retrieval_core.search.release import open_release

    query = Query(
        images=tuple(arguments.image),
        texts=tuple(arguments.text),
        item_ids=tuple(arguments.item),
        unlike_images=tuple(arguments.unlike_image),
        unlike_texts=tuple(arguments.unlike_text),
        whole=arguments.whole,
    )
    settings = open_settings(arguments)
    release = open_release(settings.open_store(), arguments.release, settings)
    hits = release.search(
        query,
        arguments.k,
        mode=arguments.mode,
        where=arguments.where,
        collapse=arguments.collapse,
        by_product=not (arguments.all_items or arguments.collapse),
        min_confidence=arguments.min_confidence,
    )
    document = {"release": release.release.fingerprint, "hits": [hit.model_dump() for hit in hits]}
    no_match = [f"no match: nothing relevant is found with a confidence of {arguments.min_confidence:g}"]
    print_answer(arguments, document, map(_line, hits) if hits or not arguments.min_confidence else no_match)
    return 0


def _line(hit: Hit) -> str:
    from retrieval_core.fields.values import shown

    told = [hit.category or ", ".join(hit.labels)]
    told += [shown(hit.fields[name]) for name in ("title", "price", "link") if name in hit.fields]
    return f"{hit.score:6.3f}  {hit.item_id:<24} {'  '.join(filter(None, told))}"


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.workers < 1 or arguments.rate < 0:
        raise BadConfig("--workers is at least 1 and --rate at least 0")
    if arguments.keep_query_pictures < 0 or (arguments.keep_query_pictures and arguments.no_feedback):
        raise BadConfig("--keep-query-pictures is at least 0, and goes without --no-feedback")
    for origin in arguments.allow_origin:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise BadConfig(f"--allow-origin {origin!r} is no origin; expected one like https://shop.example")
    # Many searches run at the same time. In each, several threads would mostly wait for each other: on two busy cores,
    # a search by an item then takes 15 ms of processor time instead of 1 ms.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from deployments.serve.api.logs import log_json_lines
    from deployments.serve.app import ServeOptions
    from deployments.serve.server import serve

    log_json_lines()
    settings = open_settings(arguments)
    public = urlsplit(settings.report_url).hostname  # the same service, as browsers see it
    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        names=(*arguments.name, public) if public else tuple(arguments.name),
        origins=tuple(arguments.allow_origin),
        token_file=arguments.token_file,
        rate=arguments.rate,
        has_page=arguments.ui,
        records=not arguments.no_feedback,
        picture_days=arguments.keep_query_pictures,
    )
    serve(settings, options, arguments.workers)
    return 0
