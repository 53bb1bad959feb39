"""The command line `vitrine`, assembled from the files of this folder, one a group of commands.

With `--json` a command prints one JSON document on stdout and nothing else there; logs go to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage or config, 3 the gate held the release back, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from deployments.cli import backup, compare, config, maintenance, report, run, search, train
from deployments.cli.command import find_config
from deployments.cli.interruption import end_on_signals
from deployments.cli.stage_bars import HEARTBEAT, end_stage_bars
from deployments.cli.terminal import escape_unprintable, print_error
from deployments.environment import prepare_environment
from retrieval_core.errors import BadConfig, VitrineError

GROUPS = (run, compare, train, search, report, maintenance, backup, config)  # in the order of `vitrine --help`
PACKAGES = ("deployments", "flows", "tasks", "retrieval_core")
ENVIRONMENT = {
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_CHOICE = re.compile(r"invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)$")  # argparse's words


class Parser(argparse.ArgumentParser):
    """A parser of the command line, or of a command: a mistake is one line, which names the nearest argument."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            from retrieval_core.config.text import nearest

            name = unknown[0].partition("=")[0]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"unknown argument {name}{nearest(name, options) if name.startswith('-') else ''}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with code 2."""
        if choice := _CHOICE.search(message):
            from retrieval_core.config.text import nearest

            hint = nearest(choice["value"], re.findall(r"'([^']*)'", choice["choices"]))
            message = f"{message[: choice.start()]}unknown {choice['value']!r}{hint}"
        self.exit(2, f"vitrine: {' '.join(message.split())}; `{self.prog} --help` explains\n")


class PrintVersion(argparse.Action):
    """Print the version of the installed package, which is read only if it is wanted."""

    def __init__(self, option_strings: Iterable[str], dest: str) -> None:
        super().__init__([*option_strings], dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import retrieval_core

        print(f"vitrine {retrieval_core.__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without arguments, those of the process, which then ends on signals."""
    escape_unprintable()
    arguments = build_parser().parse_args(argv)
    if argv is None and not hasattr(arguments, "ends_itself"):
        end_on_signals(arguments.advice)
        if hasattr(arguments, "verbose"):  # the command starts Prefect, and works for long
            HEARTBEAT.start()
    find_config(arguments)
    prepare_environment()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        try:
            return int(arguments.command(arguments))
        finally:
            end_stage_bars()
    except VitrineError as error:
        return print_error(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in PACKAGES:
            raise
        need = f"this command needs {error.name}, which is not installed"
        return print_error(BadConfig(f"{need}: pip install 'vitrine[{arguments.extra}]'"))
    except KeyboardInterrupt:
        print("vitrine: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; imports no heavy library."""
    parser = Parser(prog="vitrine", description="Keeps a product catalogue searchable by picture.")
    parser.add_argument("--version", action=PrintVersion)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
