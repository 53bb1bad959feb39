"""The commands that tell what a store knows: `vitrine report` and `vitrine explain`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from deployments.cli.command import Command, add_store, one_line, open_settings, print_answer
from deployments.cli.terminal import visible_lines
from retrieval_core.errors import BadConfig

RELEASE = "a release's name, the start of it, production or latest; default: production"


def add_reading(add: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add each command by `add(name, command, text)`."""
    report = add("report", _report, "the report of any release against any other")
    add_store(report)
    report.add_argument("--release", default="production", metavar="NAME", help=RELEASE)
    text = "another release, or none; default: production, and of production the release before"
    report.add_argument("--against", default="", metavar="NAME", help=text)
    report.add_argument("--out", type=Path, metavar="FILE", help="write a copy of the page there")
    explain = add("explain", _explain, "one item's story: picture, mask, lineage, neighbours, problems, history")
    add_store(explain)
    explain.add_argument("--item", required=True, metavar="ID", help="an item of the catalogue, also one that has left")
    explain.add_argument("--release", default="production", metavar="NAME", help=RELEASE)
    explain.add_argument("--out", type=Path, metavar="FILE", help="write the story there as a page with its pictures")


def _report(arguments: argparse.Namespace) -> int:
    from retrieval_core.evaluate.evaluation import assess_release
    from retrieval_core.evaluate.measure.golden_queries import check_golden
    from retrieval_core.evaluate.reconstruct import named_release, rival_of
    from retrieval_core.store.leases import shared_lease

    settings = open_settings(arguments)
    store = settings.open_store()
    release = named_release(store, arguments.release)
    rival = rival_of(store, release, arguments.against)
    config = release.nightly_config()
    check_golden(config.evaluate.golden)
    with shared_lease(store, "vitrine report"):
        report = assess_release(settings, release, rival, config.evaluate, config.gate).report
    page = report.part("report.html")
    if arguments.out:
        _write(arguments.out, store.local_path(page.key, page.sha256).read_bytes())
    document = {
        "release": release.fingerprint,
        "against": rival.fingerprint if rival else "",
        "report": report.fingerprint,
        "verdict": report.gate,
        "reason": report.gate_reason,
        "metrics": report.metrics,
        "page": f"{store.url}/{page.key}",
    }
    lines = [
        f"{report.gate:<10} {release.fingerprint[:12]} against {rival.fingerprint[:12] if rival else 'nobody'}",
        f"reason     {one_line(report.gate_reason)}",
        f"page       {document['page']}",
        *([f"copy       {arguments.out}"] if arguments.out else []),
    ]
    print_answer(arguments, document, visible_lines(lines))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from retrieval_core.evaluate.reconstruct import named_release
    from retrieval_core.explain.story import explain
    from retrieval_core.explain.words import story_lines

    settings = open_settings(arguments)
    store = settings.open_store()
    release = named_release(store, arguments.release)
    story = explain(store, release, arguments.item, settings)
    if arguments.out:
        from retrieval_core.explain.page import pictures_of, render_story

        _write(arguments.out, render_story(story, pictures_of(store, release, story)).encode())
    lines = [*story_lines(story), *([f"{'page':<11} {arguments.out}"] if arguments.out else [])]
    print_answer(arguments, story, visible_lines(lines))
    return 0


def _write(path: Path, data: bytes) -> None:
    """Raises `BadConfig` where nothing can be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadConfig(
            f"--out {path} cannot be written: {error.strerror}; name a file in a folder there is"
        ) from error
