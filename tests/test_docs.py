"""Documentation that cannot drift: every command it shows parses, every file it links to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fromzero import language
from fromzero.cli import main, words
from fromzero.commands._parsing import parser_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIGHT = ("cards", "setup", "doctor")


def commands(page: Path) -> list[list[str]]:
    """The `fromzero ...` lines of a page's code blocks, as words."""
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fromzero ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page):
    for arguments in commands(page):
        if arguments[0].startswith("-"):
            continue
        parser_of(arguments[0]).parse_args(arguments[1:])


def test_readme_shows_every_command():
    for page in PAGES[:2]:
        shown = {arguments[0] for arguments in commands(page)}
        assert set(words()) <= shown, set(words()) - shown


def test_light_commands_of_the_readme_run(capsys):
    language.use("en")
    for arguments in commands(ROOT / "README.md"):
        if arguments[0] in LIGHT and "--log" not in arguments and "--apply" not in arguments:
            assert main(arguments) in (0, 1), arguments
            assert capsys.readouterr().out
    language.use(None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_opens_with_the_two_commands_and_the_makefile_has_them():
    first = re.search(r"```\w*\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert first is not None
    shown = [line.split("#")[0].strip() for line in first.group(1).strip().splitlines()]
    assert shown == ["make quickstart", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\nquickstart: setup\n" in makefile and "\ntest: setup\n" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()
