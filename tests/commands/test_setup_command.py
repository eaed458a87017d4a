"""fromzero setup, as a person and a program call it."""

import json
import sys
from pathlib import Path

import pytest

from fromzero.cli import main
from fromzero.machine import apply as module
from fromzero.machine.apply import Receipt


def answer(capsys, *arguments):
    assert main(["setup", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_contract(capsys):
    given = ["--card", "GTX 1080 Ti", "--driver", "535.183.01", "--os", "linux", "--python", "3.11", "--glibc", "2.31"]
    found = answer(capsys, *given)
    assert {"torch", "torchvision", "cuda_tag", "index_url", "commands", "env", "why", "warnings"} <= set(found)
    assert (found["torch"], found["torchvision"], found["cuda_tag"]) == ("2.14", "0.29", "cu126")
    assert found["commands"][0].startswith("python -m pip install")
    assert found["commands"][1].startswith("uv pip install")
    assert found["env"] == {"LD_LIBRARY_PATH": None}
    assert found["why"]


@pytest.mark.parametrize("system", ["linux", "windows", "wsl"])
def test_every_system(capsys, system):
    found = answer(capsys, "--card", "RTX 4090", "--driver", "581.15", "--os", system)
    assert found["torch"] == "2.14"


def test_several_cards(capsys):
    found = answer(capsys, "--card", "1080 Ti", "--card", "4090", "--driver", "580.95")
    assert found["cuda_tag"] == "cu126"


def test_people_see_commands_and_reasons(capsys):
    assert main(["setup", "--card", "RTX 5090", "--driver", "572.1", "--os", "wsl", "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    assert "whl/cu128" in shown
    assert "理由" in shown
    assert "怎样才能用上更新的版本" in shown


def test_refusals(capsys):
    assert main(["setup", "--card", "RTX 5090", "--driver", "566.36", "--os", "windows", "--lang", "en"]) == 1
    assert "570.65" in capsys.readouterr().err
    assert main(["setup", "--card", "RTX 9090"]) == 2
    assert main(["setup", "--card", "3060"]) == 2
    assert main(["setup", "--os", "windows", "--driver", "580"]) == 2
    assert main(["setup", "--os", "solaris"]) == 2


def test_cards_that_no_wheel_serves_get_one_each(capsys):
    assert (
        main(["setup", "--card", "1080 Ti", "--card", "5090", "--driver", "580.95", "--os", "linux", "--lang", "en"])
        == 1
    )
    told = capsys.readouterr().err
    assert "No wheel" in told
    assert "CUDA_VISIBLE_DEVICES" in told
    assert "GTX 1080 Ti: torch 2.14 cu126" in told


@pytest.fixture
def applied(monkeypatch):
    """What apply() was asked, in the place of doing it."""
    asked = []
    proof = {"ok": True, "devices": [{"device": "cpu", "name": "x86_64", "results": {"matmul fp32": {"ok": True}}}]}

    def play(choice, machine, folder, mirrors, console):
        asked.append((choice, folder, mirrors))
        fields = {"when": "now", "torch": "2.13.0", "torchvision": "", "cuda_tag": "cpu", "source": "pip"}
        return Receipt(**fields, environment=str(folder), machine=machine, proof=proof, notes=("left out",))

    monkeypatch.setattr(module, "apply", play)
    return asked


def test_apply(applied, capsys):
    assert (
        main(["setup", "--apply", "--venv", "here", "--index", "a", "--index", "b", "--torch", "2.13", "--lang", "en"])
        == 0
    )
    ((choice, folder, mirrors),) = applied
    assert (choice.torch, folder, mirrors) == ("2.13", Path("here"), ("a", "b"))
    shown = capsys.readouterr().out
    assert "proven on cpu (x86_64): matmul fp32" in shown
    assert "- left out" in shown


def test_apply_as_json_and_where_by_default(applied, capsys, monkeypatch):
    assert main(["setup", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proof"]["ok"]
    own = Path(sys.prefix) if sys.prefix != sys.base_prefix else Path(".venv")
    assert applied[0][1] == own
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    main(["setup", "--apply", "--json"])
    assert applied[1][1] == Path(".venv")


def test_apply_is_for_this_machine(capsys):
    assert main(["setup", "--apply", "--os", "windows"]) == 2
    assert main(["setup", "--venv", "x"]) == 2
    assert main(["setup", "--index", "x", "--lang", "en"]) == 2
    assert "--apply" in capsys.readouterr().err
