"""The parser of the command line: a mistake is one line, which names the nearest command or option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)$")


class Parser(argparse.ArgumentParser):
    """A parser, also of each command below it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            from retrieval_core.config import nearest

            name = unknown[0].partition("=")[0]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"unknown argument {name}{nearest(name, options) if name.startswith('-') else ''}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with code 2."""
        if choice := _CHOICE.search(message):
            from retrieval_core.config import nearest

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
