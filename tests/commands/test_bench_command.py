"""fromzero bench on this machine: with everything, with NumPy alone, with nothing."""

import json
import subprocess
import sys

import pytest

from fromzero.cli import main
from fromzero.machine.measured import bench_from_json, load_bench


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("fromzero.machine.bench.DISK_BYTES", 8 << 20)
    monkeypatch.setattr("fromzero.machine.bench.CPU_SIDE", 256)
    monkeypatch.setattr("fromzero.machine.bench.CPU_COPY", 8 << 20)
    return tmp_path / "state"


def test_bench_without_torch_is_kept_and_read_back(capsys, state, monkeypatch):
    pytest.importorskip("numpy")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["bench", "--seconds", "0.02", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = load_bench()
    assert kept == bench_from_json(printed)
    cpu = kept.of("cpu")
    assert cpu.library.startswith("numpy")
    assert set(cpu.rates) == {"fp32"}
    assert cpu.rates["fp32"] > 1e8
    assert cpu.bandwidth > 1e7
    assert kept.disk_read > 1e6
    assert kept.decode_per_core > 1
    assert kept.loader > 1
    assert not list(state.glob("bench-*"))  # the file that was read is gone


def test_bench_with_torch(capsys, state):
    pytest.importorskip("torch")
    assert main(["bench", "--seconds", "0.02", "--no-save", "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    assert "fp32" in shown
    assert "bf16" in shown
    assert "张/秒" in shown
    assert load_bench() is None


BARE = """
import sys
for name in ("torch", "numpy", "PIL"):
    sys.modules[name] = None
from fromzero.machine import bench
bench.DISK_BYTES = 8 << 20
from fromzero.cli import main
sys.exit(main(["bench", "--seconds", "0.02", *sys.argv[1:]]))
"""


def test_bench_with_nothing_says_what_is_missing():
    done = subprocess.run([sys.executable, "-c", BARE, "--lang", "en"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install numpy" in done.stdout
    assert "pip install pillow" in done.stdout
    done = subprocess.run([sys.executable, "-c", BARE, "--json"], capture_output=True, text=True)
    record = json.loads(done.stdout)
    assert record["devices"][0]["rates"] == {}
    assert {"cpu", "decode"} <= set(record["notes"])


def test_disk_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path / "file" / "state"))
    assert main(["bench", "--seconds", "0.01", "--json"]) == 0
    shown = capsys.readouterr()
    assert "disk" in json.loads(shown.out)["notes"]
    assert "bench.json" in shown.err


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan"])
def test_wrong_calls(seconds):
    assert main(["bench", "--seconds", seconds]) == 2
