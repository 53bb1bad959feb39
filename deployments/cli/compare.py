"""`vitrine compare`: variants of a config side by side on the same queries."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli.command import (
    JSON,
    STORE_ADDRESS,
    VERBOSE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.prefect_server import start_prefect


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    text = "train and embed the variants that a config lists, and print them side by side"
    comparison = add_command(commands, "compare", _compare, text, JSON, VERBOSE, STORE_ADDRESS, source_options())
    text = "the comparison, for example configs/compare/retrieval_report.toml"
    comparison.add_argument("--config", type=Path, metavar="FILE", required=True, help=text)


def _compare(arguments: argparse.Namespace) -> int:
    from flows.compare import compare
    from flows.preflight import checked_ahead
    from retrieval_core.evaluate.compare.compose import load_comparison
    from tasks.preflight import check_before_comparison

    config = load_comparison(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    with checked_ahead(check_before_comparison, settings, source, config):
        start_prefect(settings, arguments.verbose)
        summary = compare(source, settings, config)
    paragraphs = [f"## {summary.title}\n\n{summary.about}\n", *summary.tables, f"Report: {summary.report}"]
    print_answer(arguments, summary, "\n".join(paragraphs).split("\n"))
    return 0
