"""The rules of the house: imports run one way, light commands stay light, one catalogue, nothing names a machine."""

from __future__ import annotations

import ast
import json
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from fromzero import language
from fromzero.cli import words

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fromzero"

# The import rule: a module imports only what stands in an earlier line. Names in one line never import each other.
ORDER = [
    ["language"],
    ["errors", "records"],
    ["terminal", "files"],
    ["attempts"],
    ["facts"],
    ["machine"],
    ["planner", "launching"],
    ["data", "models"],
    ["metrics"],
    ["tasks"],
    ["preparing"],
    ["step", "stages", "schedules"],
    ["tracing", "cautions"],
    ["planning"],
    ["fitting"],
    ["choosing"],
    ["preprocessing", "checkpoint", "stopping", "ladder"],
    ["engine"],
    ["runs"],
    ["runtimes"],
    ["predicting", "generating"],
    ["evaluation", "finding", "baselines", "compiling"],
    ["trackers"],
    ["watching"],
    ["training"],
    ["starting"],
    ["pictures", "card"],
    ["report"],
    ["crossing", "improving"],
    ["explaining"],
    ["diagnosis"],
    ["diagnosing", "profiling"],
    ["formats"],
    ["exporting"],
    ["shrink"],
    ["shrinking"],
    ["serving"],
    ["deployments"],
    ["deploying"],
    ["quickstart"],
    ["commands"],
    ["cli"],
]
# Folders of one choice: one file each, which never import each other. A leading underscore marks what they share.
CHOICES = [
    "commands",
    "deployments",
    "diagnosis",
    "formats",
    "models/families",
    "runtimes",
    "shrink",
    "tasks",
    "trackers",
]
HEAVY = ("torch", "numpy", "PIL", "matplotlib", "pyarrow", "timm", "transformers", "onnxruntime", "starlette", "rich")
LIGHT_COMMANDS = ["cards", "setup", "doctor"]


def imports_of(path: Path) -> set[str]:
    """Dotted names below fromzero that a file imports, anywhere in it, `if TYPE_CHECKING` left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fromzero":
            inside = node.module.removeprefix("fromzero").lstrip(".")
            found |= {f"{inside}.{each.name}".lstrip(".") for each in node.names}
        if isinstance(node, ast.Import):
            found |= {each.name.removeprefix("fromzero.") for each in node.names if each.name.startswith("fromzero.")}
    return found


def violations(files: dict[str, set[str]]) -> list[str]:
    """Imports that break ORDER, as "importer -> imported"."""
    rank = {name: number for number, line in enumerate(ORDER) for name in line}
    wrong = []
    for importer, imported in files.items():
        mine = importer.split(".")[0]
        for each in imported:
            theirs = each.split(".")[0]
            if theirs in rank and theirs != mine and rank[theirs] >= rank[mine]:
                wrong.append(f"{importer} -> {each}")
    return wrong


def house() -> dict[str, set[str]]:
    files = [each for each in SOURCE.rglob("*.py") if each.name not in ("__init__.py", "__main__.py")]
    return {".".join(each.relative_to(SOURCE).with_suffix("").parts): imports_of(each) for each in files}


def test_every_module_has_a_place_in_the_order():
    places = {name for line in ORDER for name in line}
    assert {name.split(".")[0] for name in house()} == places


def test_imports_run_one_way():
    assert violations(house()) == []


def test_the_import_rule_can_fail():
    assert violations({"planner.trace": {"training.train"}}) == ["planner.trace -> training.train"]
    assert violations({"exporting": {"serving.app"}}) == ["exporting -> serving.app"]
    assert violations({"training": {"planner.trace"}}) == []


@pytest.mark.parametrize("folder", CHOICES)
def test_files_of_a_choice_never_import_each_other(folder):
    files = {path.stem: path for path in (SOURCE / folder).glob("*.py") if path.stem != "__init__"}
    package = folder.replace("/", ".")
    for name, path in files.items():
        siblings = {f"{package}.{other}" for other in files if other != name and not other.startswith("_")}
        assert not {each for each in imports_of(path) for other in siblings if each.startswith(other)}, name


def loaded_after(code: str) -> set[str]:
    """The heavy packages in sys.modules after `code` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n@', *sorted(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("@")[2].split())


def call(*arguments: str) -> str:
    return f"from fromzero.cli import main\ntry: main({list(arguments)!r})\nexcept SystemExit: pass"


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_the_front_door_is_light(word):
    assert loaded_after(call(word)) == set()


def test_help_of_every_command_is_light():
    for word in words():
        assert loaded_after(call(word, "--help")) == set(), word


def test_light_commands_import_nothing_heavy():
    assert loaded_after(call("cards", "--json")) == set()
    assert loaded_after(call("setup", "--card", "RTX 3060 12 GB", "--driver", "570.86", "--json")) == set()
    assert loaded_after(call("doctor", "--json")) <= set()


def test_importing_the_package_does_no_work():
    assert loaded_after("import fromzero; fromzero.Recipe, fromzero.__all__") == set()


def test_the_light_test_can_fail():
    assert "numpy" in loaded_after("import numpy")


def test_the_public_face_is_whole():
    import fromzero

    assert all(getattr(fromzero, name) is not None for name in fromzero.__all__)
    with pytest.raises(AttributeError):
        _ = fromzero.nothing_of_the_kind


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_say_the_same():
    for key, (english, chinese) in language.catalogue().items():
        assert placeholders(english) == placeholders(chinese), key
        assert english or key.endswith(".fix"), key
        if key == "page.language":  # offers the other language, in its own words
            continue
        # a command line is the same in both
        assert english == chinese or re.search(r"[\u2026\u3000-\u9fff\uff00-\uffef]", chinese), key


def code_that_speaks() -> str:
    """All source that takes its sentences from the catalogue."""
    files = [each for kind in ("py", "j2", "html") for each in SOURCE.rglob(f"*.{kind}")]
    files += (SOURCE / "facts").glob("*.json")
    return "\n".join(each.read_text(encoding="utf-8") for each in files)


def test_the_catalogue_has_every_row_the_code_names():
    rows = set(language.catalogue())
    for path in [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        if "import say" in text or path.suffix == ".j2":
            named = set(re.findall(r"""\bsay\(\s*["']([a-z_0-9.\-]+)["']""", text))
            assert named <= rows, (path.name, named - rows)
    raised = set(re.findall(r"""(?:Error|UnreadableImage)\(\s*["']([a-z_0-9]+)["']""", code_that_speaks()))
    assert {f"error.{each}" for each in raised} <= rows, {f"error.{each}" for each in raised} - rows


def test_every_row_of_the_catalogue_is_used():
    code = code_that_speaks()
    for key in language.catalogue():
        if key.startswith("error.") and key.endswith(".fix"):
            assert key.removesuffix(".fix") in language.catalogue(), key
            continue
        area, _, last = key.rpartition(".")
        literal = re.search(rf"""["'`]({re.escape(key)}|{re.escape(last)})["'`]""", code)
        composed = f'f"{area}.{{' in code or f"f'{area}.{{" in code
        named = key.startswith(("error.unknown_", "command.")) or re.search(rf"\b{re.escape(last)}\b", code)
        assert literal or composed or named, f"nothing says {key}"


def test_commands_and_catalogue_name_the_same_words():
    files = {path.stem for path in (SOURCE / "commands").glob("[!_]*.py")}
    assert files == set(words())


def test_every_command_keeps_the_contract():
    import importlib

    for word in words():
        module = importlib.import_module(f"fromzero.commands.{word}")
        assert callable(module.arguments) and callable(module.run), word


def test_json_catalogue_is_well_formed():
    for path in (SOURCE / "messages").glob("*.json"):
        for key, row in json.loads(path.read_text(encoding="utf-8")).items():
            assert len(row) == 2 and all(isinstance(each, str) for each in row), key


def test_constraints_hold_names_and_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][A-Za-z0-9.+!]*", line), line
