"""`fromzero WORD ...`: picks the one command, imports only its module and runs it.

A command is a file of `commands/` with `arguments(parser)` and `run(options) -> exit status`. Exit status: 0 done,
1 the answer is no, 2 wrong use. A traceback is always a bug of ours.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fromzero import __version__, language
from fromzero.commands._parsing import parser_of
from fromzero.errors import FromzeroError, UnknownName
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
