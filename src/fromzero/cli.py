"""`fromzero WORD ...`: picks the one command, imports only its module and runs it.

A command is a file of `commands/` with `arguments(parser)` and `run(options) -> exit status`. Exit status: 0 done,
1 the answer is no, 2 wrong use. A traceback is always a bug of ours.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fromzero import __version__, language
from fromzero.errors import FromzeroError, UnknownName, UsageError
from fromzero.language import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    _speak_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _take_language(arguments)
        word = arguments[0] if arguments else "--help"
        if word in ("-h", "--help"):
            print(_overview())
            return 0
        if word == "--version":
            print("fromzero", __version__)
            return 0
        if word not in words():
            raise UnknownName("flag" if word.startswith("-") else "command", word, words())
        return _run(word, arguments[1:])
    except FromzeroError as error:
        print(f"fromzero: {error.code}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(say("cli.interrupted"), file=sys.stderr)
        return 130
    except BrokenPipeError:  # `fromzero cards | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def words() -> list[str]:
    """The commands in the order of the path: the files of `commands/`, ordered by the catalogue."""
    files = {path.stem for path in Path(__file__).with_name("commands").glob("[!_]*.py")}
    named = [key.removeprefix("command.") for key in language.catalogue() if key.startswith("command.")]
    return [word for word in named if word in files]


def _run(word: str, arguments: list[str]) -> int:
    command = importlib.import_module(f"fromzero.commands.{word}")
    return command.run(parser_of(word).parse_args(arguments))


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


def _take_language(arguments: list[str]) -> list[str]:
    """Switch the language before anything is said; the flag may stand anywhere."""
    for position, each in enumerate(arguments):
        value = each.removeprefix("--lang=") if each.startswith("--lang=") else None
        if each == "--lang":
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        if value is not None:
            if value not in language.LANGUAGES:
                raise UnknownName("language", value, language.LANGUAGES)
            language.use(value)
            return arguments[:position] + arguments[position + (2 if each == "--lang" else 1) :]
    return arguments


def _overview() -> str:
    lines = [say("cli.title"), "", say("cli.usage"), ""]
    lines += [f"  {word:<11} {say(f'command.{word}')}" for word in words()]
    return "\n".join([*lines, "", say("cli.more")])


def _speak_utf8() -> None:
    """Chinese text and box drawing must survive a Windows console and a C locale."""
    for stream in (sys.stdout, sys.stderr):
        if (getattr(stream, "encoding", None) or "utf-8").lower() != "utf-8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(main())
