"""`vitrine compare`: variants of a config side by side on the same queries."""

from __future__ import annotations

import argparse

from deployments.cli.command import (
    JSON,
    STORE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.flow_runs import start_prefect
from deployments.cli.preflight import probe
from retrieval_core.errors import BadConfig


def add_commands(commands: Commands) -> None:
    """Add the command of this file."""
    text = "train and embed the variants that a config lists, and print them side by side"
    add_command(commands, "compare", _compare, text, JSON, STORE, source_options())


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
    probe(store)
    from flows.compare import compare
    from flows.shards import check_runner

    check_runner(settings)
    check_weights(config, store)

    start_prefect()
    summary = compare(source, settings, config)
    paragraphs = [f"## {summary.title}\n\n{summary.about}\n", *summary.tables, f"Report: {summary.report}"]
    print_answer(arguments, summary, "\n".join(paragraphs).split("\n"))
    return 0
