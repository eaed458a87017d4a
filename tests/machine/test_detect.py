"""Detection below fake roots, and NVML through a small library of our own that plays a scripted machine."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from fromzero.machine.detect import ASSUMED_CPU_WATTS, system, this_cpu, this_machine

NVML = r"""
#include <string.h>
typedef int ret; typedef void *dev;
typedef struct { unsigned long long total, free, used; } memory;
static int broken = BROKEN;
ret nvmlInit_v2(void) { return broken; }
ret nvmlInitWithFlags(unsigned f) { return broken; }
ret nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(ret r) { return "Driver/library version mismatch"; }
ret nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, "535.183.01", n); return 0; }
ret nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
ret nvmlDeviceGetHandleByIndex_v2(unsigned i, dev *d) { *d = (dev)(unsigned long)(i + 1); return 0; }
ret nvmlDeviceGetName(dev d, char *v, unsigned n) {
  strncpy(v, (unsigned long)d == 1 ? "NVIDIA GeForce GTX 1080 Ti" : "NVIDIA GeForce RTX 4090", n); return 0; }
ret nvmlDeviceGetMemoryInfo(dev d, memory *m) {
  m->total = ((unsigned long)d == 1 ? 11264ULL : 24564ULL) << 20; m->free = m->total; m->used = 0; return 0; }
ret nvmlDeviceGetCudaComputeCapability(dev d, int *a, int *b) {
  *a = (unsigned long)d == 1 ? 6 : 8; *b = (unsigned long)d == 1 ? 1 : 9; return 0; }
"""
LOOK = """
import json
from fromzero.machine.detect import this_card, this_machine
from fromzero.records import to_json
machine = this_machine()
print(json.dumps({"machine": to_json(machine), "card": this_card().title if machine.gpus else ""}))
"""


def _with_nvml(folder, broken):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    (folder / "nvml.c").write_text(NVML.replace("BROKEN", str(broken)))
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_two_cards_through_nvml(tmp_path):
    seen = _with_nvml(tmp_path, broken=0)
    assert seen["machine"]["driver"] == "535.183.01"
    assert seen["machine"]["nvml"] == ""
    assert [(gpu["name"], gpu["capability"]) for gpu in seen["machine"]["gpus"]] == [
        ("NVIDIA GeForce GTX 1080 Ti", "6.1"),
        ("NVIDIA GeForce RTX 4090", "8.9"),
    ]
    assert seen["card"] == "NVIDIA GeForce GTX 1080 Ti"


@pytest.mark.parametrize(("number", "word"), [(18, "mismatch"), (9, "no driver")])
def test_nvml_that_does_not_answer_is_named(tmp_path, number, word):
    machine = _with_nvml(tmp_path, broken=number)["machine"]
    assert (machine["nvml"], machine["gpus"], machine["driver"]) == (word, [], "")


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
