"""fromzero setup, as a person and a program call it."""

import json

import pytest

from fromzero.cli import main


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
    assert main(["setup", "--card", "RTX 5090", "--driver", "566.36", "--os", "windows", "--lang", "en"]) == 2
    assert "570.65" in capsys.readouterr().err
    assert main(["setup", "--card", "RTX 9090"]) == 2
    assert main(["setup", "--card", "3060"]) == 2
    assert main(["setup", "--os", "windows", "--driver", "580"]) == 2
    assert main(["setup", "--os", "solaris"]) == 2
