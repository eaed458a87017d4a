"""The words of a command, read in the user's language."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

from fromzero import language
from fromzero.errors import UnknownName, UsageError
from fromzero.language import say


def parser_of(word: str) -> Parser:
    """The parser of one command."""
    command = importlib.import_module(f"fromzero.commands.{word}")
    parser = Parser(prog=f"fromzero {word}", description=say(f"command.{word}"), add_help=False)
    parser.add_argument("-h", "--help", action="help", help=say("flag.help"))
    parser.add_argument("--lang", choices=language.LANGUAGES, help=say("flag.lang"))
    command.arguments(parser)
    return parser


class Parser(argparse.ArgumentParser):
    """argparse in the user's language: a wrong call is a UsageError with near matches, never a page of usage."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._positionals.title = say("cli.arguments")
        self._optionals.title = say("cli.options")

    def parse_args(self, args=None, namespace=None):
        options, rest = self.parse_known_args(args, namespace)
        for each in rest:
            if each.startswith("--"):
                raise UnknownName("flag", each.split("=")[0], self._flags(options))
        if rest:
            raise UsageError("unexpected_argument", argument=rest[0], command=self.prog)
        return options

    def _flags(self, options: argparse.Namespace) -> list[str]:
        """Every long flag of this parser and of the subcommand that was chosen."""
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    flags += [flag for flag in parser._option_string_actions if flag.startswith("--")]
        return flags

    def _get_formatter(self) -> argparse.HelpFormatter:
        """argparse asks for one at every `add_argument`, and each would look up the terminal's width through shutil."""
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
        except (OSError, ValueError, AttributeError):
            width = 100
        return argparse.HelpFormatter(prog=self.prog, width=max(40, width - 2))

    def error(self, message: str) -> NoReturn:
        raise UsageError("bad_arguments", command=self.prog, detail=message)
