"""`vitrine compare`: variants of a config side by side on the same queries."""

from __future__ import annotations

import argparse

from deployments.cli.command import (
    CONFIG_FILE,
    JSON,
    STORE,
    VERBOSE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.prefect_server import start_prefect
from retrieval_core.errors import BadConfig


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    text = "train and embed the variants that a config lists, and print them side by side"
    add_command(commands, "compare", _compare, text, JSON, VERBOSE, STORE, source_options())


def _compare(arguments: argparse.Namespace) -> int:
    from flows.compare import compare
    from flows.preflight import checked_ahead
    from retrieval_core.evaluate.compare.compose import load_comparison
    from tasks.preflight import check_before_comparison

    if arguments.config is None or arguments.config is CONFIG_FILE:
        raise BadConfig(
            "no comparison named: give --config FILE.toml, for example configs/compare/retrieval_report.toml"
        )
    config = load_comparison(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    with checked_ahead(check_before_comparison, settings, source, config):
        start_prefect(settings, arguments.verbose)
        summary = compare(source, settings, config)
    paragraphs = [f"## {summary.title}\n\n{summary.about}\n", *summary.tables, f"Report: {summary.report}"]
    print_answer(arguments, summary, "\n".join(paragraphs).split("\n"))
    return 0
