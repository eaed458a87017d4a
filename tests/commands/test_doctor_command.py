"""fromzero doctor, as a person and a program call it."""

import io
import json
import sys

import pytest

from fromzero.cli import main

LOG = "epoch 1\nAssertionError: Torch not compiled with CUDA enabled\n"


def test_log_as_json(tmp_path, capsys):
    path = tmp_path / "train.log"
    path.write_text(LOG)
    assert main(["doctor", "--log", str(path), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert set(finding) == {"code", "cause", "evidence", "fix"}
    assert finding["code"] == "cpu_wheel"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_log_from_standard_input(monkeypatch, capsys, encoding):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LOG.encode(encoding))))
    assert main(["doctor", "--log", "-", "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    assert "cpu_wheel" in shown
    assert "CPU 版" in shown


def test_unknown_and_clean_logs(tmp_path, capsys):
    path = tmp_path / "train.log"
    path.write_text("KeyError: 'label'\n")
    assert main(["doctor", "--log", str(path), "--lang", "en"]) == 1
    assert "KeyError" in capsys.readouterr().out
    path.write_text("all is well\n")
    assert main(["doctor", "--log", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert main(["doctor", "--log", str(tmp_path / "none.log")]) == 2


def test_this_machine(capsys):
    status = main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert status == (1 if answer["findings"] else 0)
    assert answer["machine"]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert main(["doctor", "--lang", "zh"]) == status
