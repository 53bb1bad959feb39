"""What every command of the command line shares: its store, its source, and how it prints."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.cli.terminal import visible_lines
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

    from retrieval_core.settings import Settings

Command = Callable[[argparse.Namespace], int]  # its exit code


def add_store(sub: argparse.ArgumentParser) -> None:
    """The arguments that say where the store is."""
    sub.add_argument("--store", help="folder or s3://bucket/prefix; default: VITRINE_STORE or vitrine.toml")
    sub.add_argument("--config", type=Path, help="a vitrine.toml")


def open_settings(arguments: argparse.Namespace) -> Settings:
    """Where and how: from the environment, a TOML file and the command line. Raises `BadConfig`."""
    from retrieval_core.settings import Settings

    settings = Settings.load(arguments.config, store=arguments.store)
    if settings.s3_endpoint_url:
        # Pictures are read by URI, without a store at hand.
        os.environ["VITRINE_S3_ENDPOINT_URL"] = settings.s3_endpoint_url
    return settings


def print_answer(arguments: argparse.Namespace, document: BaseModel | dict[str, Any], text: str) -> None:
    """One JSON document with `--json`, else the text, without what a terminal would obey."""
    if arguments.json:
        plain = document if isinstance(document, dict) else document.model_dump(mode="json")
        print(json.dumps(plain, ensure_ascii=False))
    else:
        print(visible_lines(text.split("\n")))


def named_source(arguments: argparse.Namespace) -> str:
    """KIND:URI of the catalogue. Raises `BadConfig` where none is named."""
    from retrieval_core.config import read_toml

    source = arguments.source or (read_toml(arguments.config).get("source") if arguments.config else None)
    if not source:
        raise BadConfig("no source named: give --source KIND:URI, for example --source folder:photos")
    return str(source)


def one_line(error: Exception | str) -> str:
    """A message without its line ends."""
    return " ".join(str(error).split())
