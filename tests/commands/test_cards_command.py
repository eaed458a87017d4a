"""fromzero cards, as a person and a program call it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from fromzero.cli import main
from fromzero.records import Card


def listed(capsys, *arguments):
    assert main(["cards", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_every_field_of_every_card(capsys):
    cards = listed(capsys)
    assert len(cards) >= 200
    assert set(cards[0]) == {field.name for field in dataclasses.fields(Card)}


def test_filters_and_order(capsys):
    cards = listed(capsys, "--series", "30", "--min-memory", "12", "--capability", "8.6", "--sort", "bandwidth")
    assert {card["series"] for card in cards} == {"30"}
    assert min(card["memory_bytes"] for card in cards) >= 12 << 30
    figures = [card["bandwidth"] for card in cards]
    assert figures == sorted(figures, reverse=True)


@pytest.mark.parametrize("order", ["name", "memory", "fp32", "fp16", "power", "launch"])
def test_every_order_works(capsys, order):
    assert listed(capsys, "--sort", order, "--series", "titan")


def test_named_and_compared(capsys):
    assert [card["variant"] for card in listed(capsys, "3060 12GB", "3060 8GB")] == ["12 GB", "8 GB"]
    assert main(["cards", "--compare", "3090", "A100 40GB SXM", "--lang", "en"]) == 0
    shown = capsys.readouterr().out
    assert "RTX 3090" in shown
    assert "311.9" in shown


def test_table_for_people(capsys):
    assert main(["cards", "--series", "50", "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    assert "RTX 5090" in shown
    assert "显存" in shown


def test_statuses(capsys):
    assert main(["cards", "--min-memory", "999"]) == 1
    assert main(["cards", "3060", "--lang", "en"]) == 2
    assert "RTX 3060 12 GB" in capsys.readouterr().err
    assert main(["cards", "RTX 3091"]) == 2
    assert main(["cards", "3090", "--compare", "3080"]) == 2


def test_picture_of_compared_cards(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, start in (("cards.png", b"\x89PNG"), ("cards.svg", b"<?xml")):
        path = tmp_path / name
        assert main(["cards", "--compare", "3090", "1080 Ti", "--picture", str(path), "--lang", "zh"]) == 0
        assert path.read_bytes().startswith(start)
    assert main(["cards", "--compare", "3090", "--picture", str(tmp_path / "cards.txt")]) == 2
    assert main(["cards", "--compare", "3090", "--picture", str(tmp_path / "none/cards.png")]) == 1
    assert main(["cards", "3090", "--picture", str(tmp_path / "x.png")]) == 2


def test_picture_without_matplotlib_names_the_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["cards", "--compare", "3090", "--picture", str(tmp_path / "x.png"), "--lang", "en"]) == 2
    assert "pip install 'fromzero[train]'" in capsys.readouterr().err


HEAVY = ("torch", "numpy", "rich", "pynvml", "psutil", "pandas", "PIL")


@pytest.mark.parametrize(
    "arguments",
    [
        ["cards", "--json"],
        ["cards", "--series", "50"],
        ["setup", "--help"],
        ["doctor", "--help"],
        ["cards", "--help"],
        ["watch", "--help"],
        ["bench", "--help"],
        ["doctor", "--log", __file__],
    ],
)
def test_nothing_heavy_is_imported(arguments):
    code = f"import sys; from fromzero.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["setup", "--json"],
        ["doctor", "--json"],
        ["doctor", "--log", "-"],
        ["watch", "--once"],
        ["watch", "--once", "--json"],
        ["watch", "--once", "--prometheus", "0"],
    ],
)
def test_no_framework_is_imported(arguments):
    code = f"import sys; from fromzero.cli import main\nmain({arguments!r})\n"
    code += "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, input="")
    assert done.stderr.strip().endswith("[]")
