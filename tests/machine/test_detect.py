"""Detection below fake roots, and the CPU as a card. (Cards through NVML: test_nvml.py.)"""

import sys

import pytest

from fromzero.machine.detect import ASSUMED_CPU_WATTS, cpu_name, system, this_cpu, this_machine
from fromzero.machine.measured import Bench, DeviceBench, load_bench, state_folder, store_bench
from fromzero.machine.process import usable_cores


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path / "state"))


def test_this_machine():
    machine = this_machine()
    assert machine.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert machine.os in ("linux", "wsl", "windows", "macos")
    assert machine.nvml or machine.gpus


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_wsl_and_bus_below_a_fake_root(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux version 5.15.153.1-microsoft-standard-WSL2")
    assert system(tmp_path) == "wsl"
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x040300\n")  # the card's sound device is no card
    assert not this_machine(tmp_path).gpu_seen
    (device / "class").write_text("0x030000\n")
    assert this_machine(tmp_path).gpu_seen


def test_this_cpu_is_a_card():
    card = this_cpu()
    assert card.is_cpu
    assert card.name
    assert 0 < card.usable_bytes <= card.memory_bytes
    assert card.rates["fp32"] > 1e9
    assert card.bandwidth > 1e8
    assert card.sms >= 1
    assert card.tdp_watts == ASSUMED_CPU_WATTS
    assert "65 W" in card.notes


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({"cgroup": "0::/job\n", "job/memory.max": "300000000", "job/memory.current": "100000000"}, 200_000_000),
        ({"cgroup": "0::/a/b\n", "a/memory.max": "50000000", "a/memory.current": "20000000"}, 30_000_000),
        (
            {
                "cgroup": "0::/\n",
                "memory.max": "9000000",
                "memory.current": "8000000",
                "memory.stat": "inactive_file 5000000",
            },
            6_000_000,
        ),
        (
            {
                "cgroup": "4:memory:/box\n0::/\n",
                "memory/box/memory.limit_in_bytes": "70000000",
                "memory/box/memory.usage_in_bytes": "10000000",
            },
            60_000_000,
        ),
        ({"cgroup": "0::/\n", "memory.max": "max", "memory.current": "100"}, None),
    ],
)
def test_memory_limit_of_a_container(tmp_path, files, usable):
    for name, text in files.items():
        path = tmp_path / ("proc/self/cgroup" if name == "cgroup" else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    card = this_cpu(tmp_path)
    assert card.usable_bytes == usable if usable else card.usable_bytes > 100_000_000


def _kept(**changes):
    cpu = DeviceBench(device="cpu", card="x", rates={"fp32": 123e9}, bandwidth=7e9)
    fields = {"when": "2026-01-01", "cpu": cpu_name(), "cores": usable_cores(), "devices": (cpu,), **changes}
    return Bench(**fields)


def test_kept_bench_of_this_machine_is_used():
    assert load_bench() is None
    store_bench(_kept())
    assert load_bench() == _kept()
    card = this_cpu()
    assert (card.rates["fp32"], card.bandwidth) == (123e9, 7e9)
    assert "bench" in card.source


@pytest.mark.parametrize("changes", [{"cpu": "another"}, {"cores": 999}, {"devices": ()}])
def test_kept_bench_of_another_machine_is_not(changes):
    store_bench(_kept(**changes))
    assert this_cpu().rates["fp32"] != 123e9


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', "[1]", '{"format": 1}'])
def test_damaged_bench_is_none(text):
    state_folder().mkdir()
    (state_folder() / "bench.json").write_text(text)
    assert load_bench() is None
