"""fromzero watch, as a person and a program call it, on a machine with or without a card."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from fromzero.cli import main


def test_once(capsys):
    assert main(["watch", "--once", "--lang", "en"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("CPU ")
    assert "GPU" in shown
    assert main(["watch", "--once", "--lang", "zh"]) == 0


def test_json_is_one_object(capsys):
    assert main(["watch", "--once", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["sample"]) == {"time", "cpu", "gpus"}
    assert answer["recording"]["cost"] is None


def test_money_and_log(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    words = [
        "watch",
        "--seconds",
        "0.3",
        "--interval",
        "0.1",
        "--log",
        str(log),
        "--tariff",
        "1000",
        "--currency",
        "EUR",
    ]
    assert main([*words, "--lang", "en"]) == 0
    assert re.search(r"Energy: [\d.]+ kWh = [\d.]+ EUR", capsys.readouterr().out)
    lines = log.read_text().splitlines()
    assert main([*words, "--json"]) == 0
    recording = json.loads(capsys.readouterr().out)["recording"]
    assert recording["cost"] == pytest.approx(recording["kwh"] * 1000)
    assert recording["seconds"] >= 0.3
    assert len(lines) >= 2
    assert len(log.read_text().splitlines()) == len(lines) + recording["count"]


@pytest.mark.parametrize(
    "words",
    [["--interval", "0"], ["--seconds", "-1"], ["--tariff", "nan"], ["--log", "x.txt"], ["--prometheus", "70000"]],
)
def test_wrong_calls(words):
    assert main(["watch", "--once", *words]) == 2


def test_log_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert main(["watch", "--once", "--log", str(tmp_path / "file" / "log.csv")]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_prometheus_until_interrupted():
    """A person ends a watch with Ctrl-C and sees what it added up."""
    command = [sys.executable, "-m", "fromzero", "watch", "--interval", "0.05", "--prometheus", "0", "--lang", "en"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as watch:
        address = watch.stderr.readline().split()[-1]
        watch.stdout.readline()  # the first sample is published before it is shown
        with urllib.request.urlopen(address) as page:
            assert "fromzero_cpu_utilisation_ratio" in page.read().decode()
        time.sleep(0.1)
        watch.send_signal(signal.SIGINT)
        rest = watch.stdout.read()
        assert watch.wait() == 0
    assert "Energy:" in rest
