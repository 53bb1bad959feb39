"""What the commands share: their options, the settings and the source that these name, and how a command answers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from deployments.cli.stage_bars import end_stage_bars
from deployments.cli.terminal import visible_lines
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

    from retrieval_core.settings import Settings

CONFIG_FILE = Path("vitrine.toml")  # in the working folder
Command = Callable[[argparse.Namespace], int]  # runs and returns the exit code
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, command: Command, text: str, *options: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Add a command with groups of `options`; `text` is its help.

    `extra` among its arguments names the optional dependencies that it needs, `run` unless the command sets another;
    `advice` is what it says when it was interrupted.
    """
    parser = commands.add_parser(name, help=text, description=text, parents=options)
    parser.set_defaults(command=command, extra="run", advice="run the same command again to resume")
    return parser


def _options(*groups: argparse.ArgumentParser) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, parents=groups)


JSON = _options()
JSON.add_argument("--json", action="store_true", help="print one JSON document on stdout")

VERBOSE = _options()
VERBOSE.add_argument("-v", "--verbose", action="store_true", help="log what Prefect does, too")

STORE_ADDRESS = _options()
STORE_ADDRESS.add_argument("--store", help="folder or s3://bucket/prefix; default: VITRINE_STORE or the config")

STORE = _options(STORE_ADDRESS)
STORE.add_argument("--config", type=Path, metavar="FILE", help="default: vitrine.toml in the working folder, if any")


def source_options(key: str = "STAGE.KEY") -> argparse.ArgumentParser:
    """Return the options `--source` and `--set`; `key` says how a config value is named."""
    options = _options()
    options.add_argument("--source", help="KIND:URI, for example folder:photos or table:items.csv")
    options.add_argument("--set", action="append", default=[], metavar=f"{key}=VALUE", help="set one config value")
    return options


def check_config(path: Path | None, store: str | None = None) -> Settings:
    """Check every table and key of a `vitrine.toml`, or of a comparison; return its settings.

    `store` wins over the file's. Raises `BadConfig`.
    """
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.config.text import read_toml, toml_table
    from retrieval_core.settings import Settings

    if path and {"variants", "extends"} & read_toml(path).keys():  # a comparison has them, or those of another one
        from retrieval_core.evaluate.compare.compose import load_comparison

        load_comparison(path, [])
    elif path:
        from retrieval_core.train.config import load_training

        NightlyConfig.load(path, [])
        for objective in toml_table(path, "train"):
            load_training(objective, path, [])
    return Settings.load(path, store=store)


def find_config(arguments: argparse.Namespace) -> None:
    """Set a `--config` that was not given to `CONFIG_FILE`, if there is one."""
    if getattr(arguments, "config", ...) is None and CONFIG_FILE.is_file():
        arguments.config = CONFIG_FILE


def open_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings from the environment, a TOML file and the command line. Raises `BadConfig`."""
    settings = check_config(arguments.config, arguments.store)
    if settings.s3_endpoint_url:
        # Pictures are read by their URI alone, without the store's settings.
        os.environ["VITRINE_S3_ENDPOINT_URL"] = settings.s3_endpoint_url
    return settings


def named_source(arguments: argparse.Namespace) -> str:
    """Return the KIND:URI of the catalogue, from `--source` or the config file, with the file's `[columns]`.

    Raises `BadConfig` if it is missing.
    """
    from retrieval_core.config.text import read_toml, toml_table
    from retrieval_core.ingest.sources.registry import configured_spec

    source = arguments.source or (read_toml(arguments.config).get("source") if arguments.config else None)
    if not source:
        raise BadConfig("no source named: give --source KIND:URI, for example --source folder:photos")
    return configured_spec(str(source), toml_table(arguments.config, "columns"))


def print_answer(arguments: argparse.Namespace, document: BaseModel | dict[str, Any], lines: Iterable[str]) -> None:
    """Print the document as JSON with `--json`, otherwise the lines with control characters escaped."""
    end_stage_bars()
    if arguments.json:
        plain = document if isinstance(document, dict) else document.model_dump(mode="json")
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        print(json.dumps(plain, ensure_ascii=not is_unicode))
    else:
        print(visible_lines(lines))
