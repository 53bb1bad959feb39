"""The command line: `vitrine run`, `plan`, `backfill`, `train`, `compare`, `search`, `report`, `explain`, `status`,
`verify`, `repair`, `vacuum`, `promote`, `rollback` and `demo`.

With `--json` a command prints one JSON document on stdout and nothing else there; logs go to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage or config, 3 the gate held the release back.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.cli.backfill import TEXT as BACKFILL
from deployments.cli.backfill import add_backfill, as_text
from deployments.cli.command import Command, add_store, named_source, one_line, open_settings, print_answer
from deployments.cli.maintenance import add_keeping
from deployments.cli.report import add_reading
from deployments.cli.terminal import visible, visible_lines
from deployments.cli.train import add_train
from retrieval_core.errors import BadConfig, VitrineError

if TYPE_CHECKING:
    from retrieval_core.settings import Settings
    from retrieval_core.store.base import Store

EXIT_HELD = 3
DEMO_PRODUCTS, DEMO_VIEWS = 260, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    _quiet_environment()
    try:
        return int(arguments.command(arguments))
    except VitrineError as error:
        print(f"vitrine: {visible(one_line(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("vitrine: interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _quiet_environment() -> None:
    """Nothing leaves the machine unasked; Prefect's server gets the time that a fresh home or a restart needs."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(name, value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vitrine", description="Keeps a product catalogue searchable by picture.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return sub

    demo = add("demo", _demo, "draw a sample catalogue, run everything on it, say where the report is")
    demo.add_argument("--dir", type=Path, default=Path("vitrine-demo"), help="folder for catalogue and store")
    demo.add_argument("--products", type=int, default=DEMO_PRODUCTS, help="products to draw, four pictures each")

    for name, command, text in (
        ("run", _run, "run the nightly flow: exit code 3 when the gate holds the release back"),
        ("plan", _plan, "what a run would do, before it does"),
        ("compare", _compare, "train and embed the variants of a comparison's config, and print them side by side"),
    ):
        sub = add(name, command, text)
        add_store(sub)
        sub.add_argument("--source", help="KIND:URI, for example folder:photos or table:items.csv")
        sub.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="set one config value")

    add_backfill(commands.add_parser("backfill", help=BACKFILL, description=BACKFILL), _backfill, add_store)
    text = "train a backbone, the segmenter or the head on a catalogue"
    add_train(commands.add_parser("train", help=text, description=text), _train, add_store)

    search = add("search", _search, "find items by picture, text or item")
    add_store(search)
    for name, metavar, what in (
        ("image", "FILE", "a picture: a file or s3:// URI"),
        ("text", "WORDS", "words, where the backbone reads text"),
        ("item", "ID", "an item of the catalogue; it is left out of its own hits"),
        ("unlike-image", "FILE", "a picture that hits should not be like"),
        ("unlike-text", "WORDS", "words that hits should not be like"),
    ):
        search.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=f"{what}; may be repeated")
    search.add_argument(
        "--where", default="", metavar="FILTER", help="for example 'category=dress and colour in (red, blue)'"
    )
    search.add_argument("--collapse", action="store_true", help="of pictures that show a product alike, only the best")
    search.add_argument("--whole", action="store_true", help="leave pictures whole where the release masks or crops")
    search.add_argument(
        "--mode",
        choices=("nearest", "classified"),
        default="nearest",
        help="classified: first the nearest among the items of a picture's likeliest classes",
    )
    search.add_argument("-k", type=int, default=10, help="number of hits")
    search.add_argument("--release", default="production", help="a release's name instead of production")

    text = "a page in the browser and a JSON API to search with"
    app = commands.add_parser("app", help=text, description=text)
    app.set_defaults(command=_app)
    add_store(app)
    app.add_argument("--host", default="127.0.0.1", help="the address to listen on; there is no login")
    app.add_argument("--port", type=int, default=7860, help="the port to listen on")

    add_reading(add)
    add_keeping(add)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    return _run_nightly(arguments, named_source(arguments), open_settings(arguments), arguments.set)


def _run_nightly(arguments: argparse.Namespace, source: str, settings: Settings, overrides: list[str]) -> int:
    from retrieval_core.config import NightlyConfig
    from retrieval_core.ingest.sources.registry import open_source

    config = NightlyConfig.load(getattr(arguments, "config", None), overrides)
    open_source(source)
    check_before_run(config, settings)
    from flows.nightly import nightly

    _start_prefect()
    summary = nightly(source, settings, config)
    print_answer(arguments, summary, _run_text(summary.model_dump()))
    return 0 if summary.gate == "published" else EXIT_HELD


def _backfill(arguments: argparse.Namespace) -> int:
    from retrieval_core.config import NightlyConfig
    from retrieval_core.ingest.selection import Choice
    from retrieval_core.ingest.sources.registry import open_source

    asked = {"where": arguments.where, "item_ids": tuple(arguments.item)}
    asked |= {"since": arguments.since, "until": arguments.until}
    config = NightlyConfig.load(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    Choice(**asked).period()
    open_source(source)
    check_before_run(config, settings)
    from flows.backfill import backfill

    _start_prefect()
    summary = backfill(
        source,
        settings,
        config,
        **asked,
        through=arguments.through,
        pictures_per_second=arguments.pictures_per_second,
    )
    print_answer(arguments, summary, as_text(summary.model_dump()))
    return 0


def _start_prefect() -> None:
    from deployments.server import start_guarded_server

    start_guarded_server()
    logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """An error raised on purpose is one line; its traceback would bury it."""
    if record.exc_info and isinstance(record.exc_info[1], VitrineError):
        record.exc_info = None
    return True


def _run_text(run: dict[str, Any]) -> str:
    catalog, seconds = run["catalog"], run["seconds"]
    lines = [
        f"release    {run['release'][:12]}  {run['gate']}: {run['reason']}",
        "catalogue  " + ", ".join(f"{count} {name}" for name, count in catalog.items()),
        f"work       {run['masked']} masked, {run['embedded']} embedded",
        f"trained    {', '.join(run['trained']) or 'nothing'}",
        "seconds    " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()),
    ]
    lines += [f"{name:<28}{value:.4f}" for name, value in run["metrics"].items() if "/" not in name]
    return "\n".join([*lines, f"report     {run['report']}"])


def check_before_run(config: Any, settings: Settings) -> None:
    """Find what would fail late before anything is read: a store that refuses writes, a cluster that is not there,
    weights that cannot be had.

    Raises `BadConfig`, `StoreNotWritable`, `WeightsInvalid`, `WeightsUnavailable`.
    """
    from flows.shards import check_runner
    from retrieval_core.artifacts.backbone_names import named_backbone
    from retrieval_core.artifacts.fingerprints import (
        classifier_fingerprint,
        detector_fingerprint,
    )
    from retrieval_core.artifacts.manifests import Backbone, Classifier, Detector
    from retrieval_core.embed.backbones import backbone_fingerprint, backbone_preprocess, load_backbone, parse_weights
    from retrieval_core.embed.classes import backbone_config, load_classifier
    from retrieval_core.mask.detect import load_detector

    weights = parse_weights(config.embed.weights)
    store = settings.open_store()
    if named_backbone(store, config.embed) is None:
        backbone_preprocess(config.embed)
    _probe(store)
    check_runner(settings)
    if weights.kind in ("file", "pretrained") and Backbone.find(store, backbone_fingerprint(config.embed)) is None:
        load_backbone(config.embed)
    if config.detects and Detector.find(store, detector_fingerprint(config.crop)) is None:
        load_detector(config.crop)
    classifier = backbone_config(config.classify)
    if config.classify.enabled and named_backbone(store, classifier) is None:
        name = classifier_fingerprint(backbone_fingerprint(classifier))
        if Classifier.find(store, name) is None:
            load_classifier(config.classify)


def _probe(store: Store) -> None:
    """Raises `StoreNotWritable`."""
    store.put("runs/_probe", b"")
    store.delete("runs/_probe")


def _train(arguments: argparse.Namespace) -> int:
    from retrieval_core.ingest.sources.registry import open_source

    job = arguments.job(arguments)
    source, settings = named_source(arguments), open_settings(arguments)
    open_source(source)
    if job.checked:
        check_before_run(job.checked, settings)
    _probe(settings.open_store())
    _start_prefect()
    summary = job.run(source, settings)
    print_answer(arguments, summary, job.as_text(summary))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from retrieval_core.evaluate.compare.check import check_weights
    from retrieval_core.evaluate.compare.compose import load_comparison
    from retrieval_core.ingest.sources.registry import open_source

    if arguments.config is None:
        raise BadConfig(
            "no comparison named: give --config FILE.toml, for example configs/compare/retrieval_report.toml"
        )
    config = load_comparison(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    store = settings.open_store()
    open_source(source)
    _probe(store)
    from flows.compare import compare
    from flows.shards import check_runner

    check_runner(settings)
    check_weights(config, store)

    _start_prefect()
    summary = compare(source, settings, config)
    heading = f"## {summary.title}\n\n{summary.about}\n"
    print_answer(arguments, summary, "\n".join([heading, *summary.tables, f"Report: {summary.report}"]))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from retrieval_core.settings import Settings

    folder = arguments.dir
    source = f"synthetic:{folder / 'catalog'}?products={arguments.products}&views={DEMO_VIEWS}"
    settings = Settings.load(store=str(folder / "store"))
    code = _run_nightly(arguments, source, settings, DEMO_CONFIG)
    if not arguments.json:
        query = min((folder / "catalog" / "images").iterdir())
        print(f"\nsearch it  {sys.argv[0]} search --store {folder / 'store'} --image {query} -k 5")
    return code


# Pictures are 256 px and weights cannot be fetched on every machine, so the demo stays small and learns what it can.
DEMO_CONFIG = ["embed.weights=random:0", "embed.size_px=128", "mask.size_px=64", "mask.max_epochs=3"]


def _plan(arguments: argparse.Namespace) -> int:
    from retrieval_core.config import NightlyConfig
    from retrieval_core.maintenance.plan import forecast

    settings = open_settings(arguments)
    config = NightlyConfig.load(arguments.config, arguments.set)
    document = forecast(named_source(arguments), settings.open_store(), config)
    print_answer(arguments, document, document.as_text())
    return 0


def _search(arguments: argparse.Namespace) -> int:
    if not (arguments.image or arguments.text or arguments.item):
        raise BadConfig("nothing to search for: give --image, --text or --item")
    if arguments.mode != "nearest" and not arguments.image:
        raise BadConfig(f"--mode {arguments.mode} searches by picture; give --image, or leave --mode out")
    from retrieval_core.search.release import Query, open_release

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
    hits = release.search(query, arguments.k, mode=arguments.mode, where=arguments.where, collapse=arguments.collapse)
    document = {"release": release.release.fingerprint, "hits": [hit.model_dump() for hit in hits]}
    lines = [f"{hit.score:6.3f}  {hit.item_id:<24} {hit.category or ', '.join(hit.labels)}" for hit in hits]
    print_answer(arguments, document, visible_lines(lines))
    return 0


def _app(arguments: argparse.Namespace) -> int:
    try:
        from deployments.serve.app import serve
    except ModuleNotFoundError as error:
        raise BadConfig(f"the app needs {error.name}: pip install 'vitrine[serve]'") from error
    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)
    settings = open_settings(arguments)
    serve(settings.open_store(), settings, arguments.host, arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
