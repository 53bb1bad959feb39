"""The commands that describe releases and items: `vitrine report` and `vitrine explain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli.command import JSON, STORE, Commands, add_command, open_settings, print_answer
from deployments.cli.terminal import one_line
from retrieval_core.artifacts.manifests import Report
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store

PAGE, FIX_LISTS = "report.html", ("fixes.html", "fixes.csv")
RELEASE = "a release's name, the start of it, production or latest; default: production"


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    text = "write the report of a release against another one"
    report = add_command(commands, "report", _report, text, JSON, STORE)
    report.add_argument("--release", default="production", metavar="NAME", help=RELEASE)
    text = "another release, or none; default: production, or for production the release before it"
    report.add_argument("--against", default="", metavar="NAME", help=text)
    text = "copy the page to this file, or with its fix lists into this folder"
    report.add_argument("--out", type=Path, metavar="PATH", help=text)
    text = "show an item's picture, mask, lineage, neighbours, problems and history"
    explain = add_command(commands, "explain", _explain, text, JSON, STORE)
    text = "an item of the catalogue, or one that was removed from it"
    explain.add_argument("--item", required=True, metavar="ID", help=text)
    explain.add_argument("--release", default="production", metavar="NAME", help=RELEASE)
    explain.add_argument("--out", type=Path, metavar="FILE", help="write it there as a page with pictures")


def _report(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts.releases import find_baseline, find_release
    from retrieval_core.evaluate.evaluation import evaluate_release
    from retrieval_core.evaluate.measure.golden_queries import check_golden
    from retrieval_core.store.leases import shared_lease

    settings = open_settings(arguments)
    store = settings.open_store()
    release = find_release(store, arguments.release)
    baseline = find_baseline(store, release, arguments.against)
    config = release.nightly_config()
    check_golden(config.evaluate.golden)
    with shared_lease(store, "vitrine report"):
        report = evaluate_release(settings, release, baseline, config.evaluate, config.gate).report
    page = report.part(PAGE)
    copies = _copy_pages(store, report, arguments.out) if arguments.out else []
    against = f"against {baseline.fingerprint[:12]}" if baseline else "without a baseline"
    document = {
        "release": release.fingerprint,
        "against": baseline.fingerprint if baseline else "",
        "report": report.fingerprint,
        "verdict": report.gate,
        "reason": report.gate_reason,
        "metrics": report.metrics,
        "page": f"{store.url}/{page.key}",
    }
    lines = [
        f"{report.gate:<10} {release.fingerprint[:12]} {against}",
        f"reason     {one_line(report.gate_reason)}",
        f"page       {document['page']}",
        *[f"copy       {copy}" for copy in copies],
    ]
    print_answer(arguments, document, lines)
    return 0


def _copy_pages(store: Store, report: Report, out: Path) -> list[Path]:
    """Copy the page to the file `out`, or the page and the fix lists that it links to into the folder `out`."""
    if out.is_dir():
        parts = {out / name: report.find_part(name) for name in (PAGE, *FIX_LISTS)}
    else:
        parts = {out: report.part(PAGE)}
    copies = {path: part for path, part in parts.items() if part}  # an older report has no fix lists
    for path, part in copies.items():
        _write(path, store.local_path(part.key, part.sha256).read_bytes())
    return list(copies)


def _explain(arguments: argparse.Namespace) -> int:
    from retrieval_core.artifacts.releases import find_release
    from retrieval_core.explain.explanation import explain
    from retrieval_core.explain.text import text_lines

    settings = open_settings(arguments)
    store = settings.open_store()
    release = find_release(store, arguments.release)
    explanation = explain(store, release, arguments.item, settings)
    if arguments.out:
        from retrieval_core.explain.page import read_pictures, render_page

        _write(arguments.out, render_page(explanation, read_pictures(store, release, explanation)).encode())
    lines = [*text_lines(explanation), *([f"{'page':<11} {arguments.out}"] if arguments.out else [])]
    print_answer(arguments, explanation, lines)
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadConfig(
            f"--out {path} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from error
