"""fromzero doctor, as a person and a program call it."""

import io
import json
import sys

import pytest

from fromzero.cli import main
from fromzero.commands import doctor
from fromzero.machine.doctor import Finding

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


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    """A machine with one fault of ours to mend: what stands for it is a file that the fix writes."""
    mended = tmp_path / "mended"
    fault = [Finding("disk", "too small", "1 GiB free", "purge"), Finding("no_driver", "none", "seen", "sudo ...")]
    command = [sys.executable, "-c", f"open({str(mended)!r}, 'w')"]
    monkeypatch.setattr(doctor, "examine", lambda facts: fault[mended.exists() :])
    monkeypatch.setattr(doctor, "safe_fixes", lambda findings, *_: {"disk": command} if len(findings) > 1 else {})
    return mended


def test_fix_shows_and_does_nothing_unasked(faulty, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["doctor", "--fix", "--lang", "en"]) == 1
    shown = capsys.readouterr()
    assert "mended" in shown.err
    assert "Nothing was changed" in shown.err
    assert shown.out.count("too small") == 1
    assert not faulty.exists()


def test_fix_mends_and_looks_again(faulty, capsys):
    assert main(["doctor", "--fix", "--yes", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert faulty.exists()
    assert answer["applied"] == {"disk": 0}
    assert [each["code"] for each in answer["findings"]] == ["no_driver"]
    assert main(["doctor", "--fix", "--yes", "--json"]) == 1  # nothing safe is left
    assert json.loads(capsys.readouterr().out)["applied"] == {}


def test_fix_and_log_do_not_go_together(tmp_path):
    assert main(["doctor", "--fix", "--log", "x.log"]) == 2
